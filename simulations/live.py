"""The live display of one run: curve, SNR, round and time left, whether it is in this process or another's."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from laser_fl.callbacks import Callback, Metrics
from laser_fl.data.metrics import scored
from laser_fl.errors import LaserError
from laser_fl.federated.server import Server
from laser_fl.storage.files import METRICS
from simulations.chart import Series, chart, sparkline
from simulations.look import quantity, style_of
from simulations.run_result import rows_of

REFRESHES = 4  # per second
RECENT = 20  # rounds over which pace and SNR are taken
HEIGHT, WIDTH = 10, 100  # of the chart, at most
BESIDE = 5  # lines around the chart, the cursor's own among them
LEAST = 24  # characters of a chart that is worth it


@dataclass(frozen=True)
class Progress:
    """The progress of a run.

    label: its strategy. round, rounds: done, and in all; None where the length is not known yet.
    evaluations: so far. snrs: of its last rounds, in dB. seconds: that its last rounds took.
    """

    label: str
    round: int
    rounds: int | None
    evaluations: Sequence[Metrics] = ()
    snrs: Sequence[float] = ()
    seconds: Sequence[float] = ()

    @property
    def time_left(self) -> float | None:
        """Seconds that the rounds to come will take at the pace of the last ones; None where that is not known."""
        if self.rounds is None or not self.seconds:
            return None
        return (self.rounds - self.round) * sum(self.seconds) / len(self.seconds)


class LiveRun(Callback):
    """Callback that keeps the progress of a run in this process."""

    def __init__(self, label: str) -> None:
        """label: the run's name."""
        self._label = label
        self._server: Server | None = None
        self._evaluations: list[Metrics] = []
        self._seconds: list[float] = []

    def on_begin(self, server: Server) -> None:
        """Begin, with the evaluations before where the run goes on."""
        self._server = server
        rows = rows_of(server.folder / METRICS) if server.round and server.folder else []
        self._evaluations = [Metrics.parse(row) for row in rows]

    def on_round(self, server: Server, seconds: float) -> None:
        """Keep the round's duration."""
        self._seconds = [*self._seconds[1 - RECENT :], seconds]

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Keep an evaluation."""
        self._evaluations.append(metrics)

    def progress(self) -> Progress | None:
        """Return the progress; None before the run has begun."""
        if self._server is None:
            return None
        snrs = [record.snr_db for record in self._server.ledger[-RECENT:]]
        rounds = self._server.schedule.rounds
        return Progress(self._label, self._server.round, rounds, tuple(self._evaluations), snrs, tuple(self._seconds))


class LiveDisplay:
    """Display on a terminal, which redraws itself from a source of progress. A context manager.

    The last picture stays.
    """

    def __init__(self, console: Console, source: Callable[[], Progress | None]) -> None:
        """Prepare it.

        Args:
            console: of the terminal.
            source: returns the progress at the moment; None: not begun.
        """
        self._console, self._source = console, source
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=REFRESHES)

    def __enter__(self) -> "LiveDisplay":
        self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def note(self, line: str) -> None:
        """Print a line above the picture."""
        self._console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)

    def _picture(self) -> RenderableType:
        try:
            progress = self._source()
        except LaserError as error:  # a damaged file: the run itself will say more
            return Text(str(error))
        if progress is None:
            return Text("starting")
        plain = not self._console.encoding.lower().startswith("utf")
        height = max(2, min(HEIGHT, self._console.height - BESIDE))
        return Group(*picture(progress, min(WIDTH, self._console.width), height, plain))


def picture(progress: Progress, width: int, height: int, plain: bool = False) -> list[Text]:
    """Draw a run's progress.

    Args:
        progress: of the run.
        width: of a line, in characters; where there is little of it, the chart is left out.
        height: of the chart, in lines.
        plain: True for ASCII.
    """
    lines = _curves(progress, width, height, plain) if progress.evaluations and width >= LEAST else []
    lines.append(Text(_pace(progress), no_wrap=False))
    if snr := _snr(progress.snrs, plain):
        lines.append(Text(snr))
    return lines


def _curves(progress: Progress, width: int, height: int, plain: bool) -> list[Text]:
    """Draw the score of the averaged weights, and fainter that of the current ones."""
    last = progress.evaluations[-1]
    name = scored(last.test)[0]
    it, colour = quantity(f"test_{name}"), style_of(progress.label).colour
    rounds = [metrics.round for metrics in progress.evaluations]
    current = Series(rounds, [metrics.test[name] for metrics in progress.evaluations], f"{colour} dim", ".")
    averaged = Series(rounds, [metrics.ema_test[name] for metrics in progress.evaluations], f"{colour} bold", "o")
    words = Text.assemble(
        (progress.label, "bold"),
        f"  {it.name} {it.shown(current.ys[-1])}, ",
        (f"{it.shown(averaged.ys[-1])} with averaged weights", averaged.style),
    )
    right = progress.rounds or rounds[-1]
    return [words, *chart([current, averaged], right, width, height, it.shown, plain)]


def _pace(progress: Progress) -> str:
    """Return round, pace and time left."""
    words = [f"round {progress.round:,}" + (f"/{progress.rounds:,}" if progress.rounds else "")]
    if total := sum(progress.seconds):
        words.append(f"{len(progress.seconds) / total:.3g} rounds/s")
    if progress.time_left is not None:
        words.append(f"{timedelta(seconds=round(progress.time_left))} left")
    return "  ".join(words)


def _snr(snrs: Sequence[float], plain: bool) -> str:
    """Return the SNR of the last rounds; nothing where none has one."""
    known = [snr for snr in snrs if math.isfinite(snr)]
    if not known:
        return "SNR: no noise" if any(snr == math.inf for snr in snrs) else ""
    return f"SNR {known[-1]:.1f} dB  {sparkline(known, RECENT, plain)}  last {len(known)} rounds"
