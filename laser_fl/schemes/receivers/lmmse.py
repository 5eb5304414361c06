"""The linear receiver of least mean-square error.

For x with independent values of variance v and noise of variance τ², the estimate is
v Aᵀ (v A Aᵀ + τ² I)⁻¹ y. Here A Aᵀ = g I, so that it is a scaled Aᵀ y; the energy of what was
heard tells v, since E‖y‖²/s = v g + τ². Without noise it is the minimum-norm solution.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from laser_fl.schemes.projection import Projection


def lmmse(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate x from y = A x + noise, linearly."""
    energy = y.square().mean()
    signal = (energy - noise_std.to(y).square()).clamp_min(0)
    shrinkage = torch.where(energy > 0, signal / energy, 0.0)
    return projection.transpose(y) * (shrinkage / projection.gain)
