"""Tensors in files that the processes of a host share: large tensors are not shipped.

A `SharedMemory` is a folder of such files that only the server's user may enter. They are found on their own host only,
even where hosts share a file system. A node maps files, the server's and its own: the server, and each process of the
same user, can change them meanwhile, and end the node by making one shorter, as they could end it anyway. The server
maps nothing: it reads copies and writes through its own descriptors, so that no node can change what it computes with.
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
from laser_fl.transport.shared_folders import LOCK, PREFIX, clear_left, is_shared_memory, places

try:
    import fcntl
except ModuleNotFoundError:  # as on Windows
    fcntl = None  # type: ignore[assignment]

ALIGNMENT = 64  # bytes; a processor's cache line
BOOT = Path("/proc/sys/kernel/random/boot_id")
TYPES = {str(kind).removeprefix("torch."): kind for kind in (torch.float32, torch.float64, torch.int64, torch.bfloat16)}
HANDLES = 1024  # that a process keeps: it meets the same ones in every round
LONGEST_KEPT = 2**14  # characters of a handle's text that is kept: GPT-2's has about 9,000

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
        return _parsed(text) if len(text) <= LONGEST_KEPT else cls(*_Text.validate_json(text))

    @cached_property
    def text(self) -> str:
        """The handle as text, to be sent to another process."""
        return json.dumps((self.host, self.path, self.layout))

    @cached_property
    def folder(self) -> Path:
        """The folder of the shared memory."""
        return Path(self.path).parent

    @property
    def is_here(self) -> bool:
        """True where the file is in a shared memory of this user. Its name is a secret of those who may enter that."""
        return self.host == _this_host() and is_shared_memory(self.folder) and os.path.lexists(self.path)

    def map(self) -> Tensors:
        """Map the tensors: a change of theirs changes the file, and the other way round.

        Only files in this user's shared memory are looked at, whatever path the handle names.

        Raises:
            UnreachableError: this process cannot see the file, or there is less in it, or it is in no shared memory.
        """
        with self._looking("mapped"):
            status = os.lstat(self.path)
            self._refuse_others(status)
            views = _mapped(self, status.st_ino, status.st_size)
            return {name: view.detach() for name, view in views.items()}  # a caller may ask for gradients of its own

    def read(self) -> Tensors:
        """Copy the tensors out of the file: nobody can change the copies, or end this process by shortening the file.

        No more is read, and no memory is taken for more, than the file has and `size` says. Raises UnreachableError as
        `map`, and where the file became shorter meanwhile.
        """
        with self._looking("read"), open(self.path, "rb", opener=_open_plain) as file:
            self._refuse_others(os.fstat(file.fileno()))
            data = torch.empty(self.size, dtype=torch.uint8)
            if (got := file.readinto(data.numpy().data)) < self.size:
                raise UnreachableError(f"{brief(self.path)} ended after {got} bytes, not {self.size}")
            return self.views(data)

    def reserve(self) -> None:
        """Make the file long enough, or make it, of zeros; its bytes stay.

        PyTorch would lengthen it, too, but zeroes its first byte when it does. Raises OSError where there is no room.
        """
        with open(self.path, "ab", opener=_open_plain) as file:
            if (size := file.tell()) < self.size:
                if hasattr(os, "posix_fallocate"):  # else only the writing process would notice a full disk
                    os.posix_fallocate(file.fileno(), size, self.size - size)
                file.truncate(self.size)

    def views(self, data: torch.Tensor) -> Tensors:
        """Return the tensors in the file's bytes."""
        tensors, start = {}, 0
        for name, shape, dtype in self.layout:
            kind = TYPES[dtype]
            tensors[name] = data[start : start + prod(shape) * kind.itemsize].view(kind).view(shape)
            start += _room(shape, dtype)
        return tensors

    @cached_property
    def size(self) -> int:
        """The number of bytes that the tensors take in the file. Raises UnreachableError where a type is unknown."""
        if unknown := {dtype for _, _, dtype in self.layout} - TYPES.keys():
            raise UnreachableError(f"{brief(self.path)} has values of an unknown type, {brief(unknown.pop())}")
        return sum(_room(shape, dtype) for _, shape, dtype in self.layout)

    @contextmanager
    def _looking(self, how: str) -> Iterator[None]:
        """Turn errors of the file in the block, which is looked at on its own host only, into an UnreachableError."""
        if self.host != _this_host():
            raise UnreachableError(f"{brief(self.path)} is on another host")
        if not self.folder.name.startswith(PREFIX):
            raise UnreachableError(f"{brief(self.path)} is in no shared memory")
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            raise UnreachableError(f"{brief(self.path)} cannot be {how}: {brief(str(error))}") from None

    def _refuse_others(self, status: os.stat_result) -> None:
        """Raise UnreachableError where a file of this `status` cannot hold the tensors."""
        if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
            raise UnreachableError(f"{brief(self.path)} is no plain file of one name")
        if status.st_size < self.size:
            raise UnreachableError(f"{brief(self.path)} has {status.st_size} bytes, not {self.size}")


_handle = lru_cache(maxsize=HANDLES)(TensorHandle)


@lru_cache(maxsize=HANDLES)
def _parsed(text: str) -> TensorHandle:
    return _handle(*_Text.validate_json(text))


@cache
def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _open_plain(path: str, flags: int) -> int:
    """Open a file as `flags` say; what is no plain file is neither followed nor waited for, where the system can so."""
    careful = (getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"))
    return os.open(path, flags | sum(careful), 0o600)


@lru_cache(maxsize=HANDLES)  # a process that maps a file again has its pages already
def _mapped(handle: TensorHandle, inode: int, size: int) -> Tensors:
    if not is_shared_memory(handle.folder):
        raise UnreachableError(f"{brief(handle.path)} is in no shared memory of this user")
    data = torch.from_file(handle.path, shared=True, size=size, dtype=torch.uint8) if size else torch.zeros(0).byte()
    return handle.views(data)


def _room(shape: tuple[int, ...], dtype: str) -> int:
    return -(-prod(shape) * TYPES[dtype].itemsize // ALIGNMENT) * ALIGNMENT


@cache
def _this_host() -> str:
    """Return a text that distinguishes this host, since its last start, from others."""
    return BOOT.read_text().strip() if BOOT.is_file() else platform.node()


class SharedMemory:
    """A folder of shared files that its owner opens and closes."""

    def __init__(self, folder: Path | None) -> None:
        """Make the folder in `folder`; None: among temporary files. Raises OSError where it cannot be there."""
        self._folder = tempfile.TemporaryDirectory(prefix=PREFIX, dir=folder, ignore_cleanup_errors=True)
        self.path = Path(self._folder.name)
        self._files: dict[str, tuple[str, int]] = {}  # what it has published: path and descriptor
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
        """Write tensors into the file for `name`, over what was there, and return their handle.

        The file's path has a part that nobody can guess: who knows it can read the folder. Whatever others do to the
        path, it is the file that was made first. Raises OSError where there is no room.
        """
        if name not in self._files:
            descriptor, path = tempfile.mkstemp(prefix=f"{name}-", dir=self.path)
            self._files[name] = path, descriptor
        path, descriptor = self._files[name]
        handle = TensorHandle.fitting(path, tensors)
        if os.fstat(descriptor).st_size < handle.size:
            os.ftruncate(descriptor, handle.size)
        start = 0
        for tensor, (_, shape, dtype) in zip(tensors.values(), handle.layout, strict=True):
            _write_all(descriptor, tensor, start)
            start += _room(shape, dtype)
        return handle

    def close(self) -> None:
        """Remove the folder; a process that has mapped a file goes on to see it."""
        _mapped.cache_clear()
        for _, descriptor in self._files.values():
            os.close(descriptor)
        self._files = {}
        self._folder.cleanup()
        self._lock.release()


def _write_all(file: int, tensor: torch.Tensor, start: int) -> None:
    """Write a tensor's bytes into an open file at `start`. Raises OSError where there is no room."""
    data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    while data:  # a call may write a part
        written = os.pwrite(file, data, start)
        data, start = data[written:], start + written


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
    """Write tensors into a node's own file through a mapping; the file is made where there is none.

    Those that are the file's already stay as they are. Raises UnreachableError where it cannot be mapped, OSError where
    there is no room.
    """
    try:
        mapped = handle.map()
    except UnreachableError:  # there is no file yet, or it is too short
        handle.reserve()
        mapped = handle.map()
    for name, tensor in tensors.items():
        if mapped[name].data_ptr() != tensor.data_ptr():
            mapped[name].copy_(tensor)
