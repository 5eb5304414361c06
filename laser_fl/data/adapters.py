"""Adapters: data in the forms in which people have them, as Examples, Streamed or Text.

    (inputs, targets)        tensors or arrays; the inputs may be a tuple or a mapping of them
    a map-style Dataset      of torch, torchvision or anybody: len(data), data[i] -> (inputs, target)
    [(inputs, target), ...]  a list of examples, each with a number as its target
    a datasets.Dataset       of Hugging Face, see `laser_fl.data.columns.of_columns`
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
from torch.utils.data import ConcatDataset, Dataset, IterableDataset, Subset, TensorDataset, default_collate

from laser_fl.data.columns import of_columns
from laser_fl.data.examples import Examples
from laser_fl.data.streamed import Collate, Request, Streamed, generator_states
from laser_fl.data.text import Text
from laser_fl.data.trees import Tree, as_targets, as_tensors, joined, mapped, tensors_of
from laser_fl.errors import DataError, quoted

Data = Examples | Streamed | Text

STACKED_BYTES = 1 << 32  # of a Dataset's examples, up to which they are stacked
PIECE = 256  # examples that are stacked at a time


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
        examples = _examples(data[0], data[1], name)
        _refuse_empty(examples, name)
        return examples
    if is_of_clients(data):
        return _of_clients(data, name, collate)
    return _of_dataset(_as_dataset(data, name), name, collate)


def _is_pair(data: Any) -> bool:
    """Return True for (inputs, targets) as tensors or arrays."""
    arrays = Tensor | np.ndarray
    if not isinstance(data, tuple | list) or len(data) != 2 or not isinstance(data[1], arrays):
        return False
    return isinstance(data[0], arrays | tuple | list | Mapping)


def is_of_clients(data: Any) -> bool:
    """Return True for a list with the data of each client; a tuple of two may be meant as (inputs, targets)."""
    if not isinstance(data, tuple | list) or (data and _is_example(data[0])):
        return False
    return not isinstance(data, tuple) or len(data) != 2 or all(_is_pair(part) or _is_map_style(part) for part in data)


def _is_example(value: Any) -> bool:
    """Return True for (inputs, a number)."""
    if not isinstance(value, tuple) or len(value) != 2:
        return False
    target = value[1]
    return isinstance(target, Number | np.generic) or (isinstance(target, Tensor | np.ndarray) and target.ndim == 0)


def _is_map_style(data: Any) -> bool:
    if isinstance(data, IterableDataset | Tensor | np.ndarray | str | Mapping) or _is_table(data):
        return False
    if isinstance(data, tuple | list):
        return all(isinstance(example, tuple) and len(example) == 2 for example in data[:1])
    return hasattr(data, "__getitem__") and hasattr(data, "__len__")


def _is_table(data: Any) -> bool:
    """Return True for frames and series of pandas, and of others that do as it does."""
    return hasattr(data, "to_numpy")


def _as_dataset(data: Any, name: str) -> Any:
    """Return a map-style Dataset. Raises DataError where it is none."""
    if not _is_map_style(data):
        forms = "a pair of tensors (inputs, targets), a map-style Dataset, or a list with the data of each client"
        raise DataError(f"{name} data: must be {forms}{_remedy(data)}, got {_kind(data)}")
    return of_columns(data, name) if hasattr(data, "column_names") else data


def _remedy(data: Any) -> str:
    """Return the way from data of some other forms to one that is taken, in brackets; "" where none is known."""
    if isinstance(data, Mapping):
        return f" (of several splits, pass one: data[{quoted(next(iter(data), 'train'))}])"
    if any(map(_is_table, data if isinstance(data, tuple | list) else [data])):
        return " (of tables, pass their .to_numpy())"
    return " (of lists, pass their torch.tensor(...))" if isinstance(data, tuple | list) else ""


def _of_clients(parts: Sequence[Any], name: str, collate: Collate | None) -> Data:
    """Join the data of several clients, and note whose they are; a client may have none."""
    clients = [_of_client(part, f"client {client}'s {name}") for client, part in enumerate(parts)]
    sizes = torch.tensor(list(map(len, clients)), dtype=torch.int64)
    groups = torch.repeat_interleave(torch.arange(len(parts)), sizes)
    filled = {client: data for client, data in enumerate(clients) if len(data) > 0}
    _refuse_empty(filled, name)
    in_memory = {client: data for client, data in filled.items() if isinstance(data, Examples)}
    if collate is None and len(in_memory) == len(filled):
        return replace(_concatenated(in_memory, name), groups=groups)
    indexed = [_ByIndex(data) if isinstance(data, Examples) else data for data in filled.values()]
    return replace(_of_dataset(ConcatDataset(indexed), name, collate), groups=groups)


def _of_client(part: Any, name: str) -> Any:
    """Return a client's data as Examples, which may be none, or a Dataset."""
    if _is_pair(part):
        return _examples(part[0], part[1], name)
    if isinstance(part, TensorDataset) and len(part.tensors) == 2:
        return _examples(*part.tensors, name)
    return _as_dataset(part, name)


def _concatenated(clients: Mapping[int, Examples], name: str) -> Examples:
    """Join examples. Raises DataError where they differ in shape."""
    shapes = {client: _shapes((data.inputs, data.targets), 1) for client, data in clients.items()}
    first = next(iter(shapes))
    for client, other in shapes.items():
        if other != shapes[first]:
            got = f"{shapes[first]} of client {first} and {other} of client {client}"
            raise DataError(f"{name} data: must have examples (inputs, target) of one shape, got {got}")
    inputs, targets = joined([(data.inputs, data.targets) for data in clients.values()])
    return Examples(inputs, targets)


class _ByIndex(Dataset[tuple[Tree, Tensor]]):
    """Examples in memory as (inputs, target) by index."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples
        self.targets = examples.targets

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, row: int) -> tuple[Tree, Tensor]:
        return mapped(lambda tensor: tensor[row], self._examples.inputs), self.targets[row]


def _of_dataset(dataset: Any, name: str, collate: Collate | None) -> Examples | Streamed:
    """Stack a Dataset where that is possible."""
    _refuse_empty(dataset, name)
    if collate is not None:
        return Streamed(dataset, collate, _labels(dataset), name=name)
    if isinstance(dataset, TensorDataset) and len(dataset.tensors) == 2:
        return _examples(*dataset.tensors, name)
    streamed = Streamed(dataset, labels=_labels(dataset), name=name)
    first, again = (_read(streamed, range(1), key)[0][0] for key in (0, 1))
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors_of(first))
    draws = any(not torch.equal(a, b) for a, b in zip(tensors_of(first), tensors_of(again), strict=False))
    if draws or size * len(dataset) > STACKED_BYTES:
        return streamed
    return _stacked(streamed, _shapes(first)) or streamed


def _stacked(data: Streamed, shapes: Tree) -> Examples | None:
    """Read all examples and stack them, a piece at a time; return None where some are drawn.

    Raises:
        DataError: one has other `shapes`.
    """
    pieces, (_, fresh) = [], _read(data, range(0))
    for start in range(0, len(data), PIECE):
        rows = range(start, min(start + PIECE, len(data)))
        examples, generators = _read(data, rows)
        for row, example in zip(rows, examples, strict=True):
            if (other := _shapes(example)) != shapes:
                rule = f"must have examples of one shape, or a collate function that pads them, got {shapes}"
                raise DataError(f"{data.name} data: {rule} as example 0 and {other} as example {row}")
        if generators != fresh:
            return None
        pieces.append(default_collate(examples))
    inputs, targets = joined(pieces)
    return _examples(inputs, targets, data.name)


def _read(data: Streamed, rows: range, key: int = 0) -> tuple[list[tuple[Tree, Tree]], tuple[Any, ...]]:
    """Read examples as (inputs, target), of tensors, and the states of the global generators after that.

    Raises:
        DataError: one cannot be read, or is something else.
    """
    alone = replace(data, collate=lambda examples: (examples, generator_states()))
    examples, generators = alone.taken(alone.read(Request(tuple(rows), key)))
    found = []
    for row, example in zip(rows, examples, strict=True):
        here = f"{data.name} data: example {row} must"
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise DataError(f"{here} be a pair (inputs, target), got {_kind(example)}")
        inputs, target = example
        found.append((_tensors(inputs, f"{here} have inputs"), _tensors(target, f"{here} have a target")))
    return found, generators


def _tensors(value: Any, what: str) -> Tree:
    """Return `as_tensors`. Raises DataError where it cannot."""
    try:
        return as_tensors(value)
    except (TypeError, ValueError, RuntimeError):
        raise DataError(f"{what} of numbers, got {_kind(value)}") from None


def _examples(inputs: Any, targets: Any, name: str) -> Examples:
    """Return tensors as examples. Raises DataError where their lengths differ, or a value is not finite."""
    inputs = _tensors(inputs, f"{name} data: must have inputs")
    targets = as_targets(_tensors(targets, f"{name} data: must have targets"))
    if not isinstance(targets, Tensor) or targets.ndim == 0:
        raise DataError(f"{name} data: must have a tensor of targets, got {_kind(targets)}")
    lengths = sorted({len(tensor) if tensor.ndim else 0 for tensor in tensors_of(inputs)})
    if lengths != [len(targets)]:
        got = f"{' and '.join(map(str, lengths))} and {len(targets)}"
        raise DataError(f"{name} data: must have a target for each input, got {got}")
    for role, tree in (("inputs", inputs), ("targets", targets)):
        for tensor in tensors_of(tree):
            _refuse_not_finite(tensor, f"{name} data: its {role}")
    return Examples(inputs, targets)


def _refuse_empty(data: Any, name: str) -> None:
    if len(data) == 0:
        raise DataError(f"{name} data: must have examples, got none")


def _refuse_not_finite(tensor: Tensor, what: str) -> None:
    if tensor.is_floating_point() and not (finite := torch.isfinite(tensor)).all():
        place = (~finite).nonzero()[0]
        raise DataError(f"{what} must be finite, got {float(tensor[tuple(place)])} in example {int(place[0])}")


def _labels(dataset: Any) -> Tensor | None:
    """Return the labels that a data set has beside its examples, as torchvision's have; None where it has none."""
    if isinstance(dataset, Subset):
        whole = _labels(dataset.dataset)
        return None if whole is None else whole[torch.as_tensor(dataset.indices, dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        known = [labels for part in dataset.datasets if (labels := _labels(part)) is not None]
        return torch.cat(known) if len(known) == len(dataset.datasets) else None
    labels = dataset.tensors[-1] if isinstance(dataset, TensorDataset) else getattr(dataset, "targets", None)
    if not isinstance(labels, Tensor | np.ndarray | list | tuple) or len(labels) != len(dataset):
        return None
    try:
        found = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        return None
    return found.to(torch.int64) if found.ndim == 1 and not found.is_floating_point() else None


def _shapes(tree: Tree, start: int = 0) -> Tree:
    """Return the shapes of a tree's tensors, from an axis on."""
    return mapped(lambda tensor: tuple(tensor.shape[start:]), tree)


def _kind(value: Any) -> str:
    """Describe a value that is refused."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a value of type {type(value).__name__}"
