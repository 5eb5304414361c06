"""LASER: low-rank factors of every matrix, with error feedback.

Alternating, as in the paper's own experiments: one factor per matrix and round, in turn. Server and clients share one
orthonormal basis per matrix. In even rounds it spans columns and clients send Q_i = m_iᵀ P̂; in odd rounds it spans rows
and clients send P_i = m_i Q̂. (Rounds are counted without those in which nobody transmitted: the basis stays as it was
in them.) The received factor, noise included, is orthogonalised into the next round's basis: a power iteration with
warm start, one half-step a round. All clients project on the same basis, so the mean of the signals is the signal of
the mean.

Source: paper, Algorithm 1 and §F.2; Vogels, Karimireddy, Jaggi, "PowerSGD", 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from laser_fl.blocks import Block, Tensors, to_device
from laser_fl.errors import ConfigError, did_you_mean, quoted
from laser_fl.registry import FACTOR_EXCHANGES, option
from laser_fl.rng import RandomStreams
from laser_fl.schemes.approximation import Approximation, Dense, LowRank
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits
from laser_fl.schemes.householder import householder_each
from laser_fl.shapes import Bool, Float

Matrix = Float[Tensor, "_ _"]
Matrices = Float[Tensor, "clients _ _"]


@dataclass(frozen=True)
class Laser(Scheme):
    """LASER: rank-r factors of every matrix worth compressing; other blocks go as they are.

    `Laser(rank, factor_exchange=...)` makes the class of that exchange, as `Path()` makes that of its system; this one
    is the alternating exchange. A matrix m x n gets rank min(rank, m, n).

    Example:
        >>> from laser_fl.blocks import Block
        >>> weight, bias = Block("weight", (100, 50)), Block("bias", (100,))
        >>> Laser(rank=2).compresses(weight), Laser(rank=2).compresses(bias)
        (True, False)
        >>> type(Laser(rank=2, factor_exchange="two-phase")).__name__
        'TwoPhase'
    """

    rank: int = option(2, "largest rank of a matrix's factors", gt=0, lt=2**31)
    factor_exchange: str = option("alternating", "way of the factors to the server", part="factor-exchange")
    phase_split: float = option(0.5, "power share of the first of two-phase's phases", gt=0, lt=1)

    def __new__(
        cls, rank: int = 2, factor_exchange: str = "alternating", phase_split: float = 0.5, **more: Any
    ) -> "Laser":
        """Choose the class of the exchange; a subclass is its own. Raises ConfigError for an unknown exchange."""
        if cls is not Laser:
            return super().__new__(cls)
        if not FACTOR_EXCHANGES.find(factor_exchange):
            rule = f"must be one of {', '.join(FACTOR_EXCHANGES)}"
            hint = did_you_mean(factor_exchange, FACTOR_EXCHANGES)
            raise ConfigError(f"factor-exchange: {rule}, got {quoted(factor_exchange)}{hint}")
        chosen: type[Laser] = FACTOR_EXCHANGES.load(factor_exchange)
        return super().__new__(chosen)

    @cached_property
    def traits(self) -> Traits:
        """Linear, with error feedback."""
        return Traits(linear=True, error_feedback=True)

    def init(self, blocks: tuple[Block, ...], streams: RandomStreams) -> Tensors:
        """Draw a basis of columns (m x r) for every compressed matrix."""
        return self.random_bases(blocks, streams, axis=0)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send the factors of compressed matrices, and the other blocks as they are."""
        signals: Tensors = {}
        approximations: dict[str, Approximation] = {}
        for block in ctx.blocks:
            m = corrected[block.name]
            if block.name not in shared:
                signals[block.name] = m.clone()
                approximations[block.name] = Dense(signals[block.name])
                continue
            sent, approximations[block.name] = self.factors(block, block.to_matrix(m), shared[block.name], ctx)
            signals |= sent
        return signals, approximations

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors | None, Tensors]:
        """Multiply the received factors; take the other blocks as they are."""
        update, factors = {}, {}
        for block in ctx.blocks:
            if block.name not in shared:
                update[block.name] = received.values[block.name]
                continue
            product, factors[block.name] = self.product(block, received, shared[block.name], ctx)
            update[block.name] = block.from_matrix(product)
        return update, self.next_bases(factors, ctx)

    def factors(self, block: Block, matrix: Matrices, basis: Matrix, ctx: RoundContext) -> tuple[Tensors, LowRank]:
        """Make a block's signal m_iᵀ P̂ (even rounds) or m_i Q̂ (odd); its product with the basis is the approximation.

        Args:
            block: a compressed block.
            matrix: its corrected gradients in the matrix view, (transmitters, m, n).
            basis: P̂ (m x r) or Q̂ (n x r), shared.
            ctx: of the exchange.

        Returns:
            Signals by name, and the approximation.
        """
        factor = times(_turned(matrix, ctx), basis)
        bases = basis.expand(len(factor), *basis.shape)
        left, right = (bases, factor) if ctx.updates % 2 == 0 else (factor, bases)
        return {block.name: factor}, LowRank(block, left, right)

    def product(self, block: Block, received: Received, basis: Matrix, ctx: RoundContext) -> tuple[Matrix, Matrix]:
        """Multiply the mean factor with the basis; the mean factor spans the next basis.

        Args:
            block: a compressed block.
            received: estimates of the mean signals.
            basis: P̂ (m x r) or Q̂ (n x r), shared.
            ctx: of the exchange.

        Returns:
            The product (m x n), and the mean factor.
        """
        factor = received.values[block.name]
        return _turned(factor @ basis.mT, ctx), factor

    def basis_length(self, block: Block, ctx: RoundContext) -> int:
        """Return the length of the basis's vectors: m in even rounds (of columns), n in odd ones (of rows)."""
        return block.matrix_shape[ctx.updates % 2]

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shape of one factor: n x r in even rounds, m x r in odd ones."""
        if not self.compresses(block):
            return {block.name: block.shape}
        return {block.name: (block.matrix_shape[1 if ctx.updates % 2 == 0 else 0], self.rank_of(block))}

    def shared_shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return the shape of a basis per compressed matrix."""
        return {block.name: (self.basis_length(block, ctx), self.rank_of(block))} if self.compresses(block) else {}

    def compresses(self, block: Block) -> bool:
        """Return True where one factor is, on average, less than half of the matrix: mn / (r(m + n)/2) > 2."""
        rows, columns = block.matrix_shape
        return not block.is_vector and block.size > self.rank_of(block) * (rows + columns)

    def rank_of(self, block: Block) -> int:
        """Return min(rank, m, n)."""
        return min(self.rank, *block.matrix_shape)

    def random_bases(self, blocks: tuple[Block, ...], streams: RandomStreams, axis: int) -> Tensors:
        """Draw a random basis for every compressed matrix.

        Args:
            blocks: of the model.
            streams: the run's randomness.
            axis: 0 for bases of columns (m x r), 1 for bases of rows (n x r).
        """
        shapes = {b.name: (b.matrix_shape[axis], self.rank_of(b)) for b in blocks if self.compresses(b)}
        return {name: random_basis(shape, streams, name, 0) for name, shape in shapes.items()}

    def next_bases(self, factors: Tensors, ctx: RoundContext) -> Tensors:
        """Return the basis that every factor spans; a new random one where the factor is zero.

        Without that, a block that was received as zero once might be so forever: the completion of a zero factor can
        be orthogonal to all that is to be sent.

        factors: the mean factors by block, (m or n, r).
        """
        if not factors:
            return {}
        if next(iter(factors.values())).is_cuda:  # which is looked at once
            spans = dict(zip(factors, any_of_each(list(factors.values())).tolist(), strict=True))
        else:
            spans = {name: bool(factor.any()) for name, factor in factors.items()}
        spanning = [factor for name, factor in factors.items() if spans[name]]
        bases = iter(orthonormal_each(spanning))
        return {n: next(bases) if spans[n] else _random_like(f, n, ctx) for n, f in factors.items()}


def random_basis(shape: tuple[int, int], streams: RandomStreams, name: str, round: int) -> Float[Tensor, "rows rank"]:
    """Draw an orthonormal basis of random directions.

    Args:
        shape: (length of the vectors, rank).
        streams: the run's randomness.
        name: of the block.
        round: the round before which the basis is drawn, counted from 0.
    """
    return orthonormal(torch.randn(shape, generator=streams.generator(f"laser basis of {name}", round)))


def times(matrix: Float[Tensor, "*clients rows columns"], basis: Matrix) -> Float[Tensor, "*clients rows rank"]:
    """Multiply with a basis of few columns: in the order of storage, which is many times faster than ``@``."""
    if matrix.stride(-1) == 1:
        return linear(matrix, basis.mT.contiguous())
    return (basis.mT @ matrix.mT).mT.contiguous()


def orthonormal(columns: Float[Tensor, "*batch rows rank"]) -> Float[Tensor, "*batch rows rank"]:
    """Orthonormalise columns: the Q of the QR factorisation with diag(R) >= 0.

    Each matrix is factored by itself; columns that carry nothing are completed to a basis. The result is stored in the
    order in which a checkpoint or a message gives it back: products round by that order.
    """
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(columns)
    q, r = factors
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    return (q * signs.unsqueeze(-2)).contiguous()


def orthonormal_each(matrices: Sequence[Float[Tensor, "*clients _ _"]]) -> list[Float[Tensor, "*clients _ _"]]:
    """Orthonormalise the columns of each matrix.

    On a GPU all are factored together; the result differs by rounding, and in the completion of columns that carry
    nothing.

    matrices: (*clients, rows, rank), rank <= rows, all with the same clients.
    """
    if matrices and matrices[0].is_cuda:
        return householder_each(matrices)
    return [orthonormal(matrix) for matrix in matrices]


def any_of_each(matrices: Sequence[Float[Tensor, "*clients _ _"]]) -> Bool[Tensor, " matrices"]:
    """Find the matrices that are not zero, in few steps and on their device."""
    return torch.stack(torch._foreach_norm(list(matrices), torch.inf)) > 0


def _random_like(factor: Float[Tensor, "rows rank"], name: str, ctx: RoundContext) -> Float[Tensor, "rows rank"]:
    basis = random_basis((len(factor), factor.shape[1]), ctx.streams, name, ctx.round + 1)
    return to_device(basis.to(factor.dtype), factor.device)


def _turned(matrix: Float[Tensor, "... rows columns"], ctx: RoundContext) -> Float[Tensor, "..."]:
    """Transpose the matrix in even rounds, in which the basis spans its columns."""
    return matrix.mT if ctx.updates % 2 == 0 else matrix
