"""Tensors in files that all processes of a host map into their memory: what is large is shared, not shipped.

A `Board` is a folder of such files with a name that nobody can guess; who can open it is on the same host as its
owner. Files are mapped, not read: what one process writes, the others see.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

import torch

from laser_fl.blocks import Tensors

ALIGNMENT = 64  # bytes; a processor's cache line
IN_MEMORY = Path("/dev/shm")  # a file system of memory, where there is one


@dataclass(frozen=True)
class Slot:
    """Where tensors lie: a file, and their names, shapes and types in it, in order."""

    path: str
    layout: tuple[tuple[str, tuple[int, ...], str], ...]

    @classmethod
    def fitting(cls, path: Path, tensors: Tensors) -> "Slot":
        """A place in the file `path` for tensors like these."""
        parts = ((name, tuple(t.shape), str(t.dtype).removeprefix("torch.")) for name, t in tensors.items())
        return cls(str(path), tuple(parts))

    @classmethod
    def parse(cls, text: str) -> "Slot":
        """Undo `text`."""
        path, layout = json.loads(text)
        return cls(path, tuple((name, tuple(shape), dtype) for name, shape, dtype in layout))

    @property
    def text(self) -> str:
        """To be sent to another process."""
        return json.dumps((self.path, self.layout))

    def map(self) -> Tensors:
        """The tensors: what is in the file, both ways. Raises FileNotFoundError without it."""
        return dict(_map(self, Path(self.path).stat().st_ino))

    def reserve(self) -> None:
        """Make the file long enough, or make it, of zeros; what is in it stays.

        PyTorch would lengthen it, too, but zeroes its first byte when it does.
        """
        with Path(self.path).open("ab") as file:
            if file.tell() < self._end:
                file.truncate(self._end)

    @property
    def _end(self) -> int:
        return sum(_room(shape, dtype) for _, shape, dtype in self.layout)


@lru_cache(maxsize=64)  # a process that maps a file again has its pages already
def _map(slot: Slot, inode: int) -> Tensors:
    size = slot._end
    data = torch.from_file(slot.path, shared=True, size=size, dtype=torch.uint8) if size else torch.empty(0)
    tensors, start = {}, 0
    for name, shape, dtype in slot.layout:
        kind = _dtype(dtype)
        tensors[name] = data[start : start + prod(shape) * kind.itemsize].view(kind).view(shape)
        start += _room(shape, dtype)
    return tensors


def _room(shape: tuple[int, ...], dtype: str) -> int:
    return -(-prod(shape) * _dtype(dtype).itemsize // ALIGNMENT) * ALIGNMENT


def _dtype(name: str) -> torch.dtype:
    dtype: Any = getattr(torch, name)
    assert isinstance(dtype, torch.dtype)
    return dtype


class Board:
    """A folder of mapped files that its owner opens and closes."""

    def __init__(self, size: int) -> None:
        """size: bytes that will be written, about; where there is no room for them in memory, they go to disk."""
        roomy = IN_MEMORY.is_dir() and shutil.disk_usage(IN_MEMORY).free > 2 * size
        self._folder = tempfile.TemporaryDirectory(prefix="laser-fl-", dir=IN_MEMORY if roomy else None)
        self.path = Path(self._folder.name)

    def show(self, name: str, tensors: Tensors) -> Slot:
        """Write tensors into the file `name`, over what was there."""
        slot = Slot.fitting(self.path / name, tensors)
        write(slot, tensors)
        return slot

    def close(self) -> None:
        """Remove the folder; who has mapped a file keeps what he sees."""
        self._folder.cleanup()


def write(slot: Slot, tensors: Tensors) -> None:
    """Write tensors into the slot's file, which is made where there is none; nothing where they are the file's."""
    slot.reserve()
    mapped = slot.map()
    for name, tensor in tensors.items():
        if mapped[name].data_ptr() != tensor.data_ptr():
            mapped[name].copy_(tensor)
