"""Checkpoints, from which a run resumes: numbers and tensors, written in one step, verified by a checksum.

A checkpoint is a safetensors file, which holds no code that reading it could run. Its metadata carry the format, its
version, the numbers as JSON, and a checksum of everything. A folder keeps the last two of each kind: where the newest
is damaged, the one before it serves. A run may go on while a copy of its state is hashed and written.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from laser_fl.blocks import Tensors
from laser_fl.errors import LaserError, StorageError, reason_of

FORMAT, VERSION = "laser-fl checkpoint", "3"
KEPT = 2
SUFFIX = ".safetensors"

Numbers = dict[str, Any]


class CheckpointError(LaserError):
    """A file is not a checkpoint, or is damaged; the message names the file and the fault."""


def save(path: Path, numbers: Mapping[str, Any], tensors: Tensors) -> None:
    """Write a checkpoint in the place of `path`, whole or not at all.

    Args:
        path: of the file; its folder is made where it does not exist.
        numbers: by name, as JSON can carry them.
        tensors: by name, of any shape and on any device.

    Raises:
        StorageError: it cannot be written.
    """
    _write(path, json.dumps({"numbers": numbers, "names": list(tensors)}), _on_host(tensors, copy=False))


def _on_host(tensors: Tensors, copy: bool) -> Tensors:
    """Return contiguous tensors on the CPU; those of a GPU after a single wait. copy: of tensors on the CPU, too."""
    here, devices = {}, set()
    for name, tensor in tensors.items():
        detached = tensor.detach()
        if tensor.is_cuda:
            devices.add(tensor.device)
            here[name] = detached.contiguous().to("cpu", non_blocking=True)
        else:
            here[name] = detached.clone(memory_format=torch.contiguous_format) if copy else detached.contiguous()
    for device in devices:
        torch.cuda.current_stream(device).synchronize()
    return here


def _write(path: Path, text: str, tensors: Tensors) -> None:
    """Hash and write a checkpoint.

    Args:
        path: of the file.
        text: numbers and names of the tensors, as JSON.
        tensors: contiguous ones on the CPU.

    Raises:
        StorageError: it cannot be written.
    """
    metadata = {"format": FORMAT, "version": VERSION, "numbers": text, "checksum": _checksum(text, tensors)}
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, part, metadata)
        with part.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({reason_of(error)})") from None


def load(path: Path) -> tuple[Numbers, Tensors]:
    """Read a checkpoint. Returns (numbers, tensors), the tensors on the CPU.

    Raises:
        CheckpointError: the file does not exist, or differs from what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            found = metadata.get("format"), metadata.get("version")
            if found != (FORMAT, VERSION):
                raise CheckpointError(f"{path}: must be a {FORMAT} of version {VERSION}, got {found[0]} of {found[1]}")
            # Cloned, because the rounding of a product may depend on the alignment of its factors in memory.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  it is no mapping
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({reason_of(error)})") from None
    text = metadata.get("numbers", "")
    if metadata.get("checksum") != _checksum(text, tensors):
        raise CheckpointError(f"{path}: is damaged, its checksum is not that of its content")
    try:
        content = json.loads(text)
        numbers, names = content["numbers"], content["names"]
        return dict(numbers), {name: tensors[name] for name in names}
    except (KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(f"{path}: its numbers are not what they must be") from None


class Progress(BaseModel):
    """The numbers of a server's checkpoint; `Server` documents their meaning."""

    round: Annotated[int, Field(ge=0)]
    exchange: Annotated[int, Field(ge=0)]
    updates: Annotated[int, Field(ge=0)]
    last_acknowledged: list[Annotated[int, Field(ge=-1)]]
    usual: dict[str, float]
    unsent: dict[int, dict[str, float]]
    train_loss: float | None
    update_values: Annotated[int, Field(ge=0)] | None
    replica: str
    steps: Annotated[int, Field(ge=0)]
    stop_reason: str = ""


class Checkpoints:
    """The checkpoints of one kind in a folder: ``<kind>-<number>.safetensors``, the last two."""

    def __init__(self, folder: Path, kind: str) -> None:
        """Refer to the checkpoints of `kind` in `folder`.

        folder: made with the first checkpoint. kind: without a dash at its end.
        """
        self.folder = folder
        self._kind = kind
        self._writer = _Writer()

    def save(
        self,
        number: int,
        numbers: Mapping[str, Any],
        tensors: Tensors,
        background: bool = False,
        after: Callable[[], None] = lambda: None,
    ) -> None:
        """Write a checkpoint, and remove all but the last two.

        Args:
            number: of the checkpoint, at least 0; later ones have larger numbers.
            numbers: its numbers, by name.
            tensors: its tensors, by name; they may change afterwards.
            background: True to return once they are copied; `wait` returns when they are written, as the next call of
                any method and the end of the process do.
            after: returns when all is written that must be there before this one.

        Raises:
            StorageError: it, or what comes before it, cannot be written.
        """
        self.wait()
        text = json.dumps({"numbers": numbers, "names": list(tensors)})
        here = _on_host(tensors, copy=background)
        if background:
            self._writer.start(lambda: self._add(number, text, here, after))
        else:
            self._add(number, text, here, after)

    def _add(self, number: int, text: str, tensors: Tensors, after: Callable[[], None]) -> None:
        after()
        _write(self._path(number), text, tensors)
        for old in self._found()[KEPT:]:
            with suppress(OSError):
                self._path(old).unlink()

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises StorageError where it cannot be."""
        self._writer.wait()

    def load(self, number: int) -> tuple[Numbers, Tensors]:
        """Read the checkpoint of a number. Raises CheckpointError, or StorageError as `wait`."""
        return load(self.path(number))

    @property
    def numbers(self) -> Iterator[int]:
        """The numbers of the checkpoints in the folder, the newest first. Raises StorageError as `wait`."""
        self.wait()
        return iter(self._found())

    def path(self, number: int) -> Path:
        """Return the path of the checkpoint of a number, whole. Raises StorageError as `wait`."""
        self.wait()
        return self._path(number)

    def _found(self) -> list[int]:
        names = (path.name for path in self.folder.glob(f"{self._kind}-*{SUFFIX}"))
        found = (name.removeprefix(f"{self._kind}-").removesuffix(SUFFIX) for name in names)
        return sorted((int(number) for number in found if number.isdecimal()), reverse=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"{self._kind}-{number:08d}{SUFFIX}"


class _Writer:
    """One piece of work at a time in a thread, for which the end of the process waits, too."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._thread: Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin `work`; an error of it is raised by the next `wait`."""

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = Thread(target=run, name="checkpoint", daemon=False)
        self._thread.start()

    def wait(self) -> None:
        """Wait until the work is done; raise its error, once."""
        with self._lock:  # two threads may wait
            if self._thread is not None:
                self._thread.join()  # where the user interrupts this, the next call waits again
                self._thread = None
            error, self._error = self._error, None
        if error is not None:
            raise error


def _checksum(text: str, tensors: Tensors) -> str:
    """Hash the numbers, and every tensor's name, type, shape and bytes. tensors: contiguous ones on the CPU."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
