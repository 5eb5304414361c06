"""Functions of tensors whose Python code runs once.

The transforms of torch.func run Python code in every call: for a small network as much work as its arithmetic.
"""

from abc import ABC, abstractmethod
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from laser_fl.data.trees import Tree
from laser_fl.federated.recorded import Recording

Function = Callable[..., Any]
Layouts = tuple[tuple[object, ...], ...]

CALLS = 3  # with the same layouts before they are worth a trace, which takes a tenth of a second
KEPT = 64  # traces


class Repeated(ABC):
    """A function of trees of tensors, repeated without its Python code once it was called often with one layout."""

    def __init__(self, function: Function, kept: int) -> None:
        """function: to be repeated. kept: number of layouts, the last used ones, for which that is prepared."""
        self._function, self._kept = function, kept
        self.repeats = True
        self._calls: Counter[Layouts] = Counter()
        self._traces: OrderedDict[Layouts, Function] = OrderedDict()

    def __call__(self, *args: Tree) -> Any:
        """Return the result of the function."""
        layouts = tuple(_layouts(arg) for arg in args) if self.repeats else ()
        if layouts in self._traces:
            self._traces.move_to_end(layouts)
            return self._traces[layouts](args)
        self._calls[layouts] += 1
        if self._calls[layouts] < CALLS or not self.repeats or self._is_full:
            return self._function(*args)
        self._traces[layouts] = self._repeat(args)
        if len(self._traces) > self._kept:
            oldest, _ = self._traces.popitem(last=False)
            del self._calls[oldest]
        return self._traces[layouts](args)

    @property
    def _is_full(self) -> bool:
        """True where no further layout is prepared; by default the oldest one makes room."""
        return False

    @abstractmethod
    def _repeat(self, args: tuple[Tree, ...]) -> Function:
        """Return the function of the packed arguments that repeats the function for arguments with such layouts."""


class Traced(Repeated):
    """A function of trees of tensors, repeated operation by operation without its Python code, where that can be had.

    The function must not depend on values, or on anything else that changes between calls.
    """

    def __init__(self, function: Function) -> None:
        super().__init__(function, KEPT)

    def _repeat(self, args: tuple[Tree, ...]) -> Function:
        try:
            return Recording(self._function, args)
        except RuntimeError:
            self.repeats = False
            return lambda packed: self._function(*packed)


def _layouts(arg: Tree) -> tuple[object, ...]:
    if isinstance(arg, Tensor):
        return arg.shape, arg.stride(), arg.dtype, arg.device  # a trace may contain views that need the same layout
    named = arg.items() if isinstance(arg, Mapping) else enumerate(arg)
    return tuple((name, *_layouts(part)) for name, part in named)
