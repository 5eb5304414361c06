"""Recordings of the operations of a function of tensors, to do them again without its Python code.

torch.fx.experimental.proxy_tensor.make_fx does this, too, but imports torch's compiler: as long as torch itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laser_fl.data.trees import Tree, mapped, tensors_of

NEW, COPY = torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default  # torch.tensor's


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a tensor among those of a recording."""

    index: int


@dataclass(frozen=True)
class _Step:
    """An operation: arguments with places for tensors, the places of its results, and those that nobody reads later."""

    operation: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    done: tuple[int, ...] = ()


class Recording:
    """The operations of a function in one call, for tensors of the same layouts as there."""

    def __init__(self, function: Callable[..., Tree], args: tuple[Tree, ...]) -> None:
        """Call the function once.

        Raises:
            RuntimeError: it hides from PyTorch a step from one of its tensors to another.
        """
        args = mapped(Tensor.detach, args)  # each has a place, also where two are the same tensor now
        recorder = _Recorder(args)
        with recorder:
            results = function(*args)
        self._results = recorder.with_places(results)
        self._steps = _with_ends(recorder.steps, _places_in(self._results))
        self._constants = recorder.constants
        self._places = len(recorder.tensors)

    def __call__(self, args: tuple[Tree, ...]) -> Tree:
        """Do the operations on other arguments."""
        tensors: list[Any] = [*tensors_of(args)]
        tensors += [None] * (self._places - len(tensors))
        for index, tensor in self._constants.items():
            tensors[index] = tensor
        for step in self._steps:
            result = step.operation(*_filled(step.args, tensors), **_filled(step.kwargs, tensors))
            for index, tensor in zip(step.results, tensors_of(result), strict=True):
                tensors[index] = tensor
            for index in step.done:
                tensors[index] = None
        return _filled(self._results, tensors)


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the operations below autograd and torch.func, and keeps all tensors, so that each has an identity."""

    def __init__(self, args: Tree) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []
        self.steps: list[_Step] = []
        self.constants: dict[int, Tensor] = {}
        self._places: dict[int, _Place] = {}
        self._memory: set[int] = set()
        self.places_of(args)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip the compiler is to import it

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation, and note it."""
        operation, kwargs = COPY if operation is NEW else operation, kwargs or {}
        placed = self.with_places(args), {key: self.with_places(value) for key, value in kwargs.items()}
        result = operation(*args, **kwargs)
        self.steps.append(_Step(operation, *placed, self.places_of(result)))
        return result

    def places_of(self, tree: Tree) -> tuple[int, ...]:
        """Return the places of arguments or of an operation's results; new tensors get theirs."""
        tensors = list(tensors_of(tree))
        self._memory.update(tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel())
        return tuple(self._place(tensor).index for tensor in tensors)

    def with_places(self, tree: Tree) -> Any:
        """Return a tree with places instead of tensors; tensors from elsewhere are constants."""
        return mapped(self._known, tree)

    def _known(self, tensor: Tensor) -> _Place:
        if id(tensor) not in self._places:
            if tensor.untyped_storage().data_ptr() in self._memory:
                raise RuntimeError("a tensor became another one out of PyTorch's sight")
            self.constants[len(self.tensors)] = tensor
        return self._place(tensor)

    def _place(self, tensor: Tensor) -> _Place:
        if id(tensor) not in self._places:
            self._places[id(tensor)] = _Place(len(self.tensors))
            self.tensors.append(tensor)
        return self._places[id(tensor)]


def _with_ends(steps: list[_Step], kept: set[int]) -> list[_Step]:
    """Note with each step the places that neither later steps nor the results, which are `kept`, read."""
    read, ended = set(kept), []
    for step in reversed(steps):
        touched = _places_in((step.args, step.kwargs)) | set(step.results)
        ended.append(replace(step, done=tuple(touched - read)))
        read |= touched
    return ended[::-1]


def _places_in(tree: Any) -> set[int]:
    """Return the places in arguments or results."""
    if isinstance(tree, _Place):
        return {tree.index}
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple) else ()
    return {place for part in parts for place in _places_in(part)}


def _filled(tree: Any, tensors: list[Any]) -> Any:
    """Return arguments or results with tensors instead of places."""
    if isinstance(tree, _Place):
        return tensors[tree.index]
    if isinstance(tree, tuple):
        return tuple([_filled(part, tensors) for part in tree])
    if isinstance(tree, dict):
        return {key: _filled(part, tensors) for key, part in tree.items()}
    return tree
