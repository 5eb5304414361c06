"""Where boards lie: folders of tensors in memory, or among temporary files. It needs no PyTorch.

A board's owner holds a file in it locked; a board whose file is not locked is of a process that is no more.
"""

import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

IN_MEMORY = Path("/dev/shm")  # a file system of memory, where there is one
PREFIX, TAKEN = "laser-fl-", "taken"  # a board's name, and the file in it that its owner holds locked


def places() -> list[Path]:
    """Folders for boards, the best first; those that this machine has."""
    return [folder for folder in (IN_MEMORY, Path(tempfile.gettempdir())) if folder.is_dir()]


def clear_left() -> None:
    """Remove the boards that processes left behind when they were killed."""
    for taken in (file for folder in places() for file in folder.glob(f"{PREFIX}*/{TAKEN}")):
        with suppress(OSError, Timeout, NotImplementedError), FileLock(taken, timeout=0):
            shutil.rmtree(taken.parent)
