"""Both factors in one round, one after the other: PowerSGD as published.

Phase 0: clients send P_i = m_i Q̂ on the shared basis of rows; the server hears P̄ and sends
P̂ = orth(P̄) down. Phase 1: clients send Q_i = m_iᵀ P̂, and the blocks that are not compressed.
The update is P̂ Q̄ᵀ, and Q̄ spans the next round's basis. What is kept is P̂ Q_iᵀ.

Source: Vogels, Karimireddy, Jaggi, "PowerSGD", 2019, Algorithm 1.
"""

from dataclasses import dataclass

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Context, Heard, Promises
from laser_fl.schemes.exchanges.low_rank import LowRank
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

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Send P_i and keep nothing yet; then send Q_i and the rest, and keep P̂ Q_iᵀ."""
        if ctx.phase == 0:
            matrices = ((b.name, b.to_matrix(corrected[b.name])) for b in ctx.blocks if b.name in shared)
            return {name: m @ shared[name] for name, m in matrices}, {}
        signals, kept = {}, {}
        for block in ctx.blocks:
            m = corrected[block.name]
            if block.name not in shared:
                signals[block.name] = kept[block.name] = m
                continue
            basis = shared[block.name]
            q = block.to_matrix(m).mT @ basis
            signals[block.name] = q
            kept[block.name] = block.from_matrix(basis @ q.mT)
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Send the bases of P̄ down; then multiply."""
        if ctx.phase == 0:
            heard_blocks = [block for block in ctx.blocks if block.name in shared]
            return None, {b.name: self.next_basis(b, heard.values[b.name], ctx) for b in heard_blocks}
        update = dict(heard.values)
        bases = {}
        for block in ctx.blocks:
            if block.name in shared:
                q = heard.values[block.name]
                update[block.name] = block.from_matrix(shared[block.name] @ q.mT)
                bases[block.name] = self.next_basis(block, q, ctx)
        return update, bases

    def values(self, block: Block, ctx: Context) -> int:
        """Those of P (m · r) in phase 0; of Q (n · r), or of the uncompressed block, in phase 1."""
        if not self.compresses(block):
            return 0 if ctx.phase == 0 else block.size
        return self.rank_of(block) * block.matrix_shape[ctx.phase]
