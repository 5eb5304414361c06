"""LASER that sends as many values as the power can carry.

LASER projects on bases received a round before. The longer factor takes the most values to send, so that with little
power the basis that it spans is noise. Then clients do not send it. They share a basis Q of the longer side's vectors,
along which most of the recent updates lie, and in every round they send, of each matrix m_i (short x long),

    A_i = m_i Q                             the factor along it, which is small, and
    C_i = (m_i - A_i Qᵀ) at some columns    a random part of the difference, from which Q learns.

The rest waits in the memory. The number of columns follows from the power, the noise, the number of clients and the
size of the model, by the rule of `theory.best_share`. Columns of tall matrices are their rows. The scheme is LASER with
alternating factors where a received factor would hold more of gradients of that rank than as many values sent as
columns, as on a noiseless channel. Without a rank it never is, and sends what the power carries, at last everything.

Source: ours; docs/explanations/adaptive.md has the derivation.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

import torch
from torch import Tensor

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.registry import option
from laser_fl.rng import RandomStreams
from laser_fl.schemes.approximation import Approximation, Dense, SubspaceAndColumns
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits
from laser_fl.schemes.indices import indices_on
from laser_fl.schemes.laser import Laser, random_basis, times
from laser_fl.schemes.subspace import FactorAndColumns, SubspaceTracker, follow
from laser_fl.shapes import Float64, Int64
from laser_fl.theory import least_noise_shares, signal_share

TRACKED = 2  # rank of the bases where none is given; 1 to 4 serve as well
SHORT, CORE, LONG = f"{PART}short", f"{PART}core", f"{PART}long"
FACTOR, COLUMNS = f"{PART}factor", f"{PART}columns"


@dataclass(frozen=True)
class LaserAdaptive(Scheme):
    """Adaptive LASER: the factor along a shared basis, and some columns of the rest.

    The rank is that of the bases, and LASER's, which limits the columns, too. At 0 the bases have a small rank, there
    are as many columns as the power carries, and the scheme is never LASER.

    Example:
        >>> LaserAdaptive(rank=3).laser
        Laser(rank=3, factor_exchange='alternating', phase_split=0.5)
    """

    rank: int = option(2, "rank of bases and factors; 0: as the power allows", ge=0, lt=2**31)

    @cached_property
    def traits(self) -> Traits:
        """Linear, with error feedback, and with the update filter that weighs."""
        return Traits(linear=True, error_feedback=True, receiver="paced")

    @cached_property
    def laser(self) -> Laser:
        """The scheme where factors are received well."""
        return Laser(self.rank or TRACKED)

    def init(self, blocks: tuple[Block, ...], streams: RandomStreams) -> Tensors:
        """Draw bases of both sides; that of the columns is LASER's first."""
        shared: Tensors = {}
        for block in filter(self.laser.compresses, blocks):
            rank, sides = self.laser.rank_of(block), (LONG, SHORT) if block.is_tall else (SHORT, LONG)
            streamed = (block.name, block.name + LONG)
            bases = {
                side: random_basis((length, rank), streams, stream, 0)
                for side, length, stream in zip(sides, block.matrix_shape, streamed, strict=True)
            }
            shared |= _named(block, SubspaceTracker(bases[SHORT], torch.zeros(rank, rank), bases[LONG]))
        return shared

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send factors and columns, and the other blocks as they are."""
        if self._is_laser(ctx):
            return self.laser.encode(corrected, self._laser_bases(shared, ctx), ctx)
        signals: Tensors = {}
        approximations: dict[str, Approximation] = {}
        for block, indices in self._places(ctx, next(iter(corrected.values()))):
            m = corrected[block.name]
            if indices is None:
                signals[block.name] = m.clone()
                approximations[block.name] = Dense(signals[block.name])
                continue
            basis = shared[block.name + LONG]
            matrix = block.wide(block.to_matrix(m))
            factor = times(matrix, basis)
            columns = matrix.index_select(-1, indices) - factor @ basis[indices].mT
            signals |= {block.name + FACTOR: factor, block.name + COLUMNS: columns}
            approximations[block.name] = SubspaceAndColumns(
                block, factor, basis.expand(len(m), *basis.shape), indices, columns
            )
        return signals, approximations

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors | None, Tensors]:
        """Add up the received factor and columns of every block; they move the bases."""
        if self._is_laser(ctx):
            return self._decode_as_laser(received, shared, ctx)
        update: Tensors = {}
        followed: dict[Block, FactorAndColumns] = {}
        for block, indices in self._places(ctx, next(iter(received.values.values()))):
            if indices is None:
                update[block.name] = received.values[block.name]
                continue
            factor, columns = received.values[block.name + FACTOR], received.values[block.name + COLUMNS]
            followed[block] = FactorAndColumns(factor, columns, indices)
            matrix = (factor @ shared[block.name + LONG].mT).index_add_(1, indices, columns)
            update[block.name] = block.from_matrix(block.wide(matrix))
        trackers = follow([_tracker(block, shared) for block in followed], list(followed.values()))
        after = (_named(block, tracker) for block, tracker in zip(followed, trackers, strict=True))
        return update, dict(shared) | {name: tensor for named in after for name, tensor in named.items()}

    def weighs(self, ctx: RoundContext) -> bool:
        """Return False where the scheme is LASER, which takes the received values as they are."""
        return not self._is_laser(ctx)

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shapes of a factor, short x r, and of columns, short x as many as the power carries."""
        if self._is_laser(ctx):
            return self.laser.shapes(block, ctx)
        if not self._samples(block, ctx):
            return {block.name: block.shape}
        short = min(block.matrix_shape)
        return {
            block.name + FACTOR: (short, self.laser.rank_of(block)),
            block.name + COLUMNS: (short, self.columns(block, ctx)),
        }

    def shared_shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shapes of both bases and of the core between them."""
        if not self.laser.compresses(block):
            return {}
        rank, (short, long) = self.laser.rank_of(block), sorted(block.matrix_shape)
        return {block.name + SHORT: (short, rank), block.name + CORE: (rank, rank), block.name + LONG: (long, rank)}

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: RoundContext
    ) -> Float64[Tensor, " parts"]:
        """Split the power so that the noise of both parts together is least: by the allocation min-mse."""
        sizes = torch.tensor([prod(shape) for shape in self.shapes(block, ctx).values()]).to(norms)
        return least_noise_shares(norms.amax(dim=0), sizes)

    def columns(self, block: Block, ctx: RoundContext) -> int:
        """Count the columns that are sent of a block's rest; at least one.

        Together with the factor they are as many values as the power carries, and, where there is a rank, no more than
        LASER's longer factor has. That of a square matrix has room for the factor alone.
        """
        rank, (short, long) = self.laser.rank_of(block), sorted(block.matrix_shape)
        most = rank * long // short if self.rank else long
        return max(1, min(round(ctx.best_share * long), most) - rank)

    def _is_laser(self, ctx: RoundContext) -> bool:
        """Return True where a received factor holds more of gradients of its rank than as many values in columns."""
        sent, factors, size = _num_values(self.laser, ctx.blocks)
        if self.rank == 0 or size == 0:
            return False
        return signal_share(ctx.power, ctx.noise_std**2, ctx.clients, sent) >= factors / size

    def _samples(self, block: Block, ctx: RoundContext) -> bool:
        """Return True where a factor and columns are sent of a block; else all of it is sent, which is no more."""
        if not self.laser.compresses(block):
            return False
        return self.laser.rank_of(block) + self.columns(block, ctx) < max(block.matrix_shape)

    def _places(self, ctx: RoundContext, like: Tensor) -> Iterator[tuple[Block, Int64[Tensor, " columns"] | None]]:
        """Yield every block with the round's columns; None where all of it is sent."""
        sampled = [block for block in ctx.blocks if self._samples(block, ctx)]
        sizes = tuple((max(block.matrix_shape), self.columns(block, ctx)) for block in sampled)
        drawn = indices_on(like.device, ctx.streams, "laser columns", ctx.round, sizes)
        indices = {block.name: some for block, some in zip(sampled, drawn, strict=True)}
        for block in ctx.blocks:
            yield block, indices.get(block.name)

    def _laser_bases(self, shared: Tensors, ctx: RoundContext) -> Tensors:
        """Return the bases of the side that LASER projects on in this round."""
        compressed = (block for block in ctx.blocks if self.laser.compresses(block))
        return {block.name: shared[block.name + self._laser_side(block, ctx)] for block in compressed}

    def _laser_side(self, block: Block, ctx: RoundContext) -> str:
        even = ctx.updates % 2 == 0  # LASER projects on the basis of the columns
        return LONG if even == block.is_tall else SHORT

    def _decode_as_laser(
        self, received: Received, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors | None, Tensors]:
        """Decode as LASER: its update, and its next bases; the tracker's sum is this update alone."""
        update, bases = self.laser.decode(received, self._laser_bases(shared, ctx), ctx)
        after = dict(shared)
        for block in ctx.blocks:
            if block.name in bases:
                basis, factor = bases[block.name], received.values[block.name]
                if self._laser_side(block, ctx) == SHORT:
                    after |= {block.name + LONG: basis, block.name + CORE: factor.mT @ basis}
                else:
                    after |= {block.name + SHORT: basis, block.name + CORE: basis.mT @ factor}
        return update, after


@lru_cache(maxsize=8)
def _num_values(laser: Laser, blocks: tuple[Block, ...]) -> tuple[float, float, int]:
    """Count the values that LASER sends on average over rounds, the factors' among them, and the matrices' values."""
    compressed = [block for block in blocks if laser.compresses(block)]
    factors = sum(laser.rank_of(block) * sum(block.matrix_shape) / 2 for block in compressed)
    size = sum(block.size for block in compressed)
    return factors + sum(block.size for block in blocks) - size, factors, size


def _tracker(block: Block, shared: Tensors) -> SubspaceTracker:
    return SubspaceTracker(*(shared[block.name + part] for part in (SHORT, CORE, LONG)))


def _named(block: Block, tracker: SubspaceTracker) -> Tensors:
    parts = {SHORT: tracker.short, CORE: tracker.core, LONG: tracker.long}
    return {block.name + part: tensor.contiguous() for part, tensor in parts.items()}  # like those of a checkpoint
