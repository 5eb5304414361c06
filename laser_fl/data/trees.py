"""Nested tuples, lists and mappings of tensors: the inputs of models that take more than one."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

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
