"""Several runs at once, one per process, as many as there are cores for."""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing.context import SpawnContext
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Empty
from typing import Any, Protocol, runtime_checkable

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, DataError
from laser_fl.run_folder import refuse_used
from simulations.engines import in_process
from simulations.progress import Report, Reporter
from simulations.signals import end_with_parent, ending_on_signals
from simulations.sweep import refuse_wrong

REFRESH_SECONDS = 0.1


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

    A run that fails, or whose process dies, leaves the others alone.

    Raises:
        ConfigError, DataError: a run cannot start; none has then.
    """
    for config in runs.values():
        refuse_used(Path(config.out_dir))
    refuse_wrong(list(runs.values()))
    threads = max(config.threads or cores() for config in runs.values())
    workers = max(1, min(len(runs), cores() // threads))
    spawn = multiprocessing.get_context("spawn")
    with ending_on_signals(), _manager(spawn) as manager:
        reports: Mailbox = manager.Queue()
        others = set(multiprocessing.active_children())
        pool = ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent)
        try:
            backwards = reversed(list(runs.items()))  # what is listed last tends to take longest, and packs best first
            futures = {label: pool.submit(_run, label, config, reports) for label, config in backwards}
            unfinished = set(futures.values())
            while unfinished:
                _, unfinished = wait(unfinished, REFRESH_SECONDS, FIRST_COMPLETED)
                _drain(reports, show)
            return {label: _outcome(futures[label], Path(config.out_dir)) for label, config in runs.items()}
        except BaseException:
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


def _manager(context: SpawnContext) -> SyncManager:
    manager = SyncManager(ctx=context)
    manager.start(end_with_parent)
    return manager


def _run(label: str, config: RunConfig, reports: Mailbox) -> dict[str, Any]:
    return in_process.run(config, Path(config.out_dir), [Reporter(label, reports.put)])


def _outcome(future: "Future[dict[str, Any]]", folder: Path) -> Outcome:
    try:
        return Outcome(folder, future.result())
    except (ConfigError, DataError):
        raise
    except Exception as error:
        return Outcome(folder, {}, str(error) or type(error).__name__)


def _drain(reports: Mailbox, show: Callable[[Report], None]) -> None:
    while True:
        try:
            show(reports.get_nowait())
        except Empty:
            return


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
