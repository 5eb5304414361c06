"""Folders for shared memory: in a file system of memory, or among temporary files. They need no PyTorch.

The owner of a shared memory has a file in it locked; one whose file is not locked is of a process that is no more.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

IN_MEMORY = Path("/dev/shm")  # a file system of memory, where there is one
PREFIX, LOCK = "laser-fl-", "taken"  # a shared memory's name, and the file in it that its owner has locked


def places() -> list[Path]:
    """Return the folders of this machine in which shared memory may lie, the best first."""
    return [folder for folder in (IN_MEMORY, Path(tempfile.gettempdir())) if folder.is_dir()]


def clear_left() -> None:
    """Remove the shared memory that processes left behind when they were killed."""
    for lock in (file for folder in places() for file in folder.glob(f"{PREFIX}*/{LOCK}")):
        with suppress(OSError, Timeout, NotImplementedError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent)
