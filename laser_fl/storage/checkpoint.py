"""Files from which a run goes on: numbers and tensors, written in one step, known by a checksum.

A checkpoint is a safetensors file, which holds no code that reading it could run. Its metadata carry the format, its
version, the numbers as JSON, and a checksum of everything. Of each kind the last two are kept: where the newest is
damaged, the one before it serves.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import BaseModel, Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from laser_fl.blocks import Tensors
from laser_fl.errors import LaserError, StorageError, reason_of

FORMAT, VERSION = "laser-fl checkpoint", "1"
KEPT = 2
SUFFIX = ".safetensors"

Numbers = dict[str, Any]


class CheckpointError(LaserError):
    """A file is no checkpoint, or a damaged one: which, and what is wrong."""


def save(path: Path, numbers: Mapping[str, Any], tensors: Tensors) -> None:
    """Write a checkpoint in the place of `path`, whole or not at all.

    Raises:
        StorageError: it cannot be written.
    """
    arrays = {name: tensor.detach().cpu().contiguous().numpy() for name, tensor in tensors.items()}
    text = json.dumps({"numbers": numbers, "names": list(tensors)})
    metadata = {"format": FORMAT, "version": VERSION, "numbers": text, "checksum": _checksum(text, tensors)}
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(arrays, part, metadata)
        with part.open("r+b") as file:  # Windows flushes only what may be written
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise StorageError(f"{path}: cannot be written ({reason_of(error)})") from None


def load(path: Path) -> tuple[Numbers, Tensors]:
    """Read a checkpoint: (numbers, tensors).

    Raises:
        CheckpointError: it is not there, or not what was written.
    """
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            told = metadata.get("format"), metadata.get("version")
            if told != (FORMAT, VERSION):
                raise CheckpointError(f"{path}: must be a {FORMAT} of version {VERSION}, got {told[0]} of {told[1]}")
            # Copied, because how a product is rounded may depend on where in memory its factors begin.
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
    """The numbers of a server's checkpoint; what they mean is said where they are in `Training`."""

    round: Annotated[int, Field(ge=0)]
    exchange: Annotated[int, Field(ge=0)]
    updates: Annotated[int, Field(ge=0)]
    taken: list[Annotated[int, Field(ge=-1)]]
    usual: dict[str, list[float]]
    train_loss: float | None
    news_floats: Annotated[int, Field(ge=0)] | None
    replica: str
    steps: Annotated[int, Field(ge=0)]


class Checkpoints:
    """The checkpoints of one kind in a folder: ``<kind>-<number>.safetensors``, the last two."""

    def __init__(self, folder: Path, kind: str) -> None:
        """folder: made with the first checkpoint. kind: without a dash at its end."""
        self.folder = folder
        self._kind = kind

    def save(self, number: int, numbers: Mapping[str, Any], tensors: Tensors) -> None:
        """Write one, and remove those that are too old. Raises StorageError."""
        save(self.path(number), numbers, tensors)
        for old in list(self.numbers)[KEPT:]:
            with suppress(OSError):
                self.path(old).unlink()

    def load(self, number: int) -> tuple[Numbers, Tensors]:
        """Read one. Raises CheckpointError."""
        return load(self.path(number))

    @property
    def numbers(self) -> Iterator[int]:
        """Those that are there, the newest first."""
        names = (path.name for path in self.folder.glob(f"{self._kind}-*{SUFFIX}"))
        found = (name.removeprefix(f"{self._kind}-").removesuffix(SUFFIX) for name in names)
        return iter(sorted((int(number) for number in found if number.isdecimal()), reverse=True))

    def path(self, number: int) -> Path:
        """Where one lies."""
        return self.folder / f"{self._kind}-{number:08d}{SUFFIX}"


def _checksum(text: str, tensors: Tensors) -> str:
    """Of the numbers, and of every tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
