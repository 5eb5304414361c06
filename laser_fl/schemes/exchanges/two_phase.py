"""Both factors in one round, one after the other: PowerSGD as published.

Phase 0: clients send P_i = m_i Q̂ on the shared basis of rows; the server hears P̄ and sends
P̂ = orth(P̄) down. Phase 1: clients send Q_i = m_iᵀ P̂, and the blocks that are not compressed.
The update is P̂ Q̄ᵀ, and Q̄ spans the next round's basis. What is kept is P̂ Q_iᵀ.

Source: Vogels, Karimireddy, Jaggi, "PowerSGD", 2019, Algorithm 1.
"""

from dataclasses import dataclass

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises, Shapes
from laser_fl.schemes.exchanges.low_rank import LowRank, Matrices, Matrix, times
from laser_fl.schemes.kept import Kept, Product
from laser_fl.streams import Streams


@dataclass(frozen=True)
class TwoPhase(LowRank):
    """P in phase 0, Q in phase 1.

    phase_split: phase 0's share of the round's power, in (0, 1).
    """

    phase_split: float

    @property
    def promises(self) -> Promises:
        """Linear, with error feedback, in two phases."""
        shares = (self.phase_split, 1 - self.phase_split)
        return Promises(linear=True, error_feedback=True, phase_shares=shares)

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Draw a basis of rows (n x r) for every compressed matrix."""
        return self.random_bases(blocks, streams, axis=1)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send P_i and keep nothing yet; then send Q_i and the rest, and keep P̂ Q_iᵀ."""
        if ctx.phase == 1:
            return super().encode(corrected, shared, ctx)
        compressed = (block for block in ctx.blocks if block.name in shared)
        return {b.name: times(b.to_matrix(corrected[b.name]), shared[b.name]) for b in compressed}, {}

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Send the bases of P̄ down; then multiply."""
        if ctx.phase == 1:
            return super().decode(heard, shared, ctx)
        compressed = (block for block in ctx.blocks if block.name in shared)
        return None, {b.name: self.next_basis(b, heard.values[b.name], ctx) for b in compressed}

    def factors(self, block: Block, matrix: Matrices, basis: Matrix, ctx: Context) -> tuple[Tensors, Product]:
        """Send Q_i = m_iᵀ P̂; keep P̂ Q_iᵀ."""
        q = times(matrix.mT, basis)
        return {block.name: q}, Product(block, basis.expand(len(q), *basis.shape), q)

    def product(self, block: Block, heard: Heard, basis: Matrix, ctx: Context) -> tuple[Matrix, Matrix]:
        """P̂ Q̄ᵀ; Q̄ spans the next basis."""
        q = heard.values[block.name]
        return basis @ q.mT, q

    def basis_length(self, block: Block, ctx: Context) -> int:
        """Rows' in phase 0, columns' in phase 1."""
        return block.matrix_shape[1 - ctx.phase]

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """P (m x r) in phase 0; Q (n x r), or the uncompressed block, in phase 1."""
        if not self.compresses(block):
            return {} if ctx.phase == 0 else {block.name: block.shape}
        return {block.name: (block.matrix_shape[ctx.phase], self.rank_of(block))}
