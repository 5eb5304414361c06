"""Tensors in records: themselves, or handles to the files in which they lie."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict

from laser_fl.blocks import Tensors
from laser_fl.errors import WireError, brief
from laser_fl.federated.validation import Form
from laser_fl.rng import Device
from laser_fl.transport.shared_memory import TYPES, TensorHandle, UnreachableError

# Writes tensors under a name to a place where the reader finds them, and returns their handle.
Publish = Callable[[str, Tensors], TensorHandle]

Look = Callable[[TensorHandle], Tensors]  # returns the tensors of a handle: mapped, or read into copies

Values = dict[str, Any]  # of a record of texts, numbers and bytes

DTYPES = ("float32", "float64", "int64")
STYPE = "numpy.ndarray"
LONGEST = 2**22  # characters of a handle; a tensor takes about 60


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn any error in the block, which is the sender's fault, into a WireError that names `what` was read."""
    try:
        yield
    except (WireError, UnreachableError):
        raise
    except Exception as error:  # a parser may stumble over bad input in any way
        reason = brief(str(error))
        raise WireError(f"{brief(what)}: not what it must be ({type(error).__name__}: {reason})") from None


def write_tensors(tensors: Tensors) -> ArrayRecord:
    """Return tensors by name as an ArrayRecord."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def read_tensors(record: ArrayRecord, device: Device = "cpu") -> Tensors:
    """Undo `write_tensors`, onto `device`. Raises WireError."""
    tensors = {}
    for name, array in record.items():
        with reading(f"array {name}"):
            tensors[name] = torch.from_numpy(_values(array)).to(device)
    return tensors


def put_tensors(
    records: RecordDict, values: Values, name: str, tensors: Tensors, publish: Publish | None = None, file: str = ""
) -> None:
    """Add tensors to records: themselves, or, with `publish`, a handle to them.

    Args:
        records: get a record more, where there is no `publish`.
        values: of their main record, which get the handle.
        name: of the record or the value.
        tensors: by name.
        publish: writes them where the reader finds them; None: they are part of the records.
        file: the tensors' name for `publish`; "": `name`.
    """
    if publish is None:
        records[name] = write_tensors(tensors)
    else:
        values[name] = publish(file or name, tensors).text


def take_tensors(
    records: RecordDict, main: str, name: str, device: Device = "cpu", look: Look = TensorHandle.map
) -> Tensors:
    """Undo `put_tensors`.

    Args:
        records: as `put_tensors` left them.
        main: name of their main record.
        name: of the tensors.
        device: where the tensors are wanted.
        look: takes them out of the file of a handle, where they are not in the records.

    Raises:
        UnreachableError: they are in a file that this process cannot see.
        WireError: they are not there, or no tensors, or `look` refuses the handle.
    """
    if isinstance(record := records.get(name), ArrayRecord):
        return read_tensors(record, device)
    return {name: tensor.to(device) for name, tensor in look(handle_of(records, main, name)).items()}


class Forms(Mapping[str, Form]):
    """The shapes and types of tensors in records, by name; each is read when it is asked for, and no tensor is."""

    def __init__(self, records: RecordDict, main: str, name: str) -> None:
        """Look into records as `put_tensors` left them. Raises WireError where nothing can be tensors."""
        if isinstance(record := records.get(name), ArrayRecord):
            self._of: dict[str, Callable[[], Form]] = {key: partial(_form, key, array) for key, array in record.items()}
            return
        layout = handle_of(records, main, name).layout
        self._of = {key: partial(_form_in_file, key, shape, dtype) for key, shape, dtype in layout}
        if len(self._of) < len(layout):
            raise WireError(f"{brief(name)}: a tensor of it comes twice")

    def __getitem__(self, name: str) -> Form:
        """Return a tensor's shape and type. Raises WireError where it has none."""
        return self._of[name]()

    def __iter__(self) -> Iterator[str]:
        return iter(self._of)

    def __len__(self) -> int:
        return len(self._of)


def handle_of(records: RecordDict, main: str, name: str) -> TensorHandle:
    """Return the handle to tensors that lie in a file, from the main record. Raises WireError."""
    with reading(name):
        return TensorHandle.parse(text_in(records, main, name, LONGEST))


def text_in(records: RecordDict, name: str, key: str = "text", longest: int | None = None) -> str:
    """Return a text of a record. Raises KeyError or ValueError where there is none.

    Flower's `records.config_records` would copy all records at each access.

    Args:
        records: of a message or a node's state.
        name: of the record.
        key: of the text in it.
        longest: number of characters that the text may have; None: any.
    """
    value = record[key] if isinstance(record := records[name], ConfigRecord) else None
    if not isinstance(value, str):
        raise ValueError(f"{name} has no text {key}")
    if longest is not None and len(value) > longest:
        raise ValueError(f"the text {key} of {name} has {len(value)} characters, above {longest}")
    return value


def bundled(trees: Mapping[str, Tensors]) -> Tensors:
    """Return trees of tensors as one, by ``<tree>/<name>``: they take one record, and one file."""
    return {f"{tree}/{name}": tensor for tree, tensors in trees.items() for name, tensor in tensors.items()}


def unbundled(tensors: Tensors) -> dict[str, Tensors]:
    """Undo `bundled`; a tree without tensors is missing."""
    trees: dict[str, Tensors] = {}
    for key, tensor in tensors.items():
        tree, _, name = key.partition("/")
        trees.setdefault(tree, {})[name] = tensor
    return trees


def _form(name: str, array: Array) -> Form:
    with reading(f"array {name}"):
        shape, _, dtype, _ = _header(array)
        return shape, getattr(torch, dtype.name)


def _form_in_file(name: str, shape: tuple[int, ...], dtype: str) -> Form:
    with reading(f"tensor {name}"):
        return shape, TYPES[dtype]


def _header(array: Array) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """Return (shape, columns first, type, place of the values) of a file in NumPy's format that fits its header."""
    if array.stype != STYPE:
        raise ValueError(f"it is a {array.stype}")
    file = io.BytesIO(array.data)
    version = np.lib.format.read_magic(file)
    if version != (1, 0):
        raise ValueError(f"it has the version {version}")
    shape, columns_first, dtype = np.lib.format.read_array_header_1_0(file)
    if dtype.name not in DTYPES or not dtype.isnative:
        raise ValueError(f"it holds {dtype}")
    if min(shape, default=0) < 0 or prod(shape) * dtype.itemsize != len(array.data) - file.tell():
        raise ValueError(f"it holds {len(array.data) - file.tell()} bytes for the shape {shape}")
    return shape, columns_first, dtype, file.tell()


def _values(array: Array) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    """Return the array of a file in NumPy's format; pickled objects are refused."""
    shape, columns_first, dtype, start = _header(array)
    values = np.frombuffer(array.data, dtype, offset=start).copy()
    return values.reshape(shape, order="F" if columns_first else "C")
