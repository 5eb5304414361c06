"""Folders for shared memory: in a file system of memory, or among temporary files. They need no PyTorch.

The owner of a shared memory has a file in it locked; one whose file is not locked is of a process that is no more.
"""

import os
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

IN_MEMORY = Path("/dev/shm")  # a file system of memory, where there is one
PREFIX, LOCK = "laser-fl-", "taken"  # a shared memory's name, and the file in it that its owner has locked


def places() -> list[Path]:
    """Return the folders of this machine in which shared memory may lie, the best first."""
    return [folder for folder in (IN_MEMORY, Path(tempfile.gettempdir())) if folder.is_dir()]


def is_shared_memory(folder: Path) -> bool:
    """Return True where `folder` is a shared memory of this user, which nobody else may enter."""
    with suppress(OSError, ValueError):
        status = os.lstat(folder)
        private = stat.S_ISDIR(status.st_mode) and status.st_mode & 0o077 == 0
        own = not hasattr(os, "geteuid") or status.st_uid == os.geteuid()
        return private and own and stat.S_ISREG(os.lstat(folder / LOCK).st_mode)
    return False


def clear_left() -> None:
    """Remove the shared memory that processes left behind when they were killed."""
    for lock in (file for folder in places() for file in folder.glob(f"{PREFIX}*/{LOCK}")):
        with suppress(OSError, Timeout, NotImplementedError), FileLock(lock, timeout=0):
            shutil.rmtree(lock.parent)
