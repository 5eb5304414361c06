"""Nested tuples, lists and mappings of tensors: the inputs of models that take more than one."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor

Tree = Any  # a tensor, or tuples, lists and mappings of trees


def mapped(function: Callable[[Tensor], Any], tree: Tree) -> Tree:
    """Return the tree with the function's results in the place of its tensors; other leaves stay."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, Mapping):
        return {key: mapped(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple | list):
        return tuple(mapped(function, value) for value in tree)
    return tree


def tensors_of(tree: Tree) -> Iterator[Tensor]:
    """Yield the tensors of a tree, in order."""
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for value in tree.values():
            yield from tensors_of(value)
    elif isinstance(tree, tuple | list):
        for value in tree:
            yield from tensors_of(value)


def with_clients_axis(tree: Tree) -> Tree:
    """Return the tensors of one client with a leading clients axis."""
    return mapped(lambda tensor: tensor.unsqueeze(0), tree)


def of_one_client(tree: Tree) -> Tree:
    """Return the tensors of the first client, without the clients axis."""
    return mapped(lambda tensor: tensor[0], tree)


def joined(trees: Sequence[Tree]) -> Tree:
    """Concatenate trees of one form, tensor by tensor."""
    first = trees[0]
    if isinstance(first, Tensor):
        return torch.cat(list(trees))
    if isinstance(first, Mapping):
        return {key: joined([tree[key] for tree in trees]) for key in first}
    return tuple(map(joined, zip(*trees, strict=True)))


def as_tensors(value: Any) -> Tree:
    """Return numbers, arrays and nests of them as tensors; arrays of float64 become torch's default type.

    Raises:
        TypeError: it is something else. Torch raises ValueError and RuntimeError for some numbers.
    """
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic):
        return _of_array(np.asarray(value))
    if isinstance(value, Number):
        return torch.as_tensor(value)
    if isinstance(value, Mapping):
        return {key: as_tensors(one) for key, one in value.items()}
    if isinstance(value, tuple | list) and value:
        parts = tuple(map(as_tensors, value))
        return parts if any(part.ndim for part in tensors_of(parts)) else torch.stack(parts)
    raise TypeError(type(value).__name__)


def as_targets(tree: Tree) -> Tree:
    """Return a tree of targets, of which integers and truth values become int64, as losses want classes."""
    return mapped(lambda t: t if t.is_floating_point() or t.is_complex() else t.to(torch.int64), tree)


def _of_array(array: np.ndarray) -> Tensor:
    forward = all(stride >= 0 for stride in array.strides)
    if not (forward and array.flags.writeable and array.dtype.isnative):  # torch has no such tensors
        array = array.astype(array.dtype.newbyteorder("="), order="C")
    tensor = torch.as_tensor(array)
    return tensor.to(torch.get_default_dtype()) if tensor.dtype == torch.float64 else tensor
