"""Adapters: data in the forms in which people have them, as Examples, Streamed or Text.

    (inputs, targets)        tensors or arrays; the inputs may be a tuple or a mapping of them
    a map-style Dataset      of torch, torchvision or anybody: len(data), data[i] -> (inputs, target)
    a datasets.Dataset       of Hugging Face, see `of_columns`
    [data, data, ...]        of each client, in any of these forms, for partition=by-column

A Dataset is read once and stacked into tensors where its examples have one shape, come out the same each time, and fit
into memory; else it is read while the run goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import ConcatDataset, IterableDataset, TensorDataset, default_collate

from laser_fl.data.examples import Examples
from laser_fl.data.streamed import Collate, Request, Streamed
from laser_fl.data.text import Text
from laser_fl.data.trees import Tree, mapped, tensors_of
from laser_fl.errors import DataError, brief, quoted

Data = Examples | Streamed | Text

STACKED_BYTES = 1 << 32  # of a Dataset's examples, up to which they are stacked
PIECE = 256  # examples that are stacked at a time
TARGET_COLUMNS = ("label", "labels", "target", "targets", "fine_label")


def as_data(data: Any, name: str, collate: Collate | None = None) -> Data:
    """Return data of any of the forms above as one of the kinds that runs take.

    Args:
        data: Examples, Streamed and Text stay as they are.
        name: of the data, for messages: train or test.
        collate: makes (inputs, targets) of a list of a Dataset's examples; where it is given, nothing is stacked.

    Raises:
        DataError: they are of another form, empty, not finite, without targets, or of several shapes without `collate`.
    """
    if isinstance(data, Examples | Streamed | Text):
        return data
    if _is_pair(data):
        inputs, targets = data
        return _examples(inputs, targets, name)
    if isinstance(data, list | tuple):
        return _of_clients(data, name, collate)
    return _of_dataset(_as_dataset(data, name), name, collate)


def of_columns(dataset: Any, name: str, inputs: str = "", target: str = "") -> Any:
    """Return a Hugging Face data set as a Dataset of (inputs, target).

    Args:
        dataset: of the package datasets.
        name: of the data, for messages.
        inputs: as for `named_columns`.
        target: likewise.

    Raises:
        DataError: as `named_columns` does.
    """
    return _Columns(dataset.with_format("torch"), *named_columns(dataset.column_names, name, inputs, target))


def named_columns(columns: Sequence[str], name: str, inputs: str = "", target: str = "") -> tuple[str, str]:
    """Return the columns for inputs and target.

    Args:
        columns: all that there are.
        name: of the data, for messages.
        inputs: the column that a model reads; "": the only one beside the target.
        target: the column to be predicted; "": the one with a usual name.

    Raises:
        DataError: there is no such column, or several could be meant.
    """
    target = target or next((column for column in TARGET_COLUMNS if column in columns), "")
    others = [column for column in columns if column != target]
    inputs = inputs or (others[0] if len(others) == 1 else "")
    for role, column in (("target", target), ("inputs", inputs)):
        if column not in columns:
            got = f"no {quoted(column)}" if column else "none that is named"
            there = brief(", ".join(columns))
            raise DataError(f"{name} data: must have a column for the {role}, got {got} among {there}")
    return inputs, target


class _Columns:
    """A Hugging Face data set as (inputs, target) by index."""

    def __init__(self, dataset: Any, inputs: str, target: str) -> None:
        self._dataset, self._inputs, self._target = dataset, inputs, target

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, row: int) -> tuple[Any, Any]:
        example = self._dataset[row]
        return example[self._inputs], example[self._target]


def _is_pair(data: Any) -> bool:
    """Return True for (inputs, targets) as tensors or arrays."""
    arrays = Tensor | np.ndarray
    if not isinstance(data, tuple | list) or len(data) != 2 or not isinstance(data[1], arrays):
        return False
    return isinstance(data[0], arrays | tuple | list | Mapping)


def _as_dataset(data: Any, name: str) -> Any:
    """Return a map-style Dataset. Raises DataError where it is none."""
    if hasattr(data, "column_names"):
        return of_columns(data, name)
    listed = hasattr(data, "__getitem__") and hasattr(data, "__len__")
    if not listed or isinstance(data, IterableDataset | Tensor | np.ndarray | str | Mapping):
        rule = (
            "must be a pair of tensors (inputs, targets), a map-style Dataset, or a list with the data of each client"
        )
        raise DataError(f"{name} data: {rule}, got {_kind(data)}")
    return data


def _of_clients(parts: Sequence[Any], name: str, collate: Collate | None) -> Data:
    """Join the data of several clients, and note whose they are; a client may have none."""
    datasets = [TensorDataset(*map(_arrays, p)) if _is_pair(p) else _as_dataset(p, name) for p in parts]
    groups = torch.repeat_interleave(
        torch.arange(len(parts)), torch.tensor([len(d) for d in datasets], dtype=torch.int64)
    )
    filled = [dataset for dataset in datasets if len(dataset) > 0]
    if filled and collate is None and all(isinstance(dataset, TensorDataset) for dataset in filled):
        columns = zip(*(dataset.tensors for dataset in filled), strict=True)
        joined: Any = TensorDataset(*(torch.cat(list(column)) for column in columns))
    else:
        joined = ConcatDataset(filled) if filled else ()
    return replace(_of_dataset(joined, name, collate), groups=groups)


def _of_dataset(dataset: Any, name: str, collate: Collate | None) -> Examples | Streamed:
    """Stack a Dataset where that is possible."""
    if len(dataset) == 0:
        raise DataError(f"{name} data: must have examples, got none")
    if collate is not None:
        return Streamed(dataset, collate, _labels(dataset), name=name)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return _examples(*dataset.tensors, name)
    streamed = Streamed(dataset, labels=_labels(dataset), name=name)
    first, again = (_example(streamed, 0, key) for key in (0, 1))
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(first))
    draws = any(not torch.equal(a, b) for a, b in zip(tensors_of(first), tensors_of(again), strict=False))
    return streamed if draws or size * len(dataset) > STACKED_BYTES else _stacked(streamed, _shapes(first))


def _stacked(data: Streamed, shapes: Tree) -> Examples:
    """Read all examples and stack them, a piece at a time. Raises DataError where one has other `shapes`."""
    pieces = []
    for start in range(0, len(data), PIECE):
        examples = [_example(data, row) for row in range(start, min(start + PIECE, len(data)))]
        for row, example in enumerate(examples, start=start):
            if (other := _shapes(example)) != shapes:
                rule = f"must have examples of one shape, or a collate function that pads them, got {shapes}"
                raise DataError(f"{data.name} data: {rule} as example 0 and {other} as example {row}")
        pieces.append(default_collate(examples))
    inputs, targets = _joined(pieces)
    return _examples(inputs, targets, data.name)


def _example(data: Streamed, row: int, key: int = 0) -> tuple[Tree, Tree]:
    """Read one example as (inputs, target), of tensors. Raises DataError."""
    alone = replace(data, collate=lambda examples: (examples[0], None))
    example, _ = alone.taken(alone.read(Request((row,), key)))
    if not isinstance(example, tuple | list) or len(example) != 2:
        raise DataError(f"{data.name} data: example {row} must be a pair (inputs, target), got {_kind(example)}")
    parts = []
    for role, part in zip(("inputs", "a target"), example, strict=True):
        try:
            parts.append(_arrays(part))
        except (TypeError, ValueError, RuntimeError):
            got = quoted(part) if isinstance(part, str) else _kind(part)
            raise DataError(f"{data.name} data: example {row} must have {role} of numbers, got {got}") from None
    return parts[0], parts[1]


def _examples(inputs: Any, targets: Any, name: str) -> Examples:
    """Return tensors as examples. Raises DataError where their lengths differ, or a value is not finite."""
    inputs, targets = _arrays(inputs), _arrays(targets)
    if not isinstance(targets, Tensor) or targets.ndim == 0:
        raise DataError(f"{name} data: must have a tensor of targets, got {_kind(targets)}")
    lengths = sorted({len(tensor) if tensor.ndim else 0 for tensor in tensors_of(inputs)})
    if lengths != [len(targets)]:
        got = f"{' and '.join(map(str, lengths))} and {len(targets)}"
        raise DataError(f"{name} data: must have a target for each input, got {got}")
    if len(targets) == 0:
        raise DataError(f"{name} data: must have examples, got none")
    for role, tree in (("inputs", inputs), ("targets", targets)):
        for tensor in tensors_of(tree):
            _refuse_not_finite(tensor, f"{name} data: its {role}")
    return Examples(inputs, targets)


def _refuse_not_finite(tensor: Tensor, what: str) -> None:
    if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
        place = (~finite).nonzero()[0]
        raise DataError(f"{what} must be finite, got {float(tensor[tuple(place)])} in example {int(place[0])}")


def _arrays(value: Any) -> Tree:
    """Return numbers, arrays and nests of them as tensors; arrays of float64 become torch's default type.

    Raises:
        TypeError: it is something else.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        tensor = torch.as_tensor(value)
        return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
    if isinstance(value, Number):
        return torch.as_tensor(value)
    if isinstance(value, Mapping):
        return {key: _arrays(one) for key, one in value.items()}
    if isinstance(value, tuple | list) and value:
        parts = tuple(map(_arrays, value))
        return parts if any(part.ndim for part in tensors_of(parts)) else torch.stack(parts)
    raise TypeError(type(value).__name__)


def _joined(pieces: Sequence[Tree]) -> Tree:
    """Concatenate trees of one form, tensor by tensor."""
    columns = zip(*map(tensors_of, pieces), strict=True)
    joined = iter([torch.cat(column) for column in columns])
    return mapped(lambda _: next(joined), pieces[0])


def _labels(dataset: Any) -> Tensor | None:
    """Return the labels that a data set has beside its examples, as torchvision's have; None where it has none."""
    labels = getattr(dataset, "targets", None)
    if not isinstance(labels, Tensor | np.ndarray | list | tuple) or len(labels) != len(dataset):
        return None
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found.to(torch.int64) if found.ndim == 1 and not found.is_floating_point() else None


def _shapes(tree: Tree) -> Tree:
    return mapped(lambda tensor: tuple(tensor.shape), tree)


def _kind(value: Any) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"
