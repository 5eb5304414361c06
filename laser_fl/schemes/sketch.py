"""Count-mean sketch: values are added up, with random signs, in fewer random buckets.

The buckets and signs are the same for all clients and new each round. No error feedback: with
it the scheme diverges (paper, §G.6.1), since a value's estimate carries the others of its
bucket, so that the memory grows.

Source: paper, Algorithm 2.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises, Scheme
from laser_fl.schemes.sizes import sample_size
from laser_fl.streams import Streams


@dataclass(frozen=True)
class Sketch(Scheme):
    """Signal = the buckets; update = each value's bucket times its sign.

    compression_factor: buckets per value, in (0, 1].
    """

    compression_factor: float

    @property
    def promises(self) -> Promises:
        """Linear."""
        return Promises(linear=True)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Send the buckets; nothing is remembered, so nothing need be said of what they stand for."""
        signals = {}
        for index, block in enumerate(ctx.blocks):
            m = corrected[block.name].flatten(start_dim=1)
            buckets, signs = self._hashes(block, index, ctx, m)
            empty = m.new_zeros(len(m), self.values(block, ctx))
            signals[block.name] = empty.index_add_(1, buckets, m * signs)
        return signals, {}

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Look every value up in its bucket."""
        update = {}
        for index, block in enumerate(ctx.blocks):
            value = heard.values[block.name]
            buckets, signs = self._hashes(block, index, ctx, value)
            update[block.name] = (value[buckets] * signs).view(block.shape)
        return update, shared

    def values(self, block: Block, ctx: Context) -> int:
        """max(1, ⌊factor · d⌋)."""
        return sample_size(self.compression_factor, block)

    def _hashes(self, block: Block, index: int, ctx: Context, like: Tensor) -> tuple[Tensor, Tensor]:
        buckets, signs = _draw(ctx.streams, ctx.round, index, block.size, self.values(block, ctx))
        return buckets.to(like.device), signs.to(like)


@lru_cache(maxsize=64)  # both sides draw the same, and in one process several clients do
def _draw(
    streams: Streams, round: int, index: int, size: int, count: int
) -> tuple[Int64[Tensor, " values"], Float[Tensor, " values"]]:
    generator = streams.generator("sketch", round, index)
    buckets = torch.randint(count, (size,), generator=generator)
    signs = torch.randint(2, (size,), generator=generator).float() * 2 - 1
    return buckets, signs
