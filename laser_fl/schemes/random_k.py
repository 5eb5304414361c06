"""Random-K: a random part of every block's values, the same for all clients, new each round.

Source: paper, Algorithm 3, with error feedback.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jaxtyping import Int64
from torch import Tensor

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.schemes.approximation import Kept, Picked
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes
from laser_fl.schemes.indices import draw, sample_size


@dataclass(frozen=True)
class RandomK(Scheme):
    """Signal = the values at the round's indices.

    compression_factor: the part of a block's values that is sent, in (0, 1]; 0: as many as the power carries.
    """

    compression_factor: float

    @property
    def promises(self) -> Promises:
        """Linear, with error feedback."""
        return Promises(linear=True, error_feedback=True)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send and keep the values at the round's indices."""
        signals: Tensors = {}
        kept: dict[str, Kept] = {}
        for block, chosen in self._places(ctx, corrected):
            signals[block.name] = as_rows(corrected[block.name]).index_select(1, chosen)
            kept[block.name] = Picked(chosen, signals[block.name])
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Put what was heard at its indices, zero elsewhere."""
        update = {}
        for block, chosen in self._places(ctx, heard.values):
            value = heard.values[block.name]
            update[block.name] = value.new_zeros(block.size).index_copy_(0, chosen, value).view(block.shape)
        return update, shared

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """max(1, ⌊factor · d⌋) values."""
        factor = self.compression_factor or ctx.best_share
        return {block.name: (sample_size(factor, block),)}

    def _places(self, ctx: Context, like: Tensors) -> Iterator[tuple[Block, Int64[Tensor, " values"]]]:
        sizes = tuple((block.size, self.values(block, ctx)) for block in ctx.blocks)
        for block, chosen in zip(ctx.blocks, draw(ctx.streams, "random-k", ctx.round, sizes), strict=True):
            yield block, chosen.to(like[block.name].device)
