"""Signum: clients send the signs of their gradients; the sign of what is heard is the update.

The power shares follow the signals' norms, √(mn), like those of any other signal.

Source: paper, Algorithm 4; Bernstein, Zhao, Azizzadenesheli, Anandkumar, "signSGD with majority
vote is communication efficient and fault tolerant", 2019. No error feedback, as published.
"""

from dataclasses import dataclass

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.approximation import Kept
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes


@dataclass(frozen=True)
class Signum(Scheme):
    """Signal = signs; update = sign of the sum."""

    @property
    def promises(self) -> Promises:
        """Nothing but one bit per value on a digital link."""
        return Promises(bits_per_value=1)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send signs; a zero sends nothing, and nothing is remembered."""
        signs = {name: m.sign() for name, m in corrected.items()}
        return signs, {}

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Take the majority's sign, as far as the noise lets it be heard."""
        return {name: value.sign() for name, value in heard.values.items()}, shared

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """The block's own."""
        return {block.name: block.shape}
