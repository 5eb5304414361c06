"""The files in a run's folder: their names, and functions that write and read them whole."""

import json
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

from laser_fl.errors import ConfigError, StorageError, reason_of

CONFIG, METRICS, LEDGER, TIMING = "config.json", "metrics.csv", "ledger.csv", "timing.csv"
SUMMARY, WEIGHTS, BEST = "summary.json", "weights.safetensors", "best.safetensors"
COMPARISON = "comparison.csv"  # beside the folders of several runs
ENVIRONMENT, SPECTRUM, CHECKPOINTS = "environment.json", "spectrum.csv", "checkpoints"
LOCK = ".lock"


def folder_name(part: str) -> str:
    """Return the name of a part as a folder's: without the colon of ``module:object``."""
    return part.replace(":", ".")


def write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a killed run never leaves half of one. Raises StorageError."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({reason_of(error)})") from None


def whole_lines(path: Path) -> str:
    """Read a file that grows by lines, without a last line that a killed run left incomplete. Raises OSError."""
    text = path.read_bytes().decode()
    return text[: text.rfind("\n") + 1]


def lock(folder: Path) -> FileLock:
    """Keep other processes from writing into a run's folder. Raises ConfigError where one does."""
    acquired = FileLock(folder / LOCK)
    try:
        acquired.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"out-dir: must not be in use by a run, got {str(folder)!r}") from None
    return acquired


def unlock(folder: Path, acquired: FileLock) -> None:
    """Release the lock of a run's folder, and remove its file."""
    acquired.release()
    with suppress(OSError):
        (folder / LOCK).unlink(missing_ok=True)


def refuse_in_use(folder: Path) -> None:
    """Raise ConfigError where another process works on a run: a killed command may leave one."""
    unlock(folder, lock(folder))


def conclude(folder: Path, engine: str, status: str, reason: str) -> None:
    """Write the summary of a run that has begun, and whose process could not write it.

    A run on which another process works is left to that process; a summary that exists is left as it is.

    Args:
        folder: of the run.
        engine: name of the engine.
        status: failed or interrupted.
        reason: one line.

    Raises:
        StorageError: the summary cannot be written.
    """
    if not (folder / CONFIG).is_file():
        return
    try:
        acquired = lock(folder)
    except ConfigError:
        return
    try:
        if not (folder / SUMMARY).is_file():
            summary = {"status": status, "reason": reason, "engine": engine}
            write_whole(folder / SUMMARY, f"{json.dumps(summary, indent=2)}\n".encode())
    finally:
        unlock(folder, acquired)
