"""LASER with alternating factors: one low-rank factor per matrix and round.

Server and clients share one orthonormal basis per matrix. In even rounds it spans columns and
clients send Q_i = m_iᵀ P̂; in odd rounds it spans rows and clients send P_i = m_i Q̂. The factor
that was heard, noise included, is orthogonalised into the next round's basis: a power
iteration with warm start, one half-step a round. All clients project on the same basis, so
the mean of the signals is the signal of the mean.

Source: paper, Algorithm 1 and §F.2, with the factor exchange of the paper's own experiments;
Vogels, Karimireddy, Jaggi, "PowerSGD", 2019.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard
from laser_fl.streams import Streams


@dataclass(frozen=True)
class Laser:
    """Rank-r factors of every matrix worth compressing; other blocks go as they are.

    rank: largest rank of a factor, >= 1; a matrix m x n gets min(rank, m, n).
    """

    linear: ClassVar[bool] = True
    error_feedback: ClassVar[bool] = True
    phases: ClassVar[int] = 1
    noiseless: ClassVar[bool] = False

    rank: int

    def compresses(self, block: Block) -> bool:
        """True where one factor is, on average, less than half of the matrix: mn / (r(m + n)/2) > 2."""
        rows, columns = block.matrix_shape
        return not block.is_vector and block.size > self.rank_of(block) * (rows + columns)

    def rank_of(self, block: Block) -> int:
        """min(rank, m, n)."""
        return min(self.rank, *block.matrix_shape)

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """A random basis of columns (m x r) for every compressed matrix."""
        shared = {}
        for index, block in enumerate(blocks):
            if self.compresses(block):
                shape = (block.matrix_shape[0], self.rank_of(block))
                shared[block.name] = orthonormal(torch.randn(shape, generator=streams.generator("laser basis", index)))
        return shared

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Send m_iᵀ P̂ (even rounds) or m_i Q̂ (odd); keep its product with the basis."""
        signals, kept = {}, {}
        for block in ctx.blocks:
            m = corrected[block.name]
            if block.name not in shared:
                signals[block.name] = kept[block.name] = m
                continue
            basis = shared[block.name]
            factor = _turned(block.to_matrix(m), ctx) @ basis
            signals[block.name] = factor
            kept[block.name] = block.from_matrix(_turned(factor @ basis.mT, ctx))
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Multiply the mean factor with the basis; the mean factor spans the next basis."""
        update, bases = {}, {}
        for block in ctx.blocks:
            value = heard.values[block.name]
            if block.name not in shared:
                update[block.name] = value
                continue
            update[block.name] = block.from_matrix(_turned(value @ shared[block.name].mT, ctx))
            bases[block.name] = orthonormal(value)
        return update, bases


def orthonormal(columns: Float[Tensor, "rows rank"]) -> Float[Tensor, "rows rank"]:
    """Orthonormalise one matrix's columns: the Q of its QR factorisation with diag(R) >= 0.

    Each matrix by itself; columns that carry nothing are completed to a basis.
    """
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(columns)
    q, r = factors
    return q * torch.where(r.diagonal() < 0, -1.0, 1.0).to(q.dtype)


def _turned(matrix: Float[Tensor, "... rows columns"], ctx: Context) -> Float[Tensor, "..."]:
    """In even rounds the basis spans the matrix's columns: work on its transpose."""
    return matrix.mT if ctx.round % 2 == 0 else matrix
