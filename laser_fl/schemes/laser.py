"""LASER: low-rank factors of every matrix, with error feedback.

Alternating, as in the paper's own experiments: one factor per matrix and round, in turn. Server and clients share one
orthonormal basis per matrix. In even rounds it spans columns and clients send Q_i = m_iᵀ P̂; in odd rounds it spans rows
and clients send P_i = m_i Q̂. (Rounds are counted without those in which nobody spoke: the basis stays as it was in
them.) The factor that was heard, noise included, is orthogonalised into the next round's basis: a power iteration with
warm start, one half-step a round. All clients project on the same basis, so the mean of the signals is the signal of
the mean.

Source: paper, Algorithm 1 and §F.2; Vogels, Karimireddy, Jaggi, "PowerSGD", 2019.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from laser_fl.blocks import Block, Tensors
from laser_fl.registry import EXCHANGES
from laser_fl.rng import Streams
from laser_fl.schemes.approximation import Everything, Kept, Product
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes

Matrix = Float[Tensor, "_ _"]
Matrices = Float[Tensor, "clients _ _"]


@dataclass(frozen=True)
class Laser(Scheme):
    """Rank-r factors of every matrix worth compressing; other blocks go as they are.

    `Laser(rank, factor_exchange=...)` makes the class of that exchange, as `Path()` makes that of its system; this one
    is the alternating exchange.

    rank: largest rank of a factor, >= 1; a matrix m x n gets min(rank, m, n).
    factor_exchange: how the factors get to the server, a name in EXCHANGES.
    phase_split: the first phase's share of a round's power, in (0, 1), where a matrix is compressed; of ``two-phase``
        only.
    """

    rank: int
    factor_exchange: str = "alternating"
    phase_split: float = 0.5

    def __new__(cls, rank: int = 2, factor_exchange: str = "alternating", phase_split: float = 0.5) -> "Laser":
        """Choose the class of the exchange; a subclass is its own."""
        chosen: type[Laser] = EXCHANGES.load(factor_exchange) if cls is Laser else cls
        return super().__new__(chosen)

    @property
    def promises(self) -> Promises:
        """Linear, with error feedback."""
        return Promises(linear=True, error_feedback=True)

    def init(self, blocks: tuple[Block, ...], streams: Streams) -> Tensors:
        """Draw a basis of columns (m x r) for every compressed matrix."""
        return self.random_bases(blocks, streams, axis=0)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send the factors of compressed matrices, and the other blocks as they are."""
        signals: Tensors = {}
        kept: dict[str, Kept] = {}
        for block in ctx.blocks:
            m = corrected[block.name]
            if block.name not in shared:
                signals[block.name] = m.clone()
                kept[block.name] = Everything(signals[block.name])
                continue
            sent, kept[block.name] = self.factors(block, block.to_matrix(m), shared[block.name], ctx)
            signals |= sent
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors | None, Tensors]:
        """Multiply the factors that were heard; take the other blocks as they are."""
        update, bases = {}, {}
        for block in ctx.blocks:
            if block.name not in shared:
                update[block.name] = heard.values[block.name]
                continue
            product, factor = self.product(block, heard, shared[block.name], ctx)
            update[block.name] = block.from_matrix(product)
            bases[block.name] = self.next_basis(block, factor, ctx)
        return update, bases

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

    def shared_shapes(self, block: Block, ctx: Context) -> Shapes:
        """A basis per compressed matrix."""
        return {block.name: (self.basis_length(block, ctx), self.rank_of(block))} if self.compresses(block) else {}

    def compresses(self, block: Block) -> bool:
        """True where one factor is, on average, less than half of the matrix: mn / (r(m + n)/2) > 2."""
        rows, columns = block.matrix_shape
        return not block.is_vector and block.size > self.rank_of(block) * (rows + columns)

    def rank_of(self, block: Block) -> int:
        """min(rank, m, n)."""
        return min(self.rank, *block.matrix_shape)

    def random_bases(self, blocks: tuple[Block, ...], streams: Streams, axis: int) -> Tensors:
        """A random basis per compressed matrix, of its columns (m x r, axis 0) or its rows (n x r, axis 1)."""
        shapes = {b.name: (b.matrix_shape[axis], self.rank_of(b)) for b in blocks if self.compresses(b)}
        return {name: random_basis(shape, streams, name, 0) for name, shape in shapes.items()}

    def next_basis(self, block: Block, heard: Float[Tensor, "rows rank"], ctx: Context) -> Float[Tensor, "rows rank"]:
        """The basis that a factor spans; a new random one where the factor is zero.

        Without that, a block of which nothing was heard once might never be heard again: the
        completion of a zero factor can be orthogonal to all that is to be sent.
        """
        if heard.any():
            return orthonormal(heard)
        return random_basis((len(heard), heard.shape[1]), ctx.streams, block.name, ctx.round + 1).to(heard)


def random_basis(shape: tuple[int, int], streams: Streams, name: str, round: int) -> Float[Tensor, "rows rank"]:
    """An orthonormal basis of random directions, for the block `name` before `round`."""
    return orthonormal(torch.randn(shape, generator=streams.generator(f"laser basis of {name}", round)))


def times(matrix: Float[Tensor, "*clients rows columns"], basis: Matrix) -> Float[Tensor, "*clients rows rank"]:
    """Multiply with a basis of few columns: in the order of the memory, which is many times faster than ``@``."""
    if matrix.stride(-1) == 1:
        return linear(matrix, basis.mT.contiguous())
    return (basis.mT @ matrix.mT).mT.contiguous()


def orthonormal(columns: Float[Tensor, "*batch rows rank"]) -> Float[Tensor, "*batch rows rank"]:
    """Orthonormalise columns: the Q of the QR factorisation with diag(R) >= 0.

    Each matrix by itself; columns that carry nothing are completed to a basis. In the order of memory in which a
    checkpoint or a message gives them back: products round by that order.
    """
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(columns)
    q, r = factors
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    return (q * signs.unsqueeze(-2)).contiguous()


def _turned(matrix: Float[Tensor, "... rows columns"], ctx: Context) -> Float[Tensor, "..."]:
    """In even rounds the basis spans the matrix's columns: work on its transpose."""
    return matrix.mT if ctx.updates % 2 == 0 else matrix
