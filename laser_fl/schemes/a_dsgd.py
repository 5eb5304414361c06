"""A-DSGD: the largest values of each client, all projected to the same few numbers.

Each client selects the k = ⌊sparsity · s⌋ largest values of its corrected gradient (s/2 by default) and sends the
projection A x of this sparse vector, s = ⌊factor · d⌋ numbers. A is shared, pseudo-random and fixed for the run, so
that the air adds up A Σ x_i. The server's recovery estimates the mean sparse vector. Blocks too small for a single
largest value go uncompressed.

Source: Amiri, Gündüz, "Machine learning at the wireless edge: distributed stochastic gradient descent over-the-air",
IEEE Trans. Signal Processing, 2020; paper, App. A. Deviations: A is structured instead of Gaussian, so that large
blocks fit; each block is projected by itself; the power follows the channel's rule for all schemes instead of a scaling
sent along.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from laser_fl.blocks import Block, Tensors, as_rows
from laser_fl.registry import RECOVERIES, option
from laser_fl.schemes.approximation import Approximation, Dense, OwnIndices
from laser_fl.schemes.base import Received, RoundContext, Scheme, Shapes, Traits
from laser_fl.schemes.indices import floor, topk_indices
from laser_fl.schemes.projection import Projection, projections_on
from laser_fl.shapes import Float, Float64

ITERATIONS = 50
PATIENCE = 5  # iterations without a smaller residual before the algorithm stops
IMPROVEMENT = 1e-3  # relative; a smaller decrease of the residual is none
THRESHOLD = 2.0  # in units of τ


@dataclass(frozen=True)
class ADsgd(Scheme):
    """A-DSGD: signal = projection of the sparsified gradient.

    Example:
        >>> ADsgd(compression_factor=0.05, sparsity=0.25, recovery="amp").traits.linear
        False
    """

    compression_factor: float = option(0.1, "numbers sent per value", gt=0, le=1)
    sparsity: float = option(0.5, "largest values in the approximation, per number sent", gt=0, le=1)
    recovery: str = option("lmmse", "method by which the server recovers the sparse mean", part="recovery")

    @cached_property
    def traits(self) -> Traits:
        """Error feedback. Not linear: each client's largest values are its own."""
        return Traits(error_feedback=True)

    def encode(
        self, corrected: Tensors, shared: Tensors, ctx: RoundContext
    ) -> tuple[Tensors, dict[str, Approximation]]:
        """Send the projection of the largest values; they are the approximation."""
        signals: Tensors = {}
        approximations: dict[str, Approximation] = {}
        projections = self._projections(ctx, corrected)
        for block in ctx.blocks:
            if not self.compresses(block):
                signals[block.name] = corrected[block.name].clone()
                approximations[block.name] = Dense(signals[block.name])
                continue
            m = as_rows(corrected[block.name])
            indices = topk_indices(m.abs(), floor(self.sparsity * self.values(block, ctx)))
            sparse = OwnIndices(indices, m.gather(1, indices))
            signals[block.name] = projections[block.name].project(sparse.scattered(block.size))
            approximations[block.name] = sparse
        return signals, approximations

    def decode(self, received: Received, shared: Tensors, ctx: RoundContext) -> tuple[Tensors, Tensors]:
        """Estimate the mean sparse vector of every block."""
        recover = RECOVERIES.load(self.recovery)
        update = {}
        projections = self._projections(ctx, received.values)
        for block in ctx.blocks:
            value = received.values[block.name]
            if self.compresses(block):
                value = recover(value, received.noise_std[block.name], projections[block.name]).view(block.shape)
            update[block.name] = value
        return update, shared

    def shapes(self, block: Block, ctx: RoundContext) -> Shapes:
        """Return ⌊factor · d⌋ numbers, or the shape of a block that is too small to compress."""
        return {block.name: (self._measurements(block),) if self.compresses(block) else block.shape}

    def compresses(self, block: Block) -> bool:
        """Return True where at least one largest value is left to send."""
        return floor(self.sparsity * self._measurements(block)) >= 1

    def _measurements(self, block: Block) -> int:
        return floor(self.compression_factor * block.size)

    def _projections(self, ctx: RoundContext, like: Tensors) -> dict[str, Projection]:
        """Return the projections of the blocks that are compressed, on the device of `like`."""
        compressed = [(index, block) for index, block in enumerate(ctx.blocks) if self.compresses(block)]
        sizes = tuple((index, block.size, self._measurements(block)) for index, block in compressed)
        projections = projections_on(next(iter(like.values())).device, ctx.streams, sizes)
        return {block.name: projection for (_, block), projection in zip(compressed, projections, strict=True)}


def lmmse(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate x from y = A x + noise by least mean-square error, for values of variance 1: Aᵀ (A Aᵀ + τ² I)⁻¹ y.

    Here A Aᵀ = g I, so that the estimate is a scaled Aᵀ y. A gradient's values are far smaller than 1, and so is the
    noise in its unit: the estimate comes down to the pseudo-inverse that the LASER authors used, and is the
    minimum-norm solution where there is no noise. (With the variance measured from the received values instead,
    training is worse: the shrinkage, which the clients' memory cannot know of, takes most of the step away.)

    Source: Kay, "Fundamentals of Statistical Signal Processing: Estimation Theory", 1993, §12.5.

    Args:
        y: the received mean projection, (s,).
        noise_std: τ, standard deviation of the noise in each value of y, >= 0.
        projection: A.

    Returns:
        The estimate of x, (d,).
    """
    return projection.transpose(y) / (projection.gain + noise_std.square()).to(y)


def amp(
    y: Float[Tensor, " measurements"], noise_std: Float[Tensor, ""], projection: Projection
) -> Float[Tensor, " size"]:
    """Estimate the sparse x from y = A x + noise by approximate message passing.

    Iterate x ← η(x + Aᵀ z; θ), z ← y - A x + z ‖x‖₀ / s, with the soft threshold η and the Onsager term ‖x‖₀ / s,
    which keeps the error of x + Aᵀ z like Gaussian noise of standard deviation τ = ‖z‖/√s, the channel's noise
    included. The threshold is θ = 2τ, about the minimax choice for the few measurements that compression leaves. The
    iteration stops when it no longer improves or has reached the noise.

    Source: Donoho, Maleki, Montanari, "Message-passing algorithms for compressed sensing", 2009; Amiri, Gündüz,
    "Machine learning at the wireless edge", 2020.

    Args:
        y: the received mean projection, (s,).
        noise_std: standard deviation of the channel's noise in each value of y, >= 0.
        projection: A.

    Returns:
        The estimate of x, (d,).
    """
    scale = y.abs().amax().clamp_min(torch.finfo(y.dtype).tiny)  # squares must not overflow
    y, noise_std = y / scale, noise_std / scale
    x, z = y.new_zeros(projection.size), y
    level = least = _level(y)
    waited = torch.zeros_like(level)
    running = level >= 0
    for _ in range(ITERATIONS):
        if not (x.is_cuda or running):
            break
        stepped = _shrunk(x + projection.transpose(z), THRESHOLD * level)
        onsager = stepped.count_nonzero().double() / projection.measurements
        z = y - projection.project(stepped) + z * onsager.to(z.dtype)
        x = torch.where(running, stepped, x)
        level = _level(z)
        waited = torch.where(level < least * (1 - IMPROVEMENT), 0, waited + 1)
        least = least.minimum(level)
        running = running & (level > noise_std) & (waited != PATIENCE)
    return x * scale


def _level(residual: Float[Tensor, " measurements"]) -> Float64[Tensor, ""]:
    """Return τ, the standard deviation of the effective noise."""
    return residual.square().mean().sqrt().double()


def _shrunk(x: Float[Tensor, " size"], threshold: Float64[Tensor, ""]) -> Float[Tensor, " size"]:
    """Return η(x; θ): all values nearer to zero by θ, and zero where they would cross it."""
    theta = threshold.to(x.dtype)
    return x - x.clamp(-theta, theta)
