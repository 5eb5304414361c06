"""Checkpoints, from which a run resumes: numbers and tensors, written in one step, verified by a checksum.

A checkpoint is a safetensors file, which holds no code that reading it could run. Its metadata carry the format, its
version, the numbers as JSON, and a checksum of everything. A folder keeps the last two of each kind: where the newest
is damaged, the one before it serves.
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

FORMAT, VERSION = "laser-fl checkpoint", "2"
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
    usual: dict[str, list[float]]
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

    def save(self, number: int, numbers: Mapping[str, Any], tensors: Tensors) -> None:
        """Write a checkpoint, and remove all but the last two.

        Args:
            number: of the checkpoint, at least 0; later ones have larger numbers.
            numbers: its numbers, by name.
            tensors: its tensors, by name.

        Raises:
            StorageError: it cannot be written.
        """
        save(self.path(number), numbers, tensors)
        for old in list(self.numbers)[KEPT:]:
            with suppress(OSError):
                self.path(old).unlink()

    def load(self, number: int) -> tuple[Numbers, Tensors]:
        """Read the checkpoint of a number. Raises CheckpointError."""
        return load(self.path(number))

    @property
    def numbers(self) -> Iterator[int]:
        """The numbers of the checkpoints in the folder, the newest first."""
        names = (path.name for path in self.folder.glob(f"{self._kind}-*{SUFFIX}"))
        found = (name.removeprefix(f"{self._kind}-").removesuffix(SUFFIX) for name in names)
        return iter(sorted((int(number) for number in found if number.isdecimal()), reverse=True))

    def path(self, number: int) -> Path:
        """Return the path of the checkpoint of a number."""
        return self.folder / f"{self._kind}-{number:08d}{SUFFIX}"


def _checksum(text: str, tensors: Tensors) -> str:
    """Hash the numbers, and every tensor's name, type, shape and bytes."""
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        digest.update(tensor.view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
