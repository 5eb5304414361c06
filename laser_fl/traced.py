"""Functions of tensors whose Python is run once.

The transforms of torch.func are Python, in every call: for a small network as much work as its arithmetic.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from laser_fl.blocks import Tensors

Function = Callable[..., Any]
Shapes = tuple[tuple[object, ...], ...]

CALLS = 3  # with the same shapes before they are worth a trace, which takes a tenth of a second
KEPT = 64  # traces


class Traced:
    """A function of dicts of tensors and of tensors; does the same, operation by operation, without its Python.

    The function must not depend on values, or on anything else that changes between calls.
    """

    def __init__(self, function: Function) -> None:
        self._function = function
        self._calls: Counter[Shapes] = Counter()
        self._traces: OrderedDict[Shapes, Function] = OrderedDict()

    def __call__(self, *args: Tensors | Tensor) -> Any:
        """What the function returns."""
        shapes = tuple(_shapes(arg) for arg in args)
        if shapes in self._traces:
            self._traces.move_to_end(shapes)
            return self._traces[shapes](args)
        self._calls[shapes] += 1
        if self._calls[shapes] < CALLS:
            return self._function(*args)
        self._traces[shapes] = make_fx(lambda packed: self._function(*packed))(args)
        if len(self._traces) > KEPT:
            oldest, _ = self._traces.popitem(last=False)
            del self._calls[oldest]
        return self._traces[shapes](args)


def _shapes(arg: Tensors | Tensor) -> tuple[object, ...]:
    if isinstance(arg, Tensor):
        return arg.shape, arg.dtype, arg.device
    return tuple((name, *_shapes(tensor)) for name, tensor in arg.items())
