"""What a scheme sends for a model, without training it: values and bytes per client and round.

Source: paper, Table 3 and §H.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from laser_fl.blocks import Block
from laser_fl.config import RunConfig
from laser_fl.models import MODELS
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Scheme
from laser_fl.schemes.exchanges import EXCHANGES
from laser_fl.streams import Streams
from laser_fl.tables import from_fields

FLOAT_BYTES = 4


@dataclass(frozen=True)
class Volume:
    """What one client sends in one round.

    rounds: which rounds it holds for. values: through the air, at `bits` each on a digital link.
    side_values: norms up and amplitudes down.
    """

    strategy: str
    rounds: str
    values: int
    bits: int
    side_values: int

    @property
    def bytes(self) -> int:
        """Of the values."""
        return math.ceil(self.values * self.bits / 8)

    @property
    def side_bytes(self) -> int:
        """Of the side channel."""
        return self.side_values * FLOAT_BYTES


def model_blocks(name: str) -> tuple[Block, ...]:
    """The blocks of a model in MODELS, without allocating it."""
    with torch.device("meta"):
        blocks: tuple[Block, ...] = MODELS.load(name)().blocks
    return blocks


def volumes(config: RunConfig, blocks: Sequence[Block]) -> list[Volume]:
    """The config's scheme over `blocks`: one line, or one each for even and odd rounds where they differ."""
    scheme: Scheme = from_fields(SCHEMES.load(config.strategy), config)
    even, odd = (_round(config, scheme, blocks, parity) for parity in (0, 1))
    name, bits = config.strategy, scheme.promises.bits_per_value
    if config.strategy == "laser":
        name = f"{name} {config.factor_exchange}, rank {config.rank}"
    if even == odd:
        return [Volume(name, "every", even[0], bits, even[1])]
    return [Volume(name, "even", even[0], bits, even[1]), Volume(name, "odd", odd[0], bits, odd[1])]


def all_volumes(config: RunConfig, blocks: Sequence[Block]) -> list[Volume]:
    """Every scheme over `blocks`, LASER by every exchange; the other options are the config's."""
    lines = []
    for name in SCHEMES:
        exchanges = list(EXCHANGES) if name == "laser" else [config.factor_exchange]
        for exchange in exchanges:
            options = config.model_copy(update={"strategy": name, "factor_exchange": exchange})
            lines += volumes(options, blocks)
    return lines


def _round(config: RunConfig, scheme: Scheme, blocks: Sequence[Block], parity: int) -> tuple[int, int]:
    """(values, side-channel values) of an even or an odd round, over all its phases."""
    values = side = 0
    for phase in range(len(scheme.promises.phase_shares)):
        ctx = Context(tuple(blocks), parity, phase, config.power, 1.0, config.clients, Streams(config.seed))
        for block in blocks:
            values += scheme.values(block, ctx)
            signals = scheme.signals(block, ctx)
            side += 2 * signals + (signals > 0)  # a norm and an amplitude each, and the block's norm
    return values, side
