"""Approximate message passing: the receiver that knows that the mean is sparse.

Iterate x ← η(x + Aᵀ z; θ), z ← y − A x + z ‖x‖₀ / s, with the soft threshold η and the Onsager
term ‖x‖₀ / s, which keeps the error of x + Aᵀ z looking like Gaussian noise of standard
deviation τ = ‖z‖/√s. The threshold is the one of least risk by Stein's unbiased estimate, from a
grid in units of τ, so that nothing is tuned by hand.

Source: Donoho, Maleki, Montanari, "Message-passing algorithms for compressed sensing", 2009;
Amiri, Gündüz, 2020; threshold: Mousavi, Maleki, Baraniuk, "Parameterless optimal approximate
message passing", 2013.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softshrink

from laser_fl.schemes.projection import Projection

ITERATIONS = 50
PATIENCE = 5  # iterations without a smaller residual before it stops
IMPROVEMENT = 1e-3  # relative; less is none
THRESHOLDS = [0.5 + 0.25 * step for step in range(15)]  # in units of τ


def amp(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate the sparse x from y = A x + noise.

    Stops where the residual no longer falls, or has reached the noise, and returns the estimate
    of the smallest residual; zero where nothing stands out of the noise.
    """
    scale = y.abs().amax().clamp_min(torch.finfo(y.dtype).tiny)  # squares must not overflow
    y, noise_std = y / scale, noise_std / scale
    x, z = y.new_zeros(projection.size), y
    best, least, waited = x, _level(y), 0
    for _ in range(ITERATIONS):
        if least <= noise_std or waited == PATIENCE:
            break
        pseudo_data = x + projection.transpose(z)
        x = softshrink(pseudo_data, _best_threshold(pseudo_data, _level(z)))
        z = y - projection.project(x) + z * (int(x.count_nonzero()) / projection.measurements)
        if (level := _level(z)) < least * (1 - IMPROVEMENT):
            best, least, waited = x, level, 0
        else:
            waited += 1
    return best * scale


def _level(residual: Float[Tensor, " measurements"]) -> float:
    """Standard deviation of the effective noise: ‖z‖/√s, the channel's noise included."""
    return float(residual.square().mean().sqrt())


def _best_threshold(pseudo_data: Float[Tensor, " size"], level: float) -> float:
    """The soft threshold of least estimated risk, Σ min(r², θ²) + 2 τ² #{|r| > θ}."""
    magnitudes = pseudo_data.abs()
    risks = [
        magnitudes.clamp_max(threshold).square().sum() + 2 * level**2 * (magnitudes > threshold).sum()
        for threshold in (t * level for t in THRESHOLDS)
    ]
    return THRESHOLDS[int(torch.stack(risks).argmin())] * level
