"""Recordings of the operations of a function of tensors, to do them again without its Python code.

torch.fx.experimental.proxy_tensor.make_fx does this, too, but imports torch's compiler: as long as torch itself.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from laser_fl.data.trees import Tree, mapped, tensors_of

NEW, COPY = torch.ops.aten.lift_fresh.default, torch.ops.aten.lift_fresh_copy.default  # torch.tensor's
OF_LAYOUTS = {  # which do not look at their argument's values
    getattr(torch.ops.aten, name).default
    for name in ("full_like", "new_full", "new_ones", "new_zeros", "ones_like", "zeros_like")
}
FOLDED = 2**16  # values of a tensor that a recording keeps, instead of making it anew


@dataclass(frozen=True, slots=True)
class _Place:
    """The place of a tensor among those of a recording."""

    index: int


@dataclass(frozen=True)
class _Step:
    """An operation: arguments with places for tensors, the places of its results, and those that nobody reads later."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    results: tuple[int, ...]
    done: tuple[int, ...] = ()

    @cached_property
    def reads(self) -> list[tuple[int, int]]:
        """The positions of arguments that are tensors, with their places."""
        return [(position, arg.index) for position, arg in enumerate(self.args) if isinstance(arg, _Place)]

    @cached_property
    def is_flat(self) -> bool:
        """True where no tensor is in a list or has a keyword."""
        return len(self.reads) == len(_places_of(self.args)) and not _places_of(self.kwargs)

    def do(self, tensors: list[Any]) -> None:
        """Do the operation on tensors by their places, and put its results among them."""
        if self.is_flat:
            args, kwargs = list(self.args), self.kwargs
            for position, index in self.reads:
                args[position] = tensors[index]
        else:
            args, kwargs = _filled(self.args, tensors), _filled(self.kwargs, tensors)
        result = self.operation(*args, **kwargs)
        results = (result,) if isinstance(result, Tensor) else tensors_of(result)
        for index, tensor in zip(self.results, results, strict=True):
            tensors[index] = tensor
        for index in self.done:
            tensors[index] = None


class Recording:
    """The operations of a function in one call, for tensors of the same layouts as there."""

    def __init__(self, function: Callable[..., Tree], args: tuple[Tree, ...]) -> None:
        """Call the function once.

        Raises:
            RuntimeError: it looks at values, or hides from PyTorch a step from one of its tensors to another.
        """
        args = mapped(Tensor.detach, args)  # each has a place, also where two are the same tensor now
        recorder = _Recorder(args)
        with recorder:
            results = function(*args)
        self._results = recorder.with_places(results)
        kept = set(_places_of(self._results))
        folded = _folded(recorder, kept)
        self._steps = _needed([step for step in recorder.steps if folded.isdisjoint(step.results)], kept)
        read = kept.union(*(_places_of((step.args, step.kwargs)) for step in self._steps))
        self._constants = recorder.constants | {place: recorder.tensors[place] for place in folded & read}
        self._places = len(recorder.tensors)

    def __call__(self, args: tuple[Tree, ...]) -> Tree:
        """Do the operations on other arguments."""
        tensors: list[Any] = [*tensors_of(args)]
        tensors += [None] * (self._places - len(tensors))
        for index, tensor in self._constants.items():
            tensors[index] = tensor
        for step in self._steps:
            step.do(tensors)
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
        self._views: dict[tuple[object, ...], Tensor] = {}  # by the place of the whole, and layout
        self._roots: dict[int, int] = {}  # the places of wholes, by those of their views
        self._kept: list[Tensor] = []
        self.places_of(args)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # to skip the compiler is to import it

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation, and note it."""
        operation, kwargs = COPY if operation is NEW else operation, kwargs or {}
        placed = self.with_places(args), {key: self.with_places(value) for key, value in kwargs.items()}
        result = operation(*args, **kwargs)
        if result is not None and next(tensors_of(result), None) is None:
            raise RuntimeError("the function looks at values of its tensors")
        if (same := self._seen(args, result)) is not None:
            self._places[id(result)] = self._places[id(same)]
            self._kept.append(result)
        else:
            self.steps.append(_Step(operation, *placed, self.places_of(result)))
        return result

    def _seen(self, args: Any, result: Any) -> Tensor | None:
        """Find an earlier view that is the same as a view of an argument; None where there is none.

        Code under the transforms of torch.func makes many of them.
        """
        whole = next((arg for arg in args if _is_view(result, arg)), None)
        if whole is None:
            return None
        root = self._roots.get(self._places[id(whole)].index, self._places[id(whole)].index)
        self._views.setdefault((root, *_layout(whole)), whole)
        same = self._views.setdefault((root, *_layout(result)), result)
        if same is result or _layout(same) != _layout(result):
            self._roots[self._place(result).index] = root
            return None
        return same

    def places_of(self, tree: Tree) -> tuple[int, ...]:
        """Return the places of arguments or of an operation's results; new tensors get theirs."""
        tensors = list(tensors_of(tree))
        self._memory.update(_memory_of(tensors))
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


def _folded(recorder: _Recorder, kept: set[int]) -> set[int]:
    """Return the places of small tensors that are the same in every call, and that nobody changes.

    kept: the places of the results of all, which their owner may change.
    """
    if any(step.operation._schema.is_mutable for step in recorder.steps):
        return set()
    given = _memory_of(recorder.tensors[place] for place in kept)
    folded: set[int] = set()
    for step in recorder.steps:
        fixed = step.operation in OF_LAYOUTS or folded.issuperset(_places_of((step.args, step.kwargs)))
        made = [recorder.tensors[place] for place in step.results]
        if fixed and torch.Tag.nondeterministic_seeded not in step.operation.tags:
            small = all(one.numel() <= FOLDED for one in made)
            folded |= {*step.results} if small and given.isdisjoint(_memory_of(made)) else set()
    return folded


def _needed(steps: list[_Step], kept: set[int]) -> list[_Step]:
    """Leave steps out whose results nobody reads; note with the others the places that nobody reads later.

    kept: the places of the results of all.
    """
    read, needed = set(kept), []
    for step in reversed(steps):
        if step.operation._schema.is_mutable or not read.isdisjoint(step.results):
            touched = {*_places_of((step.args, step.kwargs)), *step.results}
            needed.append(replace(step, done=tuple(touched - read)))
            read |= touched
    return needed[::-1]


def _memory_of(tensors: Iterable[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors if tensor.numel()}


def _is_view(result: Any, whole: Any) -> bool:
    """Return True where an operation's result is another tensor in an argument's memory."""
    if not (isinstance(result, Tensor) and isinstance(whole, Tensor) and result.numel()) or result is whole:
        return False
    return result.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def _layout(tensor: Tensor) -> tuple[object, ...]:
    bits = tensor.is_conj(), tensor.is_neg()
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype, bits


def _places_of(tree: Any) -> list[int]:
    """Return the places in arguments or results."""
    if isinstance(tree, _Place):
        return [tree.index]
    parts = tree.values() if isinstance(tree, Mapping) else tree if isinstance(tree, tuple) else ()
    return [place for part in parts for place in _places_of(part)]


def _filled(tree: Any, tensors: list[Any]) -> Any:
    """Return arguments or results with tensors instead of places."""
    if isinstance(tree, _Place):
        return tensors[tree.index]
    if isinstance(tree, tuple):
        return tuple([_filled(part, tensors) for part in tree])
    if isinstance(tree, dict):
        return {key: _filled(part, tensors) for key, part in tree.items()}
    return tree
