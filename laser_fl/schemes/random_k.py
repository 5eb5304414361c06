"""Random-K: a random part of every block's values, the same for all clients, new each round.

Source: paper, Algorithm 3, with error feedback.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.registry import option
from laser_fl.schemes.approximation import Approximation, SharedIndices
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits
from laser_fl.schemes.indices import indices_on, sample_size
from laser_fl.shapes import Int64


@dataclass(frozen=True)
class RandomK(Scheme):
    """Random-K: signal = the values at the round's indices.

    Example:
        >>> RandomK(compression_factor=0.05).traits.error_feedback
        True
        >>> RandomK(compression_factor=2)
        Traceback (most recent call last):
        laser_fl.errors.ConfigError: compression-factor: must be less than or equal to 1, got 2
    """

    compression_factor: float = option(0.1, "values sent per value; 0: as many as the power carries", ge=0, le=1)

    @cached_property
    def traits(self) -> Traits:
        """Linear, with error feedback."""
        return Traits(linear=True, error_feedback=True)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send the values at the round's indices; they are the approximation."""
        signals: Tensors = {}
        approximations: dict[str, Approximation] = {}
        for block, chosen in self._places(ctx, corrected):
            signals[block.name] = as_rows(corrected[block.name]).index_select(1, chosen)
            approximations[block.name] = SharedIndices(chosen, signals[block.name])
        return signals, approximations

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Put the received values at their indices, zero elsewhere."""
        update = {}
        for block, chosen in self._places(ctx, received.values):
            value = received.values[block.name]
            update[block.name] = value.new_zeros(block.size).index_copy_(0, chosen, value).view(block.shape)
        return update, shared

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shape of max(1, ⌊factor · d⌋) values."""
        factor = self.compression_factor or ctx.best_share
        return {block.name: (sample_size(factor, block),)}

    def _places(self, ctx: RoundContext, like: Tensors) -> Iterator[tuple[Block, Int64[Tensor, " values"]]]:
        sizes = tuple((block.size, self.values(block, ctx)) for block in ctx.blocks)
        device = next(iter(like.values())).device
        return zip(ctx.blocks, indices_on(device, ctx.streams, "random-k", ctx.round, sizes), strict=True)
