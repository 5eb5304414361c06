"""The size of a scheme's messages for a model, without training it: values and bytes per client and round.

Source: paper, Table 3 and §H.3.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from laser_fl.blocks import Block
from laser_fl.channels import orthogonal
from laser_fl.channels.base import Channel, ChannelState
from laser_fl.config import RunConfig, parse
from laser_fl.models.base import Network, build
from laser_fl.registry import CHANNELS, FACTOR_EXCHANGES, MODELS, SCHEMES
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import RoundContext, Scheme
from simulations.look import BYTES_PER_VALUE, scaled_bytes
from simulations.texts import Listing

NUMBERS = ("values", "bytes", "fewer", "side channel", "digital link")
CAPTION = (
    f"bytes: {BYTES_PER_VALUE} a value (float32), on the air and in the noiseless side channel; digital link: the same "
    "message in bits, such as one for a sign; laser alternating sends one factor a round, in turn"
)


@dataclass(frozen=True)
class Volume:
    """The size of one client's messages in one round.

    rounds: to which it applies: every, even or odd. values: number of values of 32 bits through the air, as in a run's
    ledger. bits: of the message on a digital link. side_values: number of values in the side channel, norms up and
    amplitudes down.
    """

    strategy: str
    rounds: str
    values: int
    bits: float
    side_values: int

    @property
    def bytes(self) -> int:
        """Bytes of the values, four each whatever the scheme."""
        return self.values * BYTES_PER_VALUE

    @property
    def digital_bytes(self) -> int:
        """Bytes of the message on a digital link, where a sign takes one bit; the paper's Table 3 counts these."""
        return math.ceil(self.bits / 8)

    @property
    def side_bytes(self) -> int:
        """Bytes of the values in the side channel."""
        return self.side_values * BYTES_PER_VALUE


def model_blocks(name: str, config: RunConfig | None = None) -> tuple[Block, ...]:
    """Return the blocks of a model in MODELS, of the config's size, without allocating it."""
    with torch.device("meta"):
        network: Network = build(MODELS.load(name), config or parse({}))
        return network.blocks


def volumes(config: RunConfig, blocks: Sequence[Block]) -> list[Volume]:
    """Compute the config's scheme over `blocks`: one line, or one each for even and odd rounds where they differ."""
    scheme: Scheme = SCHEMES.build(config.strategy, config)
    even, odd = (_round(config, scheme, blocks, parity) for parity in (0, 1))
    name = config.strategy
    if config.strategy == "laser":
        name = f"{name} {config.factor_exchange}, rank {config.rank}"
    if even == odd:
        return [Volume(name, "every", *even)]
    return [Volume(name, "even", *even), Volume(name, "odd", *odd)]


def all_volumes(config: RunConfig, blocks: Sequence[Block]) -> list[Volume]:
    """Compute every scheme over `blocks`, LASER by every exchange; the other options are the config's.

    Raises:
        ConfigError: an option that is wrong for one of the schemes.
    """
    lines = []
    for name in SCHEMES:
        exchanges = list(FACTOR_EXCHANGES) if name == "laser" else [config.factor_exchange]
        for exchange in exchanges:
            options = config.to_flat() | {"strategy": name, "factor-exchange": exchange}
            lines += volumes(parse(options), blocks)
    return lines


def listing(model: str, config: RunConfig, strategy: str | None = None) -> Listing:
    """Return the table of what a client sends in a round for a model in MODELS.

    Args:
        model: its name.
        config: with the schemes' options.
        strategy: the config's, alone; None: every one.

    Raises:
        ConfigError: an option that is wrong for one of the schemes.
    """
    blocks = model_blocks(model, config)
    total = sum(block.size for block in blocks)
    lines = all_volumes(config, blocks) if strategy is None else volumes(config, blocks)
    title = f"{model}: {total:,} values, {scaled_bytes(total * BYTES_PER_VALUE)}, per client and round"
    rows = [
        (
            line.strategy,
            line.rounds,
            f"{line.values:,}",
            scaled_bytes(line.bytes),
            f"{total / line.values:,.0f}x" if line.values else "",
            scaled_bytes(line.side_bytes),
            scaled_bytes(line.digital_bytes),
        )
        for line in lines
    ]
    return Listing(title, ("strategy", "rounds", *NUMBERS), rows, NUMBERS, CAPTION)


def _round(config: RunConfig, scheme: Scheme, blocks: Sequence[Block], parity: int) -> tuple[int, float, int]:
    """Compute (values, their bits, side-channel values) of an even or an odd round, over all its phases."""
    values, bits, side = 0, 0.0, 0
    everyone = tuple(range(config.clients))
    channel: Channel = CHANNELS.build(config.channel, config)
    uses = config.channel_uses or sum(block.size for block in blocks)
    room = orthogonal.capacity(ChannelState.ideal(config.clients), uses, config.power, config.noise_variance)
    for phase in range(len(scheme.traits.phase_shares)):
        ctx = RoundContext(
            blocks=tuple(blocks),
            round=parity,
            phase=phase,
            updates=parity,
            power=config.power,
            noise_std=0.0 if math.isinf(config.power) else channel.noise_std(config.clients),
            clients=config.clients,
            participants=everyone,
            transmitters=everyone,
            averaged=config.clients,
            bits=tuple(room.tolist()),
            streams=RandomStreams(config.seed),
        )
        message = float(scheme.payload(torch.tensor(scheme.num_values(ctx)), ctx))
        bits += message
        values += math.ceil(message / (8 * BYTES_PER_VALUE)) if scheme.traits.digital else scheme.num_values(ctx)
        for block in blocks:
            signals = scheme.signals(block, ctx)
            side += 2 * signals + (signals > 0)  # a norm and an amplitude each, and the block's norm
    return values, bits, side
