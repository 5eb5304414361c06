"""Tensors in records: themselves, or where they lie."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from laser_fl.blocks import Tensors
from laser_fl.errors import WireError, brief
from laser_fl.rng import Device
from laser_fl.transport.shared_memory import NotHereError, Slot

Show = Callable[[str, Tensors], Slot]  # write tensors where the reader maps them, under a name, and say where

DTYPES = ("float32", "float64", "int64")
STYPE = "numpy.ndarray"


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Whatever goes wrong in here is the sender's fault: a WireError that names `what` was read."""
    try:
        yield
    except (WireError, NotHereError):
        raise
    except Exception as error:  # a parser may stumble over bad input in any way
        reason = brief(str(error))
        raise WireError(f"{brief(what)}: not what it must be ({type(error).__name__}: {reason})") from None


def write_tensors(tensors: Tensors) -> ArrayRecord:
    """Tensors by name as an ArrayRecord."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def read_tensors(record: ArrayRecord, device: Device = "cpu") -> Tensors:
    """Undo `write_tensors`, onto `device`. Raises WireError."""
    tensors = {}
    for name, array in record.items():
        with reading(f"array {name}"):
            tensors[name] = torch.from_numpy(_values(array)).to(device)
    return tensors


def put_tensors(records: RecordDict, name: str, tensors: Tensors, show: Show | None = None) -> None:
    """Add tensors to records: themselves, or, with `show`, where they are."""
    records[name] = write_tensors(tensors) if show is None else ConfigRecord({"slot": show(name, tensors).text})


def take_tensors(records: RecordDict, name: str, device: Device = "cpu", board: Path | None = None) -> Tensors:
    """Undo `put_tensors`, onto `device`; board: the only folder to look into, if any.

    Raises:
        NotHereError: they are in a file that this process cannot see, or must not look into.
        WireError: they are not there, or no tensors.
    """
    if name in records.array_records:
        return read_tensors(records.array_records[name], device)
    slot = slot_of(records, name)
    if board not in (None, slot.folder):
        raise NotHereError(f"{brief(slot.path)} is not in {board}")
    return {name: tensor.to(device) for name, tensor in slot.map().items()}


def slot_of(records: RecordDict, name: str) -> Slot:
    """Where tensors lie. Raises WireError."""
    with reading(name):
        return Slot.parse(str(records.config_records[name]["slot"]))


def _values(array: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    """What NumPy's file format holds, as long as it is what it says; pickled objects are refused."""
    if array.stype != STYPE:
        raise ValueError(f"it is a {array.stype}")
    file = io.BytesIO(array.data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"it has the version {version}")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.name not in DTYPES:
        raise ValueError(f"it holds {dtype.name}")
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(array.data) - file.tell():
        raise ValueError(f"it holds {len(array.data) - file.tell()} bytes for the shape {shape}")
    return np.frombuffer(bytearray(array.data), dtype, offset=file.tell()).reshape(
        shape, order="F" if columns_first else "C"
    )
