"""Approximate message passing: the receiver that knows that the mean is sparse.

Iterate x ← η(x + Aᵀ z; θ), z ← y − A x + z ‖x‖₀ / s, with the soft threshold η and the Onsager
term ‖x‖₀ / s, which keeps the error of x + Aᵀ z looking like Gaussian noise of standard
deviation τ = ‖z‖/√s, the channel's noise included. The threshold is θ = 2τ, about the minimax
choice for the few measurements that compression leaves.

Source: Donoho, Maleki, Montanari, "Message-passing algorithms for compressed sensing", 2009;
Amiri, Gündüz, "Machine learning at the wireless edge", 2020.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softshrink

from laser_fl.schemes.projection import Projection

ITERATIONS = 50
PATIENCE = 5  # iterations without a smaller residual before it stops
IMPROVEMENT = 1e-3  # relative; less is none
THRESHOLD = 2.0  # in units of τ


def amp(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate the sparse x from y = A x + noise; stops when it no longer improves or has reached the noise."""
    scale = y.abs().amax().clamp_min(torch.finfo(y.dtype).tiny)  # squares must not overflow
    y, noise_std = y / scale, noise_std / scale
    x, z = y.new_zeros(projection.size), y
    level = least = _level(y)
    waited = 0
    for _ in range(ITERATIONS):
        x = softshrink(x + projection.transpose(z), THRESHOLD * level)
        z = y - projection.project(x) + z * (int(x.count_nonzero()) / projection.measurements)
        level = _level(z)
        waited = 0 if level < least * (1 - IMPROVEMENT) else waited + 1
        least = min(least, level)
        if level <= noise_std or waited == PATIENCE:
            break
    return x * scale


def _level(residual: Float[Tensor, " measurements"]) -> float:
    """τ: standard deviation of the effective noise."""
    return float(residual.square().mean().sqrt())
