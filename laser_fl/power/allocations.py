"""Allocations split a round's power over the model's blocks: each client proposes shares, the server takes their mean.

An allocation maps to shares that sum to 1, of all blocks, from:

    signal_norms: ‖s_il‖ per client and block.
    gradient_norms: ‖m_il‖, of the corrected gradients, per client and block.
    sizes: d_l, values sent per block.

Source: paper, §G.5; `min_mse` is ours.
"""

import numpy as np
import torch
from torch import Tensor

from laser_fl.shapes import Float64
from laser_fl.theory import least_noise_shares

Norms = Float64[Tensor, "clients signals"]
Shares = Float64[Tensor, " signals"]


def signal_norm(signal_norms: Norms, gradient_norms: Norms, sizes: Shares) -> Shares:
    """Split by the norm of the signals: mean_i(‖s_il‖ / Σ_j ‖s_ij‖)."""
    return mean_share(signal_norms)


def uniform(signal_norms: Norms, gradient_norms: Norms, sizes: Shares) -> Shares:
    """Give every block the same: 1 / L."""
    return mean_share(torch.ones_like(signal_norms))


def gradient_norm(signal_norms: Norms, gradient_norms: Norms, sizes: Shares) -> Shares:
    """Split by the norm of the corrected gradient: mean_i(‖m_il‖ / Σ_j ‖m_ij‖)."""
    return mean_share(gradient_norms)


def gradient_norm_squared(signal_norms: Norms, gradient_norms: Norms, sizes: Shares) -> Shares:
    """Split by the energy of the corrected gradient: mean_i(‖m_il‖² / Σ_j ‖m_ij‖²)."""
    largest = gradient_norms.amax(dim=1, keepdim=True)
    return mean_share(torch.where(largest > 0, gradient_norms / largest, 0.0).square())


def min_mse(signal_norms: Norms, gradient_norms: Norms, sizes: Shares) -> Shares:
    """Split so that the noise of all estimates together is least: P_l ∝ c_l √d_l, c_l = max_i ‖s_il‖. Source: ours."""
    return least_noise_shares(signal_norms.amax(dim=0), sizes)


def mean_share(weights: Norms) -> Shares:
    """Average each client's weights, scaled to sum 1, over clients; all-zero weights mean uniform."""
    each = weights.numpy()
    total = each.sum(axis=1, keepdims=True)
    if not total.all():
        each = np.where(total > 0, each, 1.0)
        total = each.sum(axis=1, keepdims=True)
    return torch.from_numpy((each / total).mean(axis=0))
