"""A network and what it takes to see its tensors as matrices."""

from dataclasses import dataclass

from torch import nn

from laser_fl.blocks import Block, blocks_of


@dataclass(frozen=True)
class Network:
    """A module, of which the parameters that require a gradient are trained.

    transposed: names of the parameters stored as (inputs, outputs).
    """

    module: nn.Module
    transposed: tuple[str, ...] = ()

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The trained parameters, in order."""
        trained = {name: p for name, p in self.module.named_parameters() if p.requires_grad}
        return blocks_of(trained, self.transposed)
