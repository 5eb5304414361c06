"""Watch the folder of a run that another process works on, or worked on: its tables as they grow, and its end."""

import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from laser_fl.callbacks import Metrics
from laser_fl.errors import ConfigError, DataError, LaserError, reason_of
from laser_fl.storage.files import CONFIG, LEDGER, METRICS, TIMING, refuse_in_use
from simulations.live import RECENT, Progress
from simulations.run_result import next_steps, read_config, read_summary, rows_of

TABLES = (METRICS, LEDGER, TIMING)


class FolderReader:
    """Reader of a run's progress from its folder; what has not changed is not read again."""

    def __init__(self, folder: Path) -> None:
        """folder: of the run, which need not be there yet."""
        self.folder = folder
        self._seen: tuple[Any, ...] = ()
        self._progress: Progress | None = None

    def progress(self) -> Progress | None:
        """Return the progress as far as it is written; None where the run has not begun. Raises DataError."""
        seen = tuple(_signature(self.folder / name) for name in (CONFIG, *TABLES))
        if seen != self._seen:
            config = read_config(self.folder)
            self._progress = None if config is None else _progress(self.folder, config)
            self._seen = seen
        return self._progress


def follow(folder: Path, pause: Callable[[], object]) -> Iterator[Progress]:
    """Yield the progress of a run now, and whenever more of it is written, until it has ended.

    Args:
        folder: of the run.
        pause: called while there is nothing new.

    Raises:
        ConfigError: it is not the folder of a run.
        DataError: a file of it is damaged.
        LaserError: the run was killed.
    """
    reader, before = FolderReader(folder), None
    if reader.progress() is None:
        raise ConfigError(f"DIR: must be the folder of a run ({CONFIG} is missing), got {str(folder)!r}")
    while True:
        ended = read_summary(folder) is not None or not _is_worked_on(folder)  # before its tables are read a last time
        progress = reader.progress()
        if progress is not None and progress is not before:
            yield progress
            before = progress
        if ended:
            break
        pause()
    if read_summary(folder) is None:
        raise LaserError(_killed(folder, before))


def _is_worked_on(folder: Path) -> bool:
    """Return True where a process holds the folder's lock, and where that cannot be found out."""
    try:
        refuse_in_use(folder)
    except (ConfigError, OSError):
        return True
    return False


def _killed(folder: Path, progress: Progress | None) -> str:
    """Return a line on a run without a summary on which no process works."""
    last = progress.round if progress else 0
    steps = "; ".join(next_steps(folder, {"status": "killed"}))
    more = f"; {steps} goes on from its last checkpoint" if steps else ""
    return f"{shlex.quote(str(folder))}: was killed, its records end with round {last:,}{more}"


def _progress(folder: Path, config: dict[str, Any]) -> Progress:
    metrics, ledger, timing = (rows_of(folder / name) for name in TABLES)
    try:
        evaluations = [Metrics.parse(row) for row in metrics]
        snrs = [float(row["snr_db"]) for row in ledger[-RECENT:]]
        seconds = [float(row["seconds"]) for row in timing[-RECENT:]]
        round = max([int(timing[-1]["round"]) if timing else 0, *(one.round for one in evaluations[-1:])])
        rounds = int(config["rounds"]) or _rounds_of(int(config["epochs"]), evaluations)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{folder}: must have the tables of a run ({reason_of(error)})") from None
    return Progress(str(config["strategy"]), round, rounds, evaluations, snrs, seconds)


def _rounds_of(epochs: int, evaluations: list[Metrics]) -> int | None:
    """Return the rounds of so many epochs, as an evaluation shows their length; None before there is one."""
    for one in evaluations[-1:]:
        return round(epochs * one.round / one.epoch)
    return None


def _signature(path: Path) -> tuple[int, int, int]:
    """Return numbers that change with a file."""
    try:
        stat = path.stat()
    except OSError:
        return (0, 0, 0)
    return (stat.st_size, stat.st_mtime_ns, stat.st_ino)
