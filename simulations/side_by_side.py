"""Several runs at once, one per process, as many as the cores allow."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.storage.files import conclude
from laser_fl.storage.run_folder import refuse_used
from simulations.engines import in_process
from simulations.progress import Report, Reporter
from simulations.signals import end_with_parent, ending_on_signals
from simulations.sweep import refuse_wrong

GRACE_SECONDS = 10  # for a run that is interrupted, to write its results so far

Work = Callable[[str, RunConfig, Callable[[Report], None]], dict[str, Any]]


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run. summary: as in summary.json; empty where the run failed with `reason`."""

    folder: Path
    summary: Mapping[str, Any]
    reason: str = ""


def run_all(runs: Mapping[str, RunConfig], show: Callable[[Report], None]) -> dict[str, Outcome]:
    """Run every config into its out-dir, in this machine's processes; show: called with all reports.

    A run that fails, or whose process dies, does not disturb the others. Where all are interrupted, the summaries of
    those that have begun record it, and the others leave no folder.

    Raises:
        ConfigError, DataError, OSError: a run cannot start; none has then.
    """
    for config in runs.values():
        refuse_used(Path(config.out_dir))
    refuse_wrong(list(runs.values()))
    for config in runs.values():  # else each would fail by itself
        Path(config.out_dir).parent.mkdir(parents=True, exist_ok=True)
    threads = max(config.threads or cores() for config in runs.values())
    waiting = list(runs.items())  # run from its end: the last runs tend to be the longest, and pack best when first
    outcomes: dict[str, Outcome] = {}
    with ending_on_signals():
        lanes = [Lane() for _ in range(max(1, min(len(runs), cores() // threads)))]
        try:
            while len(outcomes) < len(runs):
                for lane in lanes:
                    if not lane.label and waiting:
                        lane.begin(*waiting.pop())
                for label, received in listen(lanes):
                    if isinstance(received, Outcome):
                        outcomes[label] = received
                    else:
                        show(received)
        except BaseException:
            interrupt(lanes)
            raise
        finally:
            for lane in lanes:
                lane.close()
    return {label: outcomes[label] for label in runs}


class Lane:
    """A process that carries out one run after the other; where it dies, another takes its place.

    label, folder: of the current run; no label: there is none. pipe: to the process, and back.
    """

    def __init__(self) -> None:
        self.label, self.folder = "", Path()
        self._start()

    def begin(self, label: str, config: RunConfig) -> None:
        """Send a run to the process."""
        self.label, self.folder = label, Path(config.out_dir)
        if not self.process.is_alive():
            self._start()
        with suppress(OSError):  # it died just now; `receive` returns that
            self.pipe.send((label, config))

    def receive(self) -> Report | Outcome:
        """Wait for the next message of the process: a report, or the outcome, which is a failure where it dies."""
        try:
            message: Report | Outcome = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            reason = f"its process ended with status {self.process.exitcode}"
            conclude(self.folder, "in-process", "failed", reason)
            message = Outcome(self.folder, {}, reason)
        if isinstance(message, Outcome):
            self.label = ""
        return message

    def close(self) -> None:
        """End the process, where it has no run."""
        self.pipe.close()
        self.process.join(GRACE_SECONDS)

    def _start(self) -> None:
        spawn = multiprocessing.get_context("spawn")
        self.pipe, theirs = spawn.Pipe()
        self.process = spawn.Process(target=_work, args=(_run, theirs), daemon=True)
        self.process.start()
        theirs.close()


def listen(lanes: Sequence[Lane]) -> list[tuple[str, Report | Outcome]]:
    """Wait for messages of current runs; return them with their labels."""
    ready = wait([lane.pipe for lane in lanes if lane.label])
    return [(lane.label, lane.receive()) for lane in lanes if lane.pipe in ready]


def interrupt(lanes: Sequence[Lane]) -> None:
    """Interrupt the runs as Ctrl-C would; kill those that do not end."""
    for lane in lanes:
        lane.process.terminate()
    deadline = time.monotonic() + GRACE_SECONDS
    for lane in lanes:
        lane.process.join(max(0.0, deadline - time.monotonic()))
        lane.process.kill()
        lane.process.join()  # its locks are free then
        if lane.label:
            conclude(lane.folder, "in-process", "interrupted", "it did not end by itself")


def _work(run: Work, pipe: "Connection[Any, Any]") -> None:
    """Carry out the runs that come through the pipe, until it is closed or the command ends the runs."""
    end_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the command decides
    with suppress(KeyboardInterrupt, SystemExit, EOFError, OSError), ending_on_signals():
        while True:
            label, config = pipe.recv()
            pipe.send(_carry_out(run, label, config, pipe.send))


def _carry_out(run: Work, label: str, config: RunConfig, post: Callable[[Report], None]) -> Outcome:
    try:
        return Outcome(Path(config.out_dir), run(label, config, post))
    except Exception as error:
        return Outcome(Path(config.out_dir), {}, str(error) or type(error).__name__)


def _run(label: str, config: RunConfig, post: Callable[[Report], None]) -> dict[str, Any]:
    return in_process.run(config, Path(config.out_dir), [Reporter(label, post)])


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
