"""One factor per matrix and round, in turn: what the paper's own experiments ran.

Server and clients share one orthonormal basis per matrix. In even rounds it spans columns and
clients send Q_i = m_iᵀ P̂; in odd rounds it spans rows and clients send P_i = m_i Q̂. The factor
that was heard, noise included, is orthogonalised into the next round's basis: a power
iteration with warm start, one half-step a round. All clients project on the same basis, so
the mean of the signals is the signal of the mean.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises
from laser_fl.schemes.exchanges.low_rank import LowRank
from laser_fl.streams import Streams


@dataclass(frozen=True)
class Alternating(LowRank):
    """Q in even rounds, P in odd ones."""

    @property
    def promises(self) -> Promises:
        """Linear, with error feedback."""
        return Promises(linear=True, error_feedback=True)

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Draw a basis of columns (m x r) for every compressed matrix."""
        return self.random_bases(blocks, streams, axis=0)

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
            bases[block.name] = self.next_basis(block, value, ctx)
        return update, bases

    def values(self, block: Block, ctx: Context) -> int:
        """Those of one factor: n · r in even rounds, m · r in odd ones."""
        if not self.compresses(block):
            return block.size
        return self.rank_of(block) * block.matrix_shape[1 if ctx.round % 2 == 0 else 0]


def _turned(matrix: Float[Tensor, "... rows columns"], ctx: Context) -> Float[Tensor, "..."]:
    """In even rounds the basis spans the matrix's columns: work on its transpose."""
    return matrix.mT if ctx.round % 2 == 0 else matrix
