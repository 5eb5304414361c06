"""LASER's other ways to get both factors to the server: one after the other, or at once."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.registry import option
from laser_fl.rng import RandomStreams
from laser_fl.schemes.approximation import Approximation, LowRank
from laser_fl.schemes.base import Received, RoundContext, Shapes, Traits
from laser_fl.schemes.laser import Laser, Matrices, Matrix, orthonormal_each, times
from laser_fl.shapes import Float, Float64
from laser_fl.theory import rank_r_split

MOST_POWER = 1e30  # stands for infinite power in Lemma 8, whose shares have long converged there


@dataclass(frozen=True)
class TwoPhase(Laser):
    """Both factors in one round, one after the other: PowerSGD as published.

    Phase 0: clients send P_i = m_i Q̂ on the shared basis of rows; the server receives P̄ and sends P̂ = orth(P̄) down.
    Phase 1: clients send Q_i = m_iᵀ P̂, and the blocks that are not compressed. The update is P̂ Q̄ᵀ, and Q̄ spans the next
    round's basis. The approximation is P̂ Q_iᵀ.

    Source: Vogels, Karimireddy, Jaggi, "PowerSGD", 2019, Algorithm 1.
    """

    factor_exchange: str = option("two-phase", "way of the factors to the server", part="factor-exchange")

    @cached_property
    def traits(self) -> Traits:
        """Linear, with error feedback, in two phases."""
        shares = (self.phase_split, 1 - self.phase_split)
        return Traits(linear=True, error_feedback=True, phase_shares=shares)

    def init(self, blocks: tuple[Block, ...], streams: RandomStreams) -> Tensors:
        """Draw a basis of rows (n x r) for every compressed matrix."""
        return self.random_bases(blocks, streams, axis=1)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send P_i without an approximation; then send Q_i and the other blocks, with the approximation P̂ Q_iᵀ."""
        if ctx.phase == 1:
            return super().encode(corrected, shared, ctx)
        compressed = (block for block in ctx.blocks if block.name in shared)
        return {b.name: times(b.to_matrix(corrected[b.name]), shared[b.name]) for b in compressed}, {}

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors | None, Tensors]:
        """Send the bases of P̄ down; then multiply."""
        if ctx.phase == 1:
            return super().decode(received, shared, ctx)
        return None, self.next_bases({b.name: received.values[b.name] for b in ctx.blocks if b.name in shared}, ctx)

    def factors(self, block: Block, matrix: Matrices, basis: Matrix, ctx: RoundContext) -> tuple[Tensors, LowRank]:
        """Make the signal Q_i = m_iᵀ P̂; the approximation is P̂ Q_iᵀ."""
        q = times(matrix.mT, basis)
        return {block.name: q}, LowRank(block, basis.expand(len(q), *basis.shape), q)

    def product(self, block: Block, received: Received, basis: Matrix, ctx: RoundContext) -> tuple[Matrix, Matrix]:
        """Return P̂ Q̄ᵀ, and Q̄, which spans the next basis."""
        q = received.values[block.name]
        return basis @ q.mT, q

    def basis_length(self, block: Block, ctx: RoundContext) -> int:
        """Return the length of the basis's vectors: n in phase 0 (of rows), m in phase 1 (of columns)."""
        return block.matrix_shape[1 - ctx.phase]

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shape of P (m x r) in phase 0; of Q (n x r), or of the uncompressed block, in phase 1."""
        if not self.compresses(block):
            return {} if ctx.phase == 0 else {block.name: block.shape}
        return {block.name: (block.matrix_shape[ctx.phase], self.rank_of(block))}


@dataclass(frozen=True)
class OneShot(Laser):
    """Both factors in one transmission: the paper's Algorithm 1 to the letter.

    Each client factors m_i ≈ P_i Q_iᵀ by itself, one power iteration from the shared warm start, and sends every column
    of both factors as a signal of its own, all at once. The server multiplies the mean factors; Ȳ_q spans the next warm
    start. A block's power goes to the columns by Lemma 8. Since each client has its own P_i, the product of the means
    is not the mean of the products: the scheme is linear for one client only.

    Source: paper, Algorithm 1, Eq. (10) and Lemma 8. Deviation: with k clients and noise variance σ² the lemma's power
    is P_l k²/σ², which makes its noise terms those of the channel.
    """

    factor_exchange: str = option("one-shot", "way of the factors to the server", part="factor-exchange")

    @cached_property
    def traits(self) -> Traits:
        """Error feedback; linear for one client only; a product of two signals."""
        return Traits(error_feedback=True, degree=2)

    def init(self, blocks: tuple[Block, ...], streams: RandomStreams) -> Tensors:
        """Draw a basis of the longer side's vectors for every compressed matrix."""
        columns = self.random_bases(blocks, streams, axis=0)
        rows = self.random_bases(blocks, streams, axis=1)
        return {b.name: (columns if b.is_tall else rows)[b.name] for b in blocks if b.name in rows}

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Make P_i = orth(m_i Q̂) of every compressed matrix, and send it with the factor along it."""
        compressed = [block for block in ctx.blocks if block.name in shared]
        products = [times(b.wide(b.to_matrix(corrected[b.name])), shared[b.name]) for b in compressed]
        bases = zip(compressed, orthonormal_each(products), strict=True)
        return super().encode(corrected, {block.name: p for block, p in bases}, ctx)

    def factors(self, block: Block, matrix: Matrices, basis: Matrices, ctx: RoundContext) -> tuple[Tensors, LowRank]:
        """Make signals of the columns of P_i and of Q_i = m_iᵀ P_i; the approximation is P_i Q_iᵀ."""
        wide, p = block.wide(matrix), basis
        q = (p.mT @ wide).mT.contiguous()  # in this order of factors many times faster than wide.mT @ p
        columns = {
            _part(block, factor, i): column
            for factor, vectors in (("p", p), ("q", q))
            for i, column in enumerate(vectors.unbind(dim=-1))
        }
        return columns, LowRank(block, q, p) if block.is_tall else LowRank(block, p, q)

    def product(self, block: Block, received: Received, basis: Matrix, ctx: RoundContext) -> tuple[Matrix, Matrix]:
        """Multiply the mean factors; the mean of Q spans the next warm start."""
        p, q = (self._factor(block, factor, received) for factor in "pq")
        return block.wide(p @ q.mT), q

    def basis_length(self, block: Block, ctx: RoundContext) -> int:
        """Return the length of the longer side."""
        return max(block.matrix_shape)

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shapes of the columns of both factors, the shorter ones first."""
        if not self.compresses(block):
            return {block.name: block.shape}
        sides = zip("pq", sorted(block.matrix_shape), strict=True)
        return {_part(block, factor, i): (length,) for factor, length in sides for i in range(self.rank_of(block))}

    def block_norm(self, norms: Float64[Tensor, "clients parts"]) -> Float64[Tensor, " clients"]:
        """Return ‖Q_i‖ = ‖P_i Q_iᵀ‖: the columns of P have norm 1, whatever the gradient's unit."""
        return super().block_norm(norms[:, norms.shape[1] // 2 :])

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: RoundContext
    ) -> Float64[Tensor, " parts"]:
        """Split the power by Lemma 8, with κ_i the mean energy of the i-th pair of columns, ‖p_i‖² ‖q_i‖²."""
        left, right = norms.square().tensor_split(2, dim=1)
        kappa = (left * right).mean(dim=0)
        signal_power = power * ctx.averaged**2 / ctx.noise_std**2 if ctx.noise_std > 0 else power * math.inf
        rows, columns = sorted(block.matrix_shape)
        powers = torch.cat(rank_r_split(signal_power.clamp(max=MOST_POWER), kappa / kappa.sum(), rows, columns))
        return torch.where(kappa.any(), powers / powers.sum(), super().split(block, norms, power, ctx))

    def _factor(self, block: Block, factor: str, received: Received) -> Float[Tensor, "rows rank"]:
        names = [_part(block, factor, i) for i in range(self.rank_of(block))]
        return torch.stack([received.values[name] for name in names], dim=-1)


def _part(block: Block, factor: str, column: int) -> str:
    return f"{block.name}{PART}{factor}{column}"
