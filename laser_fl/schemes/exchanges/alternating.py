"""One factor per matrix and round, in turn: what the paper's own experiments ran.

Server and clients share one orthonormal basis per matrix. In even rounds it spans columns and
clients send Q_i = m_iᵀ P̂; in odd rounds it spans rows and clients send P_i = m_i Q̂. (Rounds are
counted without those in which nobody spoke: the basis stays as it was in them.) The factor
that was heard, noise included, is orthogonalised into the next round's basis: a power
iteration with warm start, one half-step a round. All clients project on the same basis, so
the mean of the signals is the signal of the mean.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises, Shapes
from laser_fl.schemes.exchanges.low_rank import LowRank, Matrices, Matrix, times
from laser_fl.schemes.kept import Product
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

    def factors(self, block: Block, matrix: Matrices, basis: Matrix, ctx: Context) -> tuple[Tensors, Product]:
        """Send m_iᵀ P̂ (even rounds) or m_i Q̂ (odd); keep its product with the basis."""
        factor = times(_turned(matrix, ctx), basis)
        bases = basis.expand(len(factor), *basis.shape)
        left, right = (bases, factor) if ctx.updates % 2 == 0 else (factor, bases)
        return {block.name: factor}, Product(block, left, right)

    def product(self, block: Block, heard: Heard, basis: Matrix, ctx: Context) -> tuple[Matrix, Matrix]:
        """Multiply the mean factor with the basis; the mean factor spans the next basis."""
        factor = heard.values[block.name]
        return _turned(factor @ basis.mT, ctx), factor

    def basis_length(self, block: Block, ctx: Context) -> int:
        """Columns' in even rounds, rows' in odd ones."""
        return block.matrix_shape[ctx.updates % 2]

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """One factor: n x r in even rounds, m x r in odd ones."""
        if not self.compresses(block):
            return {block.name: block.shape}
        return {block.name: (block.matrix_shape[1 if ctx.updates % 2 == 0 else 0], self.rank_of(block))}


def _turned(matrix: Float[Tensor, "... rows columns"], ctx: Context) -> Float[Tensor, "..."]:
    """In even rounds the basis spans the matrix's columns: work on its transpose."""
    return matrix.mT if ctx.updates % 2 == 0 else matrix
