"""Functions of tensors whose Python code runs once.

The transforms of torch.func run Python code in every call: for a small network as much work as its arithmetic.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from laser_fl.data.trees import Tree

Function = Callable[..., Any]
Layouts = tuple[tuple[object, ...], ...]

CALLS = 3  # with the same layouts before they are worth a trace, which takes a tenth of a second
KEPT = 64  # traces


class Traced:
    """A function of trees of tensors, repeated operation by operation without its Python code.

    The function must not depend on values, or on anything else that changes between calls.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._calls: Counter[Layouts] = Counter()
        self._traces: OrderedDict[Layouts, Function] = OrderedDict()

    def __call__(self, *args: Tree) -> Any:
        """Return the result of the function."""
        layouts = tuple(_layouts(arg) for arg in args)
        if layouts in self._traces:
            self._traces.move_to_end(layouts)
            return self._traces[layouts](args)
        self._calls[layouts] += 1
        if self._calls[layouts] < CALLS:
            return self._function(*args)
        self._traces[layouts] = make_fx(lambda packed: self._function(*packed))(args)
        if len(self._traces) > KEPT:
            oldest, _ = self._traces.popitem(last=False)
            del self._calls[oldest]
        return self._traces[layouts](args)


def _layouts(arg: Tree) -> tuple[object, ...]:
    if isinstance(arg, Tensor):
        return arg.shape, arg.stride(), arg.dtype, arg.device  # a trace may contain views that need the same layout
    named = arg.items() if isinstance(arg, Mapping) else enumerate(arg)
    return tuple((name, *_layouts(part)) for name, part in named)
