"""Count-mean sketch: values are added up, with random signs, in fewer random buckets.

The buckets and signs are the same for all clients and new each round. There is no error feedback: with it the scheme
diverges (paper, §G.6.1), since a value's estimate carries the others of its bucket, so that the memory grows.

Source: paper, Algorithm 2.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.registry import option
from laser_fl.rng import RandomStreams
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits, noise_energy
from laser_fl.schemes.indices import moved, sample_size
from laser_fl.shapes import Float, Int64


@dataclass(frozen=True)
class Sketch(Scheme):
    """Count-mean sketch: signal = the buckets; update = each value's bucket times its sign.

    Example:
        >>> Sketch(compression_factor=0.05).traits.error_feedback
        False
    """

    compression_factor: float = option(0.1, "buckets per value", gt=0, le=1)

    @cached_property
    def traits(self) -> Traits:
        """Linear."""
        return Traits(linear=True)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send the buckets; there is no memory, and so no approximation."""
        signals = {}
        for block, buckets, signs in self._hashes(ctx, corrected):
            m = as_rows(corrected[block.name])
            empty = m.new_zeros(len(m), self.values(block, ctx))
            signals[block.name] = empty.index_add_(1, buckets, m * signs)
        return signals, {}

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Look every value up in its bucket."""
        update = {}
        for block, buckets, signs in self._hashes(ctx, received.values):
            update[block.name] = received.values[block.name].index_select(0, buckets).mul_(signs).view(block.shape)
        return update, shared

    def noise_energies(self, received: Received, ctx: RoundContext) -> Tensors:
        """Return the noise energies: every value of the update has the noise of its bucket."""
        names = [block.name for block in ctx.blocks]
        energies = noise_energy([received.noise_std[name] for name in names], [block.size for block in ctx.blocks])
        return dict(zip(names, energies, strict=True))

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shape of max(1, ⌊factor · d⌋) values."""
        return {block.name: (sample_size(self.compression_factor, block),)}

    def _hashes(self, ctx: RoundContext, like: Tensors) -> Iterator[tuple[Block, Tensor, Tensor]]:
        """Yield each block with its values' buckets and signs."""
        sizes = tuple((block.size, self.values(block, ctx)) for block in ctx.blocks)
        values = next(iter(like.values()))
        hashes = zip(ctx.blocks, draw_on(values.device, ctx.streams, ctx.round, sizes), strict=True)
        for block, (buckets, signs) in hashes:
            yield block, buckets, signs.to(values.dtype)


@lru_cache(maxsize=1)  # both sides draw the same, and in one process several clients do
def draw(
    streams: RandomStreams, round: int, sizes: tuple[tuple[int, int], ...]
) -> list[tuple[Int64[Tensor, " values"], Float[Tensor, " values"]]]:
    """Draw the hashes of every block.

    Args:
        streams: the run's randomness.
        round: counted from 0.
        sizes: for every block (number of values, number of buckets).

    Returns:
        For every block the bucket of each value, and its sign, ±1.
    """
    generators = (streams.generator("sketch", round, index, device=streams.shared) for index in range(len(sizes)))
    return [_hash(n, k, g, streams.shared) for (n, k), g in zip(sizes, generators, strict=True)]


@lru_cache(maxsize=1)
def draw_on(
    device: torch.device, streams: RandomStreams, round: int, sizes: tuple[tuple[int, int], ...]
) -> list[tuple[Int64[Tensor, " values"], Float[Tensor, " values"]]]:
    """Return the hashes of `draw` on `device`."""
    drawn = draw(streams, round, sizes)
    buckets, signs = (moved([pair[i] for pair in drawn], device) for i in range(2))
    return list(zip(buckets, signs, strict=True))


def _hash(
    size: int, count: int, generator: torch.Generator, device: str
) -> tuple[Int64[Tensor, " values"], Float[Tensor, " values"]]:
    """Draw a bucket and a sign per value."""
    buckets = torch.randint(count, (size,), generator=generator, device=device)
    return buckets, torch.randint(2, (size,), generator=generator, device=device).float().mul_(2).sub_(1)
