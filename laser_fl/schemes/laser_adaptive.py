"""LASER that sends as many values as the power can carry.

LASER projects on bases that it heard a round before. The longer factor takes the most values to send, so that
with little power the basis that it spans is noise. Then clients do not send it. They share a basis Q of the longer
side's vectors, along which most of what was heard lately lies, and in every round they send, of each matrix m_i
(short x long),

    A_i = m_i Q                             the factor along it, which is small, and
    C_i = (m_i - A_i Qᵀ) at some columns    a random part of what is left: it is how Q learns.

The rest waits in the memory. How many columns are sent follows from the power, the noise, the number of clients and
the size of the model, by the rule of `theory.best_share`. Columns of tall matrices are their rows. Where a factor
that is heard would hold more of gradients of that rank than as many values sent as columns, as on a noiseless channel,
it is LASER with alternating factors. Without a rank it never is, and sends what the power carries, at last everything.

Source: ours; docs/adaptive.md has the derivation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import torch
from jaxtyping import Float64, Int64
from torch import Tensor

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.power.allocations import min_mse
from laser_fl.rng import Streams
from laser_fl.schemes.approximation import Everything, FactorAndColumns, Kept
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes
from laser_fl.schemes.indices import draw
from laser_fl.schemes.laser import Laser, random_basis, times
from laser_fl.schemes.subspace import Lately
from laser_fl.theory import heard_part

TRACKED = 2  # rank of the bases where none is given; 1 to 4 serve as well
SHORT, CORE, LONG = f"{PART}short", f"{PART}core", f"{PART}long"
FACTOR, COLUMNS = f"{PART}factor", f"{PART}columns"


@dataclass(frozen=True)
class LaserAdaptive(Scheme):
    """The factor along a shared basis, and some columns of the rest.

    rank: of the bases, and LASER's, which limits the columns, too; 0: bases of a small rank, as many columns as the
        power carries, and never LASER.
    """

    rank: int

    @property
    def promises(self) -> Promises:
        """Linear, with error feedback, and heard by the receiver that weighs."""
        return Promises(linear=True, error_feedback=True, receiver="paced")

    @cached_property
    def laser(self) -> Laser:
        """What it is where factors are heard well."""
        return Laser(self.rank or TRACKED)

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Draw bases of both sides; that of the columns is LASER's first."""
        shared: Tensors = {}
        for block in filter(self.laser.compresses, blocks):
            rank, sides = self.laser.rank_of(block), (LONG, SHORT) if block.is_tall else (SHORT, LONG)
            streamed = (block.name, block.name + LONG)
            bases = {
                side: random_basis((length, rank), streams, stream, 0)
                for side, length, stream in zip(sides, block.matrix_shape, streamed, strict=True)
            }
            shared |= _named(block, Lately(bases[SHORT], torch.zeros(rank, rank), bases[LONG]))
        return shared

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send factors and columns, and the other blocks as they are."""
        if self._is_laser(ctx):
            return self.laser.encode(corrected, self._laser_bases(shared, ctx), ctx)
        signals: Tensors = {}
        kept: dict[str, Kept] = {}
        for block, places in self._places(ctx, next(iter(corrected.values()))):
            m = corrected[block.name]
            if places is None:
                signals[block.name] = m.clone()
                kept[block.name] = Everything(signals[block.name])
                continue
            basis = shared[block.name + LONG]
            matrix = block.wide(block.to_matrix(m))
            factor = times(matrix, basis)
            columns = matrix.index_select(-1, places) - factor @ basis[places].mT
            signals |= {block.name + FACTOR: factor, block.name + COLUMNS: columns}
            kept[block.name] = FactorAndColumns(block, factor, basis.expand(len(m), *basis.shape), places, columns)
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Add up what was heard of every block; it moves the bases."""
        if self._is_laser(ctx):
            return self._decode_as_laser(heard, shared, ctx)
        update, after = {}, dict(shared)
        for block, places in self._places(ctx, next(iter(heard.values.values()))):
            if places is None:
                update[block.name] = heard.values[block.name]
                continue
            factor, columns = heard.values[block.name + FACTOR], heard.values[block.name + COLUMNS]
            lately = _lately(block, shared)
            matrix = (factor @ lately.long.mT).index_add_(1, places, columns)
            update[block.name] = block.from_matrix(block.wide(matrix))
            after |= _named(block, lately.after(factor, columns, places))
        return update, after

    def weighs(self, ctx: Context) -> bool:
        """Not where it is LASER, which takes what it hears as it is."""
        return not self._is_laser(ctx)

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """A factor, short x r, and columns, short x as many as the power carries."""
        if self._is_laser(ctx):
            return self.laser.shapes(block, ctx)
        if not self._samples(block, ctx):
            return {block.name: block.shape}
        short = min(block.matrix_shape)
        return {
            block.name + FACTOR: (short, self.laser.rank_of(block)),
            block.name + COLUMNS: (short, self.columns(block, ctx)),
        }

    def shared_shapes(self, block: Block, ctx: Context) -> Shapes:
        """Both bases and the core between them."""
        if not self.laser.compresses(block):
            return {}
        rank, (short, long) = self.laser.rank_of(block), sorted(block.matrix_shape)
        return {block.name + SHORT: (short, rank), block.name + CORE: (rank, rank), block.name + LONG: (long, rank)}

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: Context
    ) -> Float64[Tensor, " parts"]:
        """So that the noise of both parts together is least: by the allocation min-mse."""
        sizes = torch.tensor([prod(shape) for shape in self.shapes(block, ctx).values()]).to(norms)
        return min_mse(norms, norms, sizes)

    def columns(self, block: Block, ctx: Context) -> int:
        """How many columns are sent of a block's rest, and at least one.

        With the factor as many values as the power carries, and, where there is a rank, no more than LASER's longer
        factor has, in which of a square matrix there is room for the factor alone.
        """
        rank, (short, long) = self.laser.rank_of(block), sorted(block.matrix_shape)
        most = rank * long // short if self.rank else long
        return max(1, min(round(ctx.best_share * long), most) - rank)

    def _is_laser(self, ctx: Context) -> bool:
        """Whether a factor that is heard holds more of gradients of its rank than as many values sent as columns."""
        sent, factors, size = _volumes(self.laser, ctx.blocks)
        if self.rank == 0 or size == 0:
            return False
        return heard_part(ctx.power, ctx.noise_std**2, ctx.clients, sent) >= factors / size

    def _samples(self, block: Block, ctx: Context) -> bool:
        """Whether a factor and columns are sent of a block; else all of it, where that is no more."""
        if not self.laser.compresses(block):
            return False
        return self.laser.rank_of(block) + self.columns(block, ctx) < max(block.matrix_shape)

    def _places(self, ctx: Context, like: Tensor) -> Iterator[tuple[Block, Int64[Tensor, " columns"] | None]]:
        """Every block with the round's columns; None where all of it is sent."""
        sampled = [block for block in ctx.blocks if self._samples(block, ctx)]
        sizes = tuple((max(block.matrix_shape), self.columns(block, ctx)) for block in sampled)
        drawn = zip(sampled, draw(ctx.streams, "laser columns", ctx.round, sizes), strict=True)
        places = {block.name: some.to(like.device) for block, some in drawn}
        for block in ctx.blocks:
            yield block, places.get(block.name)

    def _laser_bases(self, shared: Tensors, ctx: Context) -> Tensors:
        """Those of the side that LASER projects on in this round."""
        compressed = (block for block in ctx.blocks if self.laser.compresses(block))
        return {block.name: shared[block.name + self._laser_side(block, ctx)] for block in compressed}

    def _laser_side(self, block: Block, ctx: Context) -> str:
        even = ctx.updates % 2 == 0  # it projects on the basis of the columns
        return LONG if even == block.is_tall else SHORT

    def _decode_as_laser(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """LASER's update, and its next bases; all that was heard lately is the update."""
        update, bases = self.laser.decode(heard, self._laser_bases(shared, ctx), ctx)
        after = dict(shared)
        for block in ctx.blocks:
            if block.name in bases:
                basis, factor = bases[block.name], heard.values[block.name]
                if self._laser_side(block, ctx) == SHORT:
                    after |= {block.name + LONG: basis, block.name + CORE: factor.mT @ basis}
                else:
                    after |= {block.name + SHORT: basis, block.name + CORE: basis.mT @ factor}
        return update, after


@lru_cache(maxsize=8)
def _volumes(laser: Laser, blocks: tuple[Block, ...]) -> tuple[float, float, int]:
    """Values that LASER sends of a model, on average over rounds; those of factors among them; those they stand for."""
    compressed = [block for block in blocks if laser.compresses(block)]
    factors = sum(laser.rank_of(block) * sum(block.matrix_shape) / 2 for block in compressed)
    size = sum(block.size for block in compressed)
    return factors + sum(block.size for block in blocks) - size, factors, size


def _lately(block: Block, shared: Tensors) -> Lately:
    return Lately(*(shared[block.name + part] for part in (SHORT, CORE, LONG)))


def _named(block: Block, lately: Lately) -> Tensors:
    parts = {SHORT: lately.short, CORE: lately.core, LONG: lately.long}
    return {block.name + part: tensor.contiguous() for part, tensor in parts.items()}  # as a checkpoint gives it back
