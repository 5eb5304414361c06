"""A comparison, block by block, of the noise that the paper's theory promises for LASER and Z-SGD."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import encode_update
from laser_fl.schemes.laser import Laser
from laser_fl.shapes import Float
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
        """The method with less noise by the theory; "" where neither has."""
        if self.laser_bound is None or self.laser_bound == self.z_sgd:
            return ""
        return "LASER" if self.laser_bound < self.z_sgd else "Z-SGD"


def block_power(config: RunConfig, blocks: int) -> float:
    """Compute P k² / (σ² L), the worth of an equal share of the power to each of L blocks."""
    noise = config.noise_variance
    return config.power * config.clients**2 / noise / blocks if noise > 0 else math.inf


def influences(config: RunConfig, model: str) -> list[Influence]:
    """Compute λ of Z-SGD and the bound on λ of LASER per block, at the block's share P/L of the power.

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
    """Measure λ of the config's scheme for one client's gradient, by one round through the channel.

    λ = ‖y(g) - C(g)‖² / ‖C(g)‖², where C(g) is the scheme's approximation of the gradient. Source: paper, Eq. (3).
    Deviation: one draw of the noise stands for its expectation, to which it is close for many values.
    config: of one client, plain SGD and step size 1, so that the model's step is the update.
    """
    server = Server(config, {"matrix": torch.zeros_like(gradient)}, RoundSchedule(1), sizes=(1,))
    losses = torch.zeros(1, dtype=torch.float64)
    client_update, memory = encode_update(server.broadcast(), {"matrix": gradient.unsqueeze(0)}, losses, {})
    server.aggregate([Reply(0, (0,), client_update)])
    approximation = gradient - memory["matrix"][0] if memory else gradient
    noise = server.global_model.weights["matrix"] + approximation
    return float(noise.square().sum() / approximation.square().sum())
