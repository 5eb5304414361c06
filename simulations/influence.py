"""Where the paper's theory promises LASER less noise than Z-SGD, block by block."""

import math
from dataclasses import dataclass

from laser_fl.config import RunConfig
from laser_fl.schemes.exchanges.alternating import Alternating
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
    laser = Alternating(config.rank)
    lines = []
    for block in blocks:
        rows, columns = block.matrix_shape
        bound = None
        if laser.compresses(block):
            bound = influence_laser_bound(power, rows, columns, laser.rank_of(block))
        lines.append(Influence(block.name, rows, columns, influence_z_sgd(power, rows, columns), bound))
    return lines
