"""Orthonormal bases of many matrices at once: for GPUs, which are slow at one small matrix after another."""

from collections.abc import Sequence

import torch
from torch import Tensor

from laser_fl.shapes import Float

Columns = Float[Tensor, "*clients _ _"]


def householder_each(matrices: Sequence[Columns]) -> list[Columns]:
    """Orthonormalise the columns of each matrix, those of one rank together.

    matrices: (*clients, rows, rank), rank <= rows, all with the same clients.
    """
    bases: dict[int, Tensor] = {}
    for rank in {matrix.shape[-1] for matrix in matrices}:
        places = [i for i, matrix in enumerate(matrices) if matrix.shape[-1] == rank]
        together = householder(_padded([matrices[i] for i in places]))
        bases |= {i: q[..., : matrices[i].shape[-2], :] for i, q in zip(places, together.unbind(-3), strict=True)}
    return [bases[i] for i in range(len(matrices))]


def householder(columns: Float[Tensor, "*batch rows rank"]) -> Float[Tensor, "*batch rows rank"]:
    """Orthonormalise columns like `orthonormal`, all matrices at once, by one reflection per column.

    Rows of zeros at the end stay zero. A column of which the earlier ones leave nothing is not reflected, and its place
    in the basis is taken by what the other reflections make of a unit vector. Nothing here is a matrix product, which a
    GPU may round to fewer bits.

    Source: Golub, Van Loan, "Matrix Computations", 2013, §5.1 and §5.2.
    """
    largest = columns.abs().amax(dim=-2, keepdim=True)
    rest = columns / torch.where(largest > 0, largest, 1.0)  # no basis depends on lengths, and squares must not vanish
    normals, signs = [], []
    for j in range(columns.shape[-1]):
        normal, sign = _normal(rest[..., j:, j])
        _reflect_(rest[..., j:, j:], normal)
        normals.append(normal)
        signs.append(sign)
    basis = torch.zeros_like(columns)
    basis.diagonal(dim1=-2, dim2=-1).fill_(1.0)
    for j, normal in reversed(list(enumerate(normals))):
        _reflect_(basis[..., j:, j:], normal)
    return basis.mul_(torch.cat(signs, dim=-1).unsqueeze(-2))


def _padded(matrices: list[Columns]) -> Float[Tensor, "*clients matrices rows rank"]:
    """Stack matrices, with rows of zeros below the shorter ones."""
    longest = max(matrix.shape[-2] for matrix in matrices)
    zeros = torch.zeros_like(matrices[0][..., :1, :])
    parts = []
    for matrix in matrices:
        missing = longest - matrix.shape[-2]
        parts += [matrix, zeros.expand(*zeros.shape[:-2], missing, zeros.shape[-1])]
    return torch.cat(parts, dim=-2).view(*zeros.shape[:-2], len(matrices), longest, zeros.shape[-1])


def _normal(column: Float[Tensor, "*batch rows"]) -> tuple[Float[Tensor, "*batch rows"], Float[Tensor, "*batch 1"]]:
    """Return the unit normal of the reflection of a column onto the first axis, zero where the column is.

    The second result is the sign, 1 or -1, by which R's diagonal becomes positive.
    """
    length = torch.linalg.vector_norm(column, dim=-1, keepdim=True)
    carries = length > torch.finfo(column.dtype).eps ** 2  # below the rounding of earlier columns; they are about 1
    ahead = torch.where(column[..., :1] < 0, -1.0, 1.0).to(column.dtype)
    normal = column.clone()
    normal[..., :1] += ahead * length  # away from zero, so that nothing cancels
    normal = normal / torch.linalg.vector_norm(normal, dim=-1, keepdim=True)
    return torch.where(carries, normal, 0.0), torch.where(carries, -ahead, 1.0)


def _reflect_(vectors: Float[Tensor, "*batch rows columns"], normal: Float[Tensor, "*batch rows"]) -> None:
    """Reflect vectors by v ← v − 2 n nᵀv, in place."""
    n = normal.unsqueeze(-1)
    vectors.addcmul_(n, (n * vectors).sum(dim=-2, keepdim=True), value=-2)
