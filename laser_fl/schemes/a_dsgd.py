"""A-DSGD: the largest values of each client, all projected to the same few numbers.

Each client keeps the k = ⌊sparsity · s⌋ largest values of its corrected gradient (s/2 by default)
and sends the projection A x of this sparse vector, s = ⌊factor · d⌋ numbers. A is shared,
pseudo-random and fixed for the run, so that the air adds up A Σ x_i. The server's receiver
estimates the mean sparse vector. Blocks too small for a single largest value go uncompressed.

Source: Amiri, Gündüz, "Machine learning at the wireless edge: distributed stochastic gradient
descent over-the-air", IEEE Trans. Signal Processing, 2020; paper, App. A. Deviations: A is
structured instead of Gaussian, so that large blocks fit; each block is projected by itself;
the power follows the channel's rule for all schemes instead of a scaling sent along.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import softshrink

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.registry import RECOVERIES
from laser_fl.schemes.approximation import Everything, Kept, Sparse
from laser_fl.schemes.base import Context, Heard, Promises, Scheme, Shapes
from laser_fl.schemes.indices import floor, largest
from laser_fl.schemes.projection import Projection


@dataclass(frozen=True)
class ADsgd(Scheme):
    """Signal = projection of the sparsified gradient.

    compression_factor: numbers sent per value, in (0, 1].
    sparsity: largest values kept per number sent, k/s, in (0, 1].
    recovery: a name in RECOVERIES.
    """

    compression_factor: float
    sparsity: float
    recovery: str

    @property
    def promises(self) -> Promises:
        """Error feedback. Not linear: each client's largest values are its own."""
        return Promises(error_feedback=True)

    def encode(self, corrected: Tensors, shared: Tensors, ctx: Context) -> tuple[Tensors, dict[str, Kept]]:
        """Send the projection of the largest values; keep the largest values."""
        signals: Tensors = {}
        kept: dict[str, Kept] = {}
        for index, block in enumerate(ctx.blocks):
            if not self.compresses(block):
                signals[block.name] = corrected[block.name].clone()
                kept[block.name] = Everything(signals[block.name])
                continue
            m = as_rows(corrected[block.name])
            places = largest(m.abs(), floor(self.sparsity * self.values(block, ctx)))
            sparse = Sparse(places, m.gather(1, places))
            signals[block.name] = self._projection(block, index, ctx).project(sparse.scattered(block.size))
            kept[block.name] = sparse
        return signals, kept

    def decode(self, heard: Heard, shared: Tensors, ctx: Context) -> tuple[Tensors, Tensors]:
        """Estimate the mean sparse vector of every block."""
        recover = RECOVERIES.load(self.recovery)
        update = {}
        for index, block in enumerate(ctx.blocks):
            value = heard.values[block.name]
            if self.compresses(block):
                projection = self._projection(block, index, ctx)
                value = recover(value, heard.noise_std[block.name], projection).view(block.shape)
            update[block.name] = value
        return update, shared

    def shapes(self, block: Block, ctx: Context) -> Shapes:
        """⌊factor · d⌋ numbers, or a tiny block as it is."""
        return {block.name: (self._measurements(block),) if self.compresses(block) else block.shape}

    def compresses(self, block: Block) -> bool:
        """True where at least one largest value is left to send."""
        return floor(self.sparsity * self._measurements(block)) >= 1

    def _measurements(self, block: Block) -> int:
        return floor(self.compression_factor * block.size)

    def _projection(self, block: Block, index: int, ctx: Context) -> Projection:
        return Projection.drawn(ctx.streams, index, block.size, self.values(block, ctx))


def lmmse(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate x from y = A x + noise by least mean-square error, for values of variance 1: Aᵀ (A Aᵀ + τ² I)⁻¹ y.

    Here A Aᵀ = g I, so that it is a scaled Aᵀ y. A gradient's values are far smaller than 1, and so is the noise in its
    unit: it comes down to the pseudo-inverse that the LASER authors used, and is the minimum-norm solution where there
    is no noise. (With the variance measured from the received values instead, training is worse: the shrinkage, which
    the clients' memory cannot know of, takes most of the step away.)

    Source: Kay, "Fundamentals of Statistical Signal Processing: Estimation Theory", 1993, §12.5.
    """
    return projection.transpose(y) / (projection.gain + noise_std.square()).to(y)


ITERATIONS = 50
PATIENCE = 5  # iterations without a smaller residual before it stops
IMPROVEMENT = 1e-3  # relative; less is none
THRESHOLD = 2.0  # in units of τ


def amp(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate the sparse x from y = A x + noise by approximate message passing.

    Iterate x ← η(x + Aᵀ z; θ), z ← y - A x + z ‖x‖₀ / s, with the soft threshold η and the Onsager term ‖x‖₀ / s,
    which keeps the error of x + Aᵀ z like Gaussian noise of standard deviation τ = ‖z‖/√s, the channel's noise
    included. The threshold is θ = 2τ, about the minimax choice for the few measurements that compression leaves. It
    stops when it no longer improves or has reached the noise.

    Source: Donoho, Maleki, Montanari, "Message-passing algorithms for compressed sensing", 2009; Amiri, Gündüz,
    "Machine learning at the wireless edge", 2020.
    """
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
