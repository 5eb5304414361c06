"""How much of an update a low rank holds: the energy in its largest singular values, matrix by matrix.

Source: paper, §H.1 and Fig. 6.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from laser_fl.blocks import Block, Tensors


def energy_share(matrix: Float[Tensor, "rows columns"], rank: int) -> float:
    """Σ_{i ≤ rank} σ_i² / Σ_i σ_i², by the eigenvalues of the Gram matrix of the shorter side; 0 for zeros."""
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).double()
    energies = torch.linalg.eigvalsh(wide @ wide.mT).clamp_min(0)
    total = energies.sum()
    return float(energies[-rank:].sum() / total) if total > 0 else 0.0


def spectrum(update: Tensors, blocks: tuple[Block, ...], rank: int) -> dict[str, float]:
    """`energy_share` of every matrix with more than `rank` rows and columns, by block.

    update: what the server made of the round; by strategy ``sgd`` it is the mean gradient.
    """
    matrices = [block for block in blocks if min(block.matrix_shape) > rank]
    return {block.name: energy_share(block.to_matrix(update[block.name]), rank) for block in matrices}
