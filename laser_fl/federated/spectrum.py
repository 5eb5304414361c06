"""The spectrum of an update: the share of energy in its largest singular values, matrix by matrix.

Source: paper, §H.1 and Fig. 6.
"""

import torch
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.shapes import Float


def energy_share(matrix: Float[Tensor, "rows columns"], rank: int) -> float:
    """Compute Σ_{i ≤ rank} σ_i² / Σ_i σ_i²; 0 for a matrix of zeros.

    The energies σ_i² are the eigenvalues of the Gram matrix of the shorter side.
    """
    wide = (matrix if matrix.shape[0] <= matrix.shape[1] else matrix.mT).double()
    energies = torch.linalg.eigvalsh(wide @ wide.mT).clamp_min(0)
    total = energies.sum()
    return float(energies[-rank:].sum() / total) if total > 0 else 0.0


def spectrum(update: Tensors, blocks: tuple[Block, ...], rank: int) -> dict[str, float]:
    """Compute `energy_share` of every matrix with more than `rank` rows and columns, by block.

    Args:
        update: of the server in a round; with strategy ``sgd`` it is the mean gradient.
        blocks: of the model.
        rank: at least 1.
    """
    matrices = [block for block in blocks if min(block.matrix_shape) > rank]
    return {block.name: energy_share(block.to_matrix(update[block.name]), rank) for block in matrices}
