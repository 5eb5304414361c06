"""Tensors in files that all processes of a host map into their memory: large tensors are shared, not shipped.

A `SharedMemory` is a folder of such files with a name that nobody can guess. Files are mapped, not read: if one
process writes, the others see it. They are found on their own host only, even where hosts share a file system.
"""

import json
import os
import platform
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from math import prod
from pathlib import Path
from typing import Annotated

import torch
from filelock import FileLock
from pydantic import ConfigDict, Field, TypeAdapter

from laser_fl.blocks import Tensors
from laser_fl.errors import LaserError, brief
from laser_fl.transport.shared_folders import LOCK, PREFIX, clear_left, places

try:
    import fcntl
except ModuleNotFoundError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

ALIGNMENT = 64  # bytes; a processor's cache line
BOOT = Path("/proc/sys/kernel/random/boot_id")
TYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float64, torch.int64, torch.bfloat16)}
HANDLES = 1024  # that a process keeps: it meets the same ones in every round
KEPT_CHARACTERS = 2**16  # of a handle's text at most; the strangers' longer ones are forgotten

Layout = tuple[tuple[str, tuple[int, ...], str], ...]

_Length = Annotated[int, Field(ge=0, lt=2**40)]
_Shape = Annotated[tuple[_Length, ...], Field(max_length=32)]
_Path = Annotated[str, Field(max_length=4096)]
_Text = TypeAdapter(tuple[str, _Path, tuple[tuple[str, _Shape, str], ...]], config=ConfigDict(strict=True))


class UnreachableError(LaserError):
    """A file of another host, of another user, or of a run that is over."""


@dataclass(frozen=True)
class TensorHandle:
    """A handle to tensors in a file: the file on its host, and their names, shapes and types in it, in order."""

    host: str
    path: str
    layout: Layout

    @classmethod
    def fitting(cls, path: Path | str, tensors: Tensors) -> "TensorHandle":
        """Make a handle to the file `path` of this host, for tensors like these."""
        parts = ((name, tuple(t.shape), _name_of(t.dtype)) for name, t in tensors.items())
        return _handle(_this_host(), str(path), tuple(parts))

    @classmethod
    def parse(cls, text: str) -> "TensorHandle":
        """Undo `text`. Raises ValueError where it is not such a text."""
        return _parsed(text) if len(text) <= KEPT_CHARACTERS else cls(*_Text.validate_json(text))

    @cached_property
    def text(self) -> str:
        """The handle as text, to be sent to another process."""
        return json.dumps((self.host, self.path, self.layout))

    @cached_property
    def folder(self) -> Path:
        """The folder of the shared memory."""
        return Path(self.path).parent

    def map(self) -> Tensors:
        """Map the tensors: a change of theirs changes the file, and the other way round.

        Only files in shared memory are looked at, whatever path the handle names.

        Raises:
            UnreachableError: this process cannot see the file, or there is less in it, or it is in no shared memory.
        """
        if self.host != _this_host():
            raise UnreachableError(f"{brief(self.path)} is on another host")
        if not self.folder.name.startswith(PREFIX):
            raise UnreachableError(f"{brief(self.path)} is in no shared memory")
        try:
            status = os.lstat(self.path)
            if not stat.S_ISREG(status.st_mode):
                raise UnreachableError(f"{brief(self.path)} is no plain file")
            if status.st_size < self._end:
                raise UnreachableError(f"{brief(self.path)} has {status.st_size} bytes, not {self._end}")
            views = _mapped(self, status.st_ino, status.st_size)
            return {name: view.detach() for name, view in views.items()}  # a caller may ask for gradients of its own
        except (OSError, RuntimeError, ValueError) as error:
            raise UnreachableError(f"{brief(self.path)} cannot be mapped: {brief(str(error))}") from None

    def reserve(self) -> None:
        """Make the file long enough, or make it, of zeros; its bytes stay.

        PyTorch would lengthen it, too, but zeroes its first byte when it does. Raises OSError where there is no room.
        """
        with Path(self.path).open("ab") as file:
            if (size := file.tell()) < self._end:
                if hasattr(os, "posix_fallocate"):  # else only the writing process would notice a full disk
                    os.posix_fallocate(file.fileno(), size, self._end - size)
                file.truncate(self._end)

    def views(self, data: torch.Tensor) -> Tensors:
        """Return the tensors in the file's bytes."""
        tensors, start = {}, 0
        for name, shape, dtype in self.layout:
            kind = TYPES[dtype]
            tensors[name] = data[start : start + prod(shape) * kind.itemsize].view(kind).view(shape)
            start += _room(shape, dtype)
        return tensors

    @cached_property
    def _end(self) -> int:
        if unknown := {dtype for _, _, dtype in self.layout} - TYPES.keys():
            raise UnreachableError(f"{brief(self.path)} has values of an unknown type, {brief(unknown.pop())}")
        return sum(_room(shape, dtype) for _, shape, dtype in self.layout)


_handle = lru_cache(maxsize=HANDLES)(TensorHandle)


@lru_cache(maxsize=HANDLES)
def _parsed(text: str) -> TensorHandle:
    return _handle(*_Text.validate_json(text))


@cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@lru_cache(maxsize=HANDLES)  # a process that maps a file again has its pages already
def _mapped(handle: TensorHandle, inode: int, size: int) -> Tensors:
    (handle.folder / LOCK).lstat()
    data = torch.from_file(handle.path, shared=True, size=size, dtype=torch.uint8) if size else torch.zeros(0).byte()
    return handle.views(data)


def _room(shape: tuple[int, ...], dtype: str) -> int:
    return -(-prod(shape) * TYPES[dtype].itemsize // ALIGNMENT) * ALIGNMENT


@cache
def _this_host() -> str:
    """Return a text that distinguishes this host, since its last start, from others."""
    return BOOT.read_text().strip() if BOOT.is_file() else platform.node()


class SharedMemory:
    """A folder of mapped files that its owner opens and closes."""

    def __init__(self, folder: Path | None) -> None:
        """Make the folder in `folder`; None: among temporary files. Raises OSError where it cannot be there."""
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self._lock = FileLock(self.path / "taking")
        try:
            self._lock.acquire()
            (self.path / "taking").rename(self.path / LOCK)  # nobody finds it before it is locked
        except BaseException:
            self.close()
            raise

    @classmethod
    def with_room(cls, size: int) -> "SharedMemory | None":
        """Make one for `size` bytes, in memory or else on disk; None where there is no room, or no such files.

        Shared memory that killed processes left behind is removed first.
        """
        clear_left()
        for folder in places():
            # It may be read-only, without locks, or on a system that renames no file in use, as Windows.
            with suppress(OSError, NotImplementedError):
                if shutil.disk_usage(folder).free > size:
                    return cls(folder)
        return None

    def publish(self, name: str, tensors: Tensors) -> TensorHandle:
        """Write tensors into the file `name`, over what was there."""
        handle = TensorHandle.fitting(self.path / name, tensors)
        write(handle, tensors)
        return handle

    def close(self) -> None:
        """Remove the folder; a process that has mapped a file goes on to see it."""
        _mapped.cache_clear()
        self._folder.cleanup()
        self._lock.release()


def is_shared_memory(folder: Path) -> bool:
    """Return True where `folder` is a shared memory that this process can see."""
    with suppress(OSError):
        return stat.S_ISREG(os.lstat(f"{folder}{os.sep}{LOCK}").st_mode)
    return False


@contextmanager
def locked(path: str) -> Iterator[None]:
    """Hold the lock of a file, which is made where there is none, and which all processes of this host see."""
    if fcntl is None:
        with FileLock(path):
            yield
        return
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)  # FileLock takes 50 times as long
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        fcntl.flock(file, fcntl.LOCK_UN)  # also for processes that were forked meanwhile and have the file open
        os.close(file)


def write(handle: TensorHandle, tensors: Tensors) -> None:
    """Write tensors into the handle's file, which is made where there is none; nothing where they are the file's.

    Raises UnreachableError where it cannot be mapped, OSError where there is no room.
    """
    try:
        mapped = handle.map()
    except UnreachableError:  # there is no file yet, or it is too short
        handle.reserve()
        mapped = handle.map()
    for name, tensor in tensors.items():
        if mapped[name].data_ptr() != tensor.data_ptr():
            mapped[name].copy_(tensor)
