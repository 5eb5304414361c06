"""Several runs at once, one per process, as many as there are cores for."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from queue import Empty
from typing import Any, Protocol, runtime_checkable

from laser_fl.config import RunConfig
from laser_fl.files import CONFIG, SUMMARY
from laser_fl.run_folder import refuse_used
from simulations.engines import in_process
from simulations.progress import Report, Reporter
from simulations.signals import ending_on_signals
from simulations.sweep import refuse_wrong

REFRESH_SECONDS = 0.1
GRACE_SECONDS = 10  # for a run that is interrupted to write what there is of it


@dataclass(frozen=True)
class Outcome:
    """One run. summary: as in summary.json; empty where the run failed with `reason`."""

    folder: Path
    summary: Mapping[str, Any]
    reason: str = ""


@runtime_checkable
class Mailbox(Protocol):
    """A queue between processes."""

    def put(self, report: Report) -> None:
        """Send."""

    def get_nowait(self) -> Report:
        """Receive, or raise `queue.Empty`."""


def run_all(runs: Mapping[str, RunConfig], show: Callable[[Report], None]) -> dict[str, Outcome]:
    """Run every config into its out-dir, in this machine's processes; show: is given all reports.

    A run that fails, or whose process dies, leaves the others alone. Where all are interrupted, those that have begun
    leave a summary that says so, and the others no folder.

    Raises:
        ConfigError, DataError: a run cannot start; none has then.
    """
    for config in runs.values():
        refuse_used(Path(config.out_dir))
    refuse_wrong(list(runs.values()))
    threads = max(config.threads or cores() for config in runs.values())
    workers = max(1, min(len(runs), cores() // threads))
    spawn = multiprocessing.get_context("spawn")
    with ending_on_signals(), spawn.Manager() as manager:
        reports: Mailbox = manager.Queue()
        others = set(multiprocessing.active_children())
        lanes = Lanes(workers)
        waiting = list(runs.items())  # taken from its end: what is listed last tends to take longest, and packs best
        outcomes = {}
        try:
            while waiting or lanes.busy:
                while waiting and lanes.free:
                    label, config = waiting.pop()
                    lanes.submit(label, config, reports)
                for label, future in lanes.wait(REFRESH_SECONDS):
                    outcomes[label] = _outcome(future, Path(runs[label].out_dir))
                _drain(reports, show)
            return {label: outcomes[label] for label in runs}
        except BaseException:
            _interrupt(set(multiprocessing.active_children()) - others, lanes)
            for label, _ in lanes.busy.values():
                _conclude(Path(runs[label].out_dir), "interrupted", "it did not end by itself")
            raise
        finally:
            lanes.close()


class Lanes:
    """Pools of one process each, so that none has two runs to begin, and one that dies takes no other along.

    busy: runs that were begun, each with its pool. free: pools without one.
    """

    def __init__(self, count: int) -> None:
        self.busy: dict[Future[dict[str, Any]], tuple[str, ProcessPoolExecutor]] = {}
        self.free = [_pool() for _ in range(count)]

    def submit(self, label: str, config: RunConfig, reports: Mailbox) -> None:
        """Begin a run in a free pool."""
        pool = self.free.pop()
        self.busy[pool.submit(_run, label, config, reports)] = label, pool

    def wait(self, seconds: float) -> "list[tuple[str, Future[dict[str, Any]]]]":
        """The runs that end within so many seconds; a new pool replaces one whose process died."""
        done = wait(self.busy, seconds, FIRST_COMPLETED).done
        ended = []
        for future in done:
            label, pool = self.busy.pop(future)
            self.free.append(_pool() if isinstance(future.exception(), BrokenProcessPool) else pool)
            ended.append((label, future))
        return ended

    def close(self) -> None:
        """End all processes."""
        for pool in (*self.free, *(pool for _, pool in self.busy.values())):
            pool.shutdown(cancel_futures=True)


def _pool() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _leave_interrupting_to_the_command)


def _leave_interrupting_to_the_command() -> None:
    """Ctrl-C reaches all processes of a terminal; the command ends the runs."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _run(label: str, config: RunConfig, reports: Mailbox) -> dict[str, Any]:
    with ending_on_signals():
        return in_process.run(config, Path(config.out_dir), [Reporter(label, reports.put)])


def _interrupt(workers: set[BaseProcess], lanes: Lanes) -> None:
    """Let runs end as Ctrl-C would end them, and by force those that do not."""
    for worker in workers:
        worker.terminate()
    wait(lanes.busy, GRACE_SECONDS)
    for worker in workers:
        worker.kill()


def _outcome(future: "Future[dict[str, Any]]", folder: Path) -> Outcome:
    error = future.exception()
    if error is None:
        return Outcome(folder, future.result())
    reason = str(error) or type(error).__name__
    _conclude(folder, "failed", reason)
    return Outcome(folder, {}, reason)


def _conclude(folder: Path, status: str, reason: str) -> None:
    """Write the summary of a run whose process had no time to."""
    if (folder / CONFIG).is_file() and not (folder / SUMMARY).is_file():
        part = folder / f".{SUMMARY}.part"
        part.write_text(json.dumps({"status": status, "reason": reason, "engine": "in-process"}, indent=2) + "\n")
        part.replace(folder / SUMMARY)


def _drain(reports: Mailbox, show: Callable[[Report], None]) -> None:
    while True:
        try:
            show(reports.get_nowait())
        except Empty:
            return


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
