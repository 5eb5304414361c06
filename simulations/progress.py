"""The display of runs in progress: a bar each on a terminal, a few plain lines elsewhere."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from laser_fl.callbacks import Callback, Metrics
from laser_fl.federated.server import Server

if TYPE_CHECKING:
    from simulations.sweep import Run

MOST_LINES = 10  # per run, where there is no terminal
BAR = 20


@dataclass(frozen=True)
class Report:
    """The progress of a run. line: of an evaluation that just ended, else empty. warning: for the user, or empty."""

    label: str
    round: int
    rounds: int
    rounds_per_second: float
    state: str
    line: str
    warning: str = ""


class Reporter(Callback):
    """Callback that turns a run into reports, wherever these are shown."""

    def __init__(self, label: str, post: Callable[[Report], None]) -> None:
        """label: the run's name. post: called with each report."""
        self._label = label
        self._post = post
        self._rounds = 0
        self._seconds = 0.0
        self._state = ""

    def on_begin(self, server: Server) -> None:
        """Report the schedule's notice on the run's length, where it has one."""
        if notice := server.schedule.notice:
            self._post(Report(self._label, server.round, server.schedule.rounds, 0.0, "", "", notice))

    def on_round(self, server: Server, seconds: float) -> None:
        """Report a round, and the clients that were left out of it."""
        self._rounds += 1
        self._seconds += seconds
        self._report(server, "", server.warning)

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Report loss and scores."""
        scores = "  ".join(f"{name} {value:.3f}" for name, value in metrics.test.items() if name != "loss")
        loss = "" if metrics.train_loss is None else f"train loss {metrics.train_loss:.3f}  "
        self._state = loss + scores
        self._report(server, metrics.line(server.schedule.rounds))

    def _report(self, server: Server, line: str, warning: str = "") -> None:
        pace = self._rounds / self._seconds  # over the rounds since the run began, or went on
        self._post(Report(self._label, server.round, server.schedule.rounds, pace, self._state, line, warning))


class SweepDisplay:
    """Display of a sweep's progress: one bar over all runs, or a line as each ends. A context manager."""

    def __init__(self, console: Console, runs: "Sequence[Run]", quiet: bool = False) -> None:
        """Prepare the bar.

        Args:
            console: for the output; a bar needs a terminal.
            runs: of the sweep.
            quiet: show nothing but failures.
        """
        self._console = console
        self._quiet = quiet
        done = sum(run.summary is not None for run in runs)
        bar, left = BarColumn(bar_width=BAR), TimeRemainingColumn()
        self._bar = Progress(TextColumn("{task.description}"), bar, MofNCompleteColumn(), left, console=console)
        self._task = self._bar.add_task("runs", total=len(runs), completed=done)

    def __enter__(self) -> "SweepDisplay":
        if self._console.is_terminal and not self._quiet:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar.live.is_started:  # else it would print an empty line
            self._bar.stop()

    def show(self, run: "Run", reason: str) -> None:
        """Show that a run has ended, or failed for `reason`."""
        self._bar.advance(self._task)
        if reason or not (self._quiet or self._console.is_terminal):
            self._print(f"{run.label}  {'failed: ' + reason if reason else 'completed'}")

    def note(self, run: "Run", notice: str) -> None:
        """Show a notice on a run before it starts."""
        if not self._quiet:
            self._print(f"{run.label}  {notice}")

    def _print(self, line: str) -> None:
        self._console.print(line, highlight=False, soft_wrap=True, markup=False)


class Display:
    """Display of reports: bars with round, loss, score, rounds/s and time left, or at most ten lines per run.

    A context manager. quiet: shows nothing.
    """

    def __init__(self, console: Console, quiet: bool = False) -> None:
        """console: for the output; bars need a terminal."""
        self._console = console
        self._quiet = quiet
        self._bars = Progress(*_columns(console.width), console=console)
        self._tasks: dict[str, TaskID] = {}
        self._tenths: dict[str, int] = {}  # per run, the last tenth that was shown

    def __enter__(self) -> "Display":
        if self._console.is_terminal and not self._quiet:
            self._bars.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bars.live.is_started:  # else it would print an empty line
            self._bars.stop()

    def show(self, report: Report) -> None:
        """Show a report."""
        if self._quiet:
            return
        if report.warning:
            line = f"{report.label}  {report.warning}"
            self._console.print(line, style="yellow", highlight=False, soft_wrap=True, markup=False)
        if self._console.is_terminal:
            if report.label not in self._tasks:
                self._tasks[report.label] = self._bars.add_task(report.label, state="", pace="")
            pace = f"{report.rounds_per_second:.0f} rounds/s"
            task = self._tasks[report.label]
            self._bars.update(task, completed=report.round, total=report.rounds, state=report.state, pace=pace)
        elif report.line and (tenth := report.round * MOST_LINES // report.rounds) > self._tenths.get(report.label, 0):
            self._tenths[report.label] = tenth
            line = f"{report.label}  {report.line}"
            self._console.print(line, highlight=False, soft_wrap=True, markup=False)


def _columns(width: int) -> list[ProgressColumn]:
    """Return the columns that a terminal has room for; the less important are left out, none is cut."""
    label, state, pace = (TextColumn(f"{{task.{field}}}") for field in ("description", "fields[state]", "fields[pace]"))
    bar, done, left = BarColumn(bar_width=BAR), MofNCompleteColumn(), TimeRemainingColumn()
    shown: list[ProgressColumn] = [label, done]
    room = width - 15 - 12
    for column, takes in ((left, 8), (state, 37), (pace, 16), (bar, BAR + 1)):
        if (room := room - takes) < 0:
            break
        shown.append(column)
    return sorted(shown, key=[label, bar, done, state, pace, left].index)
