"""Functions of tensors that a GPU repeats as one CUDA graph: their kernels are launched together, without Python.

No GPU was at hand: the copies, the choice of graph and the way back are tested on CPUs, where a stand-in calls the
function again in the place of a replay. `captured` follows PyTorch's notes on CUDA graphs, and never ran.
"""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from laser_fl.data.trees import Tree, mapped, tensors_of
from laser_fl.errors import brief, reason_of
from laser_fl.federated.traced import Function, Repeated

Captured = tuple[Callable[[], None], Tree]  # a replay, and the outputs that it overwrites
Capture = Callable[[Callable[[], Tree]], Captured]

WARM_UPS = 3  # calls in which libraries choose their kernels and take their memory
KEPT = 4  # graphs, each with memory of its own for a forward and a backward pass


def captured(function: Callable[[], Tree]) -> Captured:
    """Capture the kernels that a function launches, in a CUDA graph.

    Raises:
        RuntimeError: the function draws, reads values of tensors, or does something else that no graph can hold.
    """
    drawn = torch.cuda.get_rng_state()  # of the current device, which is the run's
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UPS):
            function()
    torch.cuda.current_stream().wait_stream(aside)
    if not torch.equal(drawn, torch.cuda.get_rng_state()):
        torch.cuda.set_rng_state(drawn)
        raise RuntimeError("it draws random numbers")
    graph = torch.cuda.CUDAGraph()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "The CUDA Graph is empty")
        with torch.cuda.graph(graph, stream=aside):
            outputs = function()
    return graph.replay, outputs


class Graphed(Repeated):
    """A function of trees of tensors, repeated kernel by kernel; where that fails, called as it is.

    The function must not depend on values, draw random numbers, or do anything else that changes between calls. Its
    arguments are copied into the graph's own memory, and its results out of it: they are the caller's.
    """

    def __init__(
        self, function: Function, failed: Callable[[str], None] = lambda reason: None, capture: Capture = captured
    ) -> None:
        """Capture no graph yet.

        Args:
            function: to be repeated.
            failed: called with the reason, once, where the function cannot be captured.
            capture: makes the replay of a function without arguments.
        """
        super().__init__(function, KEPT)
        self._failed, self._capture = failed, capture

    @property
    def _is_full(self) -> bool:
        """True after `KEPT` graphs: to capture another one in the place of the oldest costs more than it saves."""
        return len(self._traces) == self._kept

    def _repeat(self, args: tuple[Tree, ...]) -> Callable[[tuple[Tree, ...]], Tree]:
        try:
            return _Graph(self._function, args, self._capture)
        except Exception as error:  # of many kinds: the model's and the loss's own, and CUDA's
            self._failed(brief(reason_of(error)))
            self.repeats = False
            return lambda packed: self._function(*packed)


class _Graph:
    """A graph for arguments of one layout, with its memory."""

    def __init__(self, function: Function, args: tuple[Tree, ...], capture: Capture) -> None:
        self._args = mapped(Tensor.clone, args)
        self._replay, self._outputs = capture(lambda: function(*self._args))

    def __call__(self, args: tuple[Tree, ...]) -> Tree:
        _copy(self._args, args)
        self._replay()
        results = mapped(torch.empty_like, self._outputs)
        _copy(results, self._outputs)
        return results


def _copy(targets: Tree, sources: Tree) -> None:
    """Copy the tensors of a tree into those of another, with one call for each type of values."""
    pairs = list(zip(tensors_of(targets), tensors_of(sources), strict=True))
    for kind in {target.dtype for target, _ in pairs}:
        some = [pair for pair in pairs if pair[0].dtype == kind]
        torch._foreach_copy_([target for target, _ in some], [source for _, source in some])
