"""Where the paper's theory promises LASER less noise than Z-SGD, block by block."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.federated.schedule import Plan
from laser_fl.federated.server import Training
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import send
from laser_fl.schemes.laser import Laser
from laser_fl.theory import influence_laser_bound, influence_z_sgd
from simulations.volume import model_blocks


@dataclass(frozen=True)
class Influence:
    """Noise energy relative to the gradient's, for one block. laser_bound: None where LASER does not compress."""

    block: str
    rows: int
    columns: int
    z_sgd: float
    laser_bound: float | None

    @property
    def less_noise(self) -> str:
        """Who the theory promises less noise."""
        if self.laser_bound is None or self.laser_bound == self.z_sgd:
            return ""
        return "LASER" if self.laser_bound < self.z_sgd else "Z-SGD"


def block_power(config: RunConfig, blocks: int) -> float:
    """P k² / (σ² L): what an equal share of the power is worth to each of L blocks."""
    noise = config.noise_variance
    return config.power * config.clients**2 / noise / blocks if noise > 0 else math.inf


def influences(config: RunConfig, model: str) -> list[Influence]:
    """λ of Z-SGD and the bound on λ of LASER per block, at the block's share P/L of the power.

    The theory is for one client; k clients with like gradients and noise variance σ² are worth
    a power of P k²/σ². Source: paper, Eq. (11), (12) and §F.3. Deviation: power split equally.
    """
    blocks = model_blocks(model, config)
    power = block_power(config, len(blocks))
    laser = Laser(config.rank)
    lines = []
    for block in blocks:
        rows, columns = block.matrix_shape
        bound = None
        if laser.compresses(block):
            bound = influence_laser_bound(power, rows, columns, laser.rank_of(block))
        lines.append(Influence(block.name, rows, columns, influence_z_sgd(power, rows, columns), bound))
    return lines


def measured_influence(config: RunConfig, gradient: Float[Tensor, "rows columns"]) -> float:
    """λ of the config's scheme for one client's gradient, by one round through the real air.

    λ = ‖y(g) - C(g)‖² / ‖C(g)‖², C(g) being what the scheme keeps of the gradient. Source: paper, Eq. (3).
    Deviation: one draw of the noise stands for its expectation, which many values make it.
    config: of one client, plain SGD and step size 1, so that the model's step is the update.
    """
    training = Training(config, {"matrix": torch.zeros_like(gradient)}, Plan(1))
    losses = torch.zeros(1, dtype=torch.float64)
    uplink, memory = send(training.broadcast(), {"matrix": gradient.unsqueeze(0)}, losses, {})
    training.absorb([Reply(0, (0,), uplink)])
    kept = gradient - memory["matrix"][0] if memory else gradient
    noise = training.server.weights["matrix"] + kept
    return float(noise.square().sum() / kept.square().sum())
