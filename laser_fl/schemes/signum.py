"""Signum: clients send the signs of their gradients; the sign of the received mean is the update.

The power shares follow the signals' norms, √(mn), like those of any other signal.

Source: paper, Algorithm 4; Bernstein, Zhao, Azizzadenesheli, Anandkumar, "signSGD with majority vote is communication
efficient and fault tolerant", 2019. There is no error feedback, as published.
"""

from dataclasses import dataclass
from functools import cached_property

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits


@dataclass(frozen=True)
class Signum(Scheme):
    """Signum: signal = signs; update = sign of the sum.

    Example:
        >>> Signum().traits.linear
        False
    """

    @cached_property
    def traits(self) -> Traits:
        """Nothing but one bit per value on a digital link."""
        return Traits(bits_per_value=1)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send signs; a zero sends nothing, and there is no approximation."""
        signs = {name: m.sign() for name, m in corrected.items()}
        return signs, {}

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Take the majority's sign, as far as the noise lets it be received."""
        return {name: value.sign() for name, value in received.values.items()}, shared

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the block's own shape."""
        return {block.name: block.shape}
