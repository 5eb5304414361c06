"""The linear receiver of least mean-square error, for values of variance 1: Aᵀ (A Aᵀ + τ² I)⁻¹ y.

Here A Aᵀ = g I, so that it is a scaled Aᵀ y. A gradient's values are far smaller than 1, and so
is the noise in its unit: the receiver comes down to the pseudo-inverse that the LASER authors
used, and is the minimum-norm solution where there is no noise. (With the variance measured
from what was heard instead, training is worse: the shrinkage, which the clients' memory cannot
know of, takes most of the step away.)

Source: Kay, "Fundamentals of Statistical Signal Processing: Estimation Theory", 1993, §12.5.
"""

from jaxtyping import Float
from torch import Tensor

from laser_fl.schemes.projection import Projection


def lmmse(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate x from y = A x + noise, linearly."""
    return projection.transpose(y) / (projection.gain + noise_std.square()).to(y)
