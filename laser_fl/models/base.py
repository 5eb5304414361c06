"""Networks: a module, its trained weights, and the facts needed to view its tensors as matrices."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, TypeVar

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from laser_fl.blocks import Block, Tensors, blocks_of
from laser_fl.registry.options import take_options

T = TypeVar("T")

BATCHED_VALUES = 1 << 20  # of a network whose arithmetic takes no longer than the calls
BATCHED_LAYERS = {
    nn.Sequential,
    nn.Flatten,
    nn.Linear,
    nn.LayerNorm,
    nn.Embedding,
    nn.Identity,
    nn.ReLU,
    nn.LeakyReLU,
    nn.GELU,
    nn.SiLU,
    nn.Tanh,
    nn.Sigmoid,
}


@dataclass(frozen=True)
class Network:
    """A module; its parameters that require a gradient are trained.

    transposed: names of the parameters stored as (inputs, outputs).
    undecayed: names of the parameters to which weight decay does not apply.
    batches: many clients' gradients are faster in one call of vmap than one by one, as measured by
        ``laser-fl bench`` with client-batching=vmap and =loop.
    """

    module: nn.Module
    transposed: tuple[str, ...] = ()
    undecayed: tuple[str, ...] = ()
    batches: bool = False

    @classmethod
    def of(cls, module: nn.Module) -> "Network":
        """Make the network of anybody's module; it batches where that is known to work, and to be faster."""
        network = cls(module)
        known = all(type(layer) in BATCHED_LAYERS for layer in module.modules())
        small = sum(w.numel() for w in network.weights.values()) <= BATCHED_VALUES
        return replace(network, batches=known and small)

    @cached_property
    def weights(self) -> Tensors:
        """The trained parameters, by name and in order."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    @cached_property
    def buffers(self) -> Tensors:
        """The tensors that are not trained but follow the data: a batch-norm's running mean and variance.

        They are the buffers of floating-point type that are part of the module's state.
        """
        state = self.module.state_dict().keys()
        return {n: b.detach() for n, b in self.module.named_buffers() if n in state and b.is_floating_point()}

    @cached_property
    def draws(self) -> bool:
        """True where a layer draws random numbers in training; calls such as ``F.dropout`` are not seen."""
        layers = list(self.module.modules())
        return any(isinstance(m, nn.RReLU) or (isinstance(m, _DropoutNd) and m.p > 0) for m in layers)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The trained parameters as matrices."""
        return blocks_of(self.weights, self.transposed)


def build(builder: Callable[..., T], config: object, **fixed: Any) -> T:
    """Call `builder` with its options, which are attributes of `config`, and with `fixed`."""
    options = {name: value for name, value in take_options(builder, config).items() if name not in fixed}
    return builder(**options, **fixed)
