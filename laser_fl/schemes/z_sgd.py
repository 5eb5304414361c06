"""Z-SGD: every client sends its gradient as it is. SGD: the same without noise.

Source: paper, §2, (Z-SGD) and (SGD).
"""

from dataclasses import dataclass

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.approximation import Kept
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes


@dataclass(frozen=True)
class ZSgd(Scheme):
    """Signal = gradient; update = what was heard."""

    @property
    def promises(self) -> Promises:
        """Linear."""
        return Promises(linear=True)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send everything; there is nothing to remember."""
        return corrected, {}

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Take what was heard as the update."""
        return heard.values, shared

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """The block's own."""
        return {block.name: block.shape}


@dataclass(frozen=True)
class Sgd(ZSgd):
    """Z-SGD at infinite power: the noiseless baseline."""

    @property
    def promises(self) -> Promises:
        """Linear, on a channel without noise."""
        return Promises(linear=True, noiseless=True)
