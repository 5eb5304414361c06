"""Who takes part in a round, over which links, and who of them has something to say there."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from laser_fl.blocks import Block
from laser_fl.channels import orthogonal
from laser_fl.channels.base import Channel, Links
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.rng import Streams
from laser_fl.schemes.base import Scheme


def participants(clients: int, fraction: float, dropout_rate: float, round: int, streams: Streams) -> tuple[int, ...]:
    """The clients that take part in `round`, by number, rising.

    The server asks ``fraction`` of all, at least one, drawn anew each round; of these each drops out
    with the probability ``dropout_rate``. A client that is not there computes nothing and keeps its memory.
    """
    present: Sequence[int] = range(clients)
    if (count := asked(clients, fraction)) < clients:
        present = torch.randperm(clients, generator=streams.generator("participants", round))[:count].tolist()
    if dropout_rate > 0:
        stays = torch.rand(clients, generator=streams.generator("dropouts", round)) >= dropout_rate
        present = [client for client in present if stays[client]]
    return tuple(sorted(present))


def asked(clients: int, fraction: float) -> int:
    """How many clients the server asks in a round: the fraction of all, rounded, and at least one."""
    return max(1, int(fraction * clients + 0.5))


@dataclass(frozen=True)
class Turnout:
    """One round's clients.

    present: numbers of those that take part, rising. speakers: of those that transmit.
    links, bits: of the speakers; what a link carries in an exchange, inf for analog schemes.
    channel_uses: of an exchange, for digital schemes: the turns of those who speak.
    """

    present: tuple[int, ...]
    speakers: tuple[int, ...]
    links: Links
    bits: tuple[float, ...]
    channel_uses: int = 0

    @classmethod
    def drawn(
        cls,
        config: RunConfig,
        channel: Channel,
        scheme: Scheme,
        blocks: Sequence[Block],
        round: int,
        power: float,
        streams: Streams,
    ) -> "Turnout":
        """Draw the turnout of `round`, whose power budget is `power`, linear."""
        present = participants(config.clients, config.fraction, config.dropout_rate, round, streams)
        links = channel.links(present, config.clients, round, streams)
        speaks, bits, turns, uses = links.speaks, [math.inf] * len(present), int(links.speaks.sum()), 0
        if scheme.promises.digital:
            uses = config.channel_uses or sum(block.size for block in blocks)
            bits = orthogonal.capacity(links, uses, power, channel.noise_variance).tolist()
            fits = [scheme.speaks(room, tuple(blocks)) for room in bits]
            speaks = speaks & torch.tensor(fits, dtype=torch.bool)
        speaking = [(client, room) for client, room, s in zip(present, bits, speaks.tolist(), strict=True) if s]
        return cls(
            present=present,
            speakers=tuple(client for client, _ in speaking),
            links=links.at(speaks),
            bits=tuple(room for _, room in speaking),
            channel_uses=math.floor(uses * len(speaking) / max(1, turns) + 0.5),
        )

    def of(self, clients: Collection[int]) -> "Turnout":
        """Those that are among `clients`; an exchange takes the channel uses that were planned for all."""
        if len(self.present) == len(clients):
            return self
        stays = torch.tensor([speaker in clients for speaker in self.speakers], dtype=torch.bool)
        return replace(
            self,
            present=tuple(client for client in self.present if client in clients),
            speakers=tuple(speaker for speaker in self.speakers if speaker in clients),
            links=self.links.at(stays),
            bits=tuple(room for room, s in zip(self.bits, stays.tolist(), strict=True) if s),
        )


def refuse_silence(config: RunConfig, channel: Channel, rounds: int, streams: Streams) -> None:
    """Raise ConfigError where `channel` is expected to let fewer than one client speak in a run of `rounds`."""
    likely = float(channel.speaking_probability(config.clients, streams).mean())
    present = asked(config.clients, config.fraction) * (1 - config.dropout_rate)
    expected = likely * present * rounds
    if likely < 1 and not expected >= 1:  # NaN is refused, too
        rule = f"must let at least one client speak in the whole run, expected are {expected:.2g}"
        raise ConfigError(f"gain-threshold: {rule}, got {config.gain_threshold}")
