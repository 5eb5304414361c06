"""Both factors in one transmission: the paper's Algorithm 1 to the letter.

Each client factors m_i ≈ P_i Q_iᵀ by itself, one power iteration from the shared warm start, and
sends every column of both factors as a signal of its own, all at once. The server multiplies
the mean factors; Ȳ_q spans the next warm start. A block's power goes to the columns by Lemma 8.
Since each client has its own P_i, the product of the means is not the mean of the products:
the scheme is linear for one client only.

Source: paper, Algorithm 1, Eq. (10) and Lemma 8. Deviation: with k clients and noise variance
σ² the lemma's power is P_l k²/σ², which is what makes its noise terms those of the channel.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises, Shapes
from laser_fl.schemes.exchanges.low_rank import LowRank, Matrices, Matrix, orthonormal, times
from laser_fl.schemes.kept import Product
from laser_fl.streams import Streams
from laser_fl.theory import rank_r_split

MOST_POWER = 1e30  # stands for infinite power in Lemma 8, whose shares have long converged there


@dataclass(frozen=True)
class OneShot(LowRank):
    """P and Q of every client, column by column."""

    @property
    def promises(self) -> Promises:
        """Error feedback; linear for one client only."""
        return Promises(error_feedback=True)

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Draw a basis of the longer side's vectors for every compressed matrix."""
        columns = self.random_bases(blocks, streams, axis=0)
        rows = self.random_bases(blocks, streams, axis=1)
        return {b.name: (columns if b.is_tall else rows)[b.name] for b in blocks if b.name in rows}

    def factors(self, block: Block, matrix: Matrices, basis: Matrix, ctx: Context) -> tuple[Tensors, Product]:
        """Send the columns of P_i = orth(m_i Q̂) and of Q_i = m_iᵀ P_i; keep P_i Q_iᵀ."""
        wide = block.wide(matrix)
        p = orthonormal(times(wide, basis))
        q = (p.mT @ wide).mT.contiguous()  # in this order of factors many times faster than wide.mT @ p
        columns = {
            _part(block, factor, i): column
            for factor, vectors in (("p", p), ("q", q))
            for i, column in enumerate(vectors.unbind(dim=-1))
        }
        return columns, Product(block, q, p) if block.is_tall else Product(block, p, q)

    def product(self, block: Block, heard: Heard, basis: Matrix, ctx: Context) -> tuple[Matrix, Matrix]:
        """Multiply the mean factors; the mean of Q spans the next warm start."""
        p, q = (self._factor(block, factor, heard) for factor in "pq")
        return block.wide(p @ q.mT), q

    def basis_length(self, block: Block, ctx: Context) -> int:
        """The longer side's."""
        return max(block.matrix_shape)

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """The columns of both factors, the shorter ones first."""
        if not self.compresses(block):
            return {block.name: block.shape}
        sides = zip("pq", sorted(block.matrix_shape), strict=True)
        return {_part(block, factor, i): (length,) for factor, length in sides for i in range(self.rank_of(block))}

    def block_norm(self, norms: Float64[Tensor, "clients parts"]) -> Float64[Tensor, " clients"]:
        """‖Q_i‖ = ‖P_i Q_iᵀ‖: the columns of P have norm 1, whatever the gradient's unit."""
        return super().block_norm(norms[:, norms.shape[1] // 2 :])

    def split(
        self, block: Block, norms: Float64[Tensor, "clients parts"], power: Float64[Tensor, ""], ctx: Context
    ) -> Float64[Tensor, " parts"]:
        """Lemma 8, with κ_i the mean energy of the i-th pair of columns, ‖p_i‖² ‖q_i‖²."""
        left, right = norms.square().tensor_split(2, dim=1)
        kappa = (left * right).mean(dim=0)
        if not kappa.any():
            return super().split(block, norms, power, ctx)
        signal_power = power * ctx.averaged**2 / ctx.noise_std**2 if ctx.noise_std > 0 else power * math.inf
        rows, columns = sorted(block.matrix_shape)
        powers = torch.cat(rank_r_split(signal_power.clamp(max=MOST_POWER), kappa / kappa.sum(), rows, columns))
        return powers / powers.sum()

    def _factor(self, block: Block, factor: str, heard: Heard) -> Float[Tensor, "rows rank"]:
        names = [_part(block, factor, i) for i in range(self.rank_of(block))]
        return torch.stack([heard.values[name] for name in names], dim=-1)


def _part(block: Block, factor: str, column: int) -> str:
    return f"{block.name}{PART}{factor}{column}"
