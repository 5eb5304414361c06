"""What all factor exchanges share: which matrices are compressed, and orthonormal bases."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.schemes.base import Scheme
from laser_fl.streams import Streams


@dataclass(frozen=True)
class LowRank(Scheme):
    """Rank-r factors of every matrix worth compressing; other blocks go as they are.

    rank: largest rank of a factor, >= 1.
    """

    rank: int

    def compresses(self, block: Block) -> bool:
        """True where one factor is, on average, less than half of the matrix: mn / (r(m + n)/2) > 2."""
        rows, columns = block.matrix_shape
        return not block.is_vector and block.size > self.rank_of(block) * (rows + columns)

    def rank_of(self, block: Block) -> int:
        """min(rank, m, n)."""
        return min(self.rank, *block.matrix_shape)

    def random_bases(self, blocks: tuple[Block, ...], streams: Streams, axis: int) -> Tensors:
        """A random basis per compressed matrix, of its columns (m x r, axis 0) or its rows (n x r, axis 1)."""
        bases = {}
        for index, block in enumerate(blocks):
            if self.compresses(block):
                generator = streams.generator("laser basis", index)
                shape = (block.matrix_shape[axis], self.rank_of(block))
                bases[block.name] = orthonormal(torch.randn(shape, generator=generator))
        return bases


def orthonormal(columns: Float[Tensor, "*batch rows rank"]) -> Float[Tensor, "*batch rows rank"]:
    """Orthonormalise columns: the Q of the QR factorisation with diag(R) >= 0.

    Each matrix by itself; columns that carry nothing are completed to a basis.
    """
    factors: tuple[Tensor, Tensor] = torch.linalg.qr(columns)
    q, r = factors
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    return q * signs.unsqueeze(-2)
