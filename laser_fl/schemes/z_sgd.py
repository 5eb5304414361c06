"""Z-SGD: every client sends its gradient as it is. SGD: the same without noise.

Source: paper, §2, (Z-SGD) and (SGD).
"""

from dataclasses import dataclass
from functools import cached_property

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits


@dataclass(frozen=True)
class ZSgd(Scheme):
    """Z-SGD: signal = gradient; update = the received mean.

    Example:
        >>> ZSgd().traits.linear, ZSgd().traits.error_feedback
        (True, False)
    """

    @cached_property
    def traits(self) -> Traits:
        """Linear."""
        return Traits(linear=True)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send everything; there is no memory, and so no approximation."""
        return corrected, {}

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Take the received values as the update."""
        return received.values, shared

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the block's own shape."""
        return {block.name: block.shape}


@dataclass(frozen=True)
class Sgd(ZSgd):
    """Z-SGD at infinite power: the noiseless baseline.

    Example:
        >>> Sgd().traits.noiseless
        True
    """

    @cached_property
    def traits(self) -> Traits:
        """Linear, on a channel without noise."""
        return Traits(linear=True, noiseless=True)
