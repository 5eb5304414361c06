"""Random-K: a random part of every block's values, the same for all clients, new each round.

Source: paper, Algorithm 3, with error feedback.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises, Scheme
from laser_fl.schemes.sizes import sample_size
from laser_fl.streams import Streams


@dataclass(frozen=True)
class RandomK(Scheme):
    """Signal = the values at the round's indices.

    compression_factor: the part of a block's values that is sent, in (0, 1].
    """

    compression_factor: float

    @property
    def promises(self) -> Promises:
        """Linear, with error feedback."""
        return Promises(linear=True, error_feedback=True)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Send and keep the values at the round's indices."""
        signals, kept = {}, {}
        for index, block in enumerate(ctx.blocks):
            m = corrected[block.name].flatten(start_dim=1)
            chosen = self._indices(block, index, ctx).to(m.device)
            signals[block.name] = m[:, chosen]
            kept[block.name] = torch.zeros_like(m).index_copy_(1, chosen, signals[block.name]).view(-1, *block.shape)
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Put what was heard at its indices, zero elsewhere."""
        update = {}
        for index, block in enumerate(ctx.blocks):
            value = heard.values[block.name]
            chosen = self._indices(block, index, ctx).to(value.device)
            update[block.name] = value.new_zeros(block.size).index_copy_(0, chosen, value).view(block.shape)
        return update, shared

    def values(self, block: Block, ctx: Context) -> int:
        """max(1, ⌊factor · d⌋)."""
        return sample_size(self.compression_factor, block)

    def _indices(self, block: Block, index: int, ctx: Context) -> Int64[Tensor, " values"]:
        return _draw(ctx.streams, ctx.round, index, block.size, self.values(block, ctx))


@lru_cache(maxsize=64)  # both sides draw the same, and in one process several clients do
def _draw(streams: Streams, round: int, index: int, size: int, count: int) -> Int64[Tensor, " values"]:
    return torch.randperm(size, generator=streams.generator("random-k", round, index))[:count].clone()
