"""Participation in a round: its participants, their channel state, and the transmitters among them."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import torch

from laser_fl.blocks import Block
from laser_fl.channels import orthogonal
from laser_fl.channels.base import Channel, ChannelState
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import Scheme


def draw_participants(
    clients: int, fraction: float, dropout_rate: float, round: int, streams: RandomStreams
) -> tuple[int, ...]:
    """Draw the clients that take part in `round`.

    The server asks ``fraction`` of all, at least one, drawn anew each round; of these each drops out with the
    probability ``dropout_rate``. A client that does not participate computes nothing, and its memory stays as it is.

    Args:
        clients: their number in the run.
        fraction: part of the clients that the server asks, in (0, 1].
        dropout_rate: probability, in [0, 1).
        round: counted from 0.
        streams: the run's randomness.

    Returns:
        The participants' numbers, rising.
    """
    participants: Sequence[int] = range(clients)
    if (count := asked(clients, fraction)) < clients:
        participants = torch.randperm(clients, generator=streams.generator("participants", round))[:count].tolist()
    if dropout_rate > 0:
        stays = torch.rand(clients, generator=streams.generator("dropouts", round)) >= dropout_rate
        participants = [client for client in participants if stays[client]]
    return tuple(sorted(participants))


def asked(clients: int, fraction: float) -> int:
    """Return the number of clients that the server asks in a round: the fraction of all, rounded, and at least one."""
    return max(1, int(fraction * clients + 0.5))


@dataclass(frozen=True)
class Participation:
    """One round's participants and transmitters.

    participants: their numbers, rising. transmitters: numbers of those that transmit.
    channel_state: of the transmitters.
    bits: capacity of each transmitter's link in an exchange, inf for analog schemes.
    channel_uses: of an exchange, for digital schemes: the transmitters' turns.
    """

    participants: tuple[int, ...]
    transmitters: tuple[int, ...]
    channel_state: ChannelState
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
        streams: RandomStreams,
    ) -> "Participation":
        """Draw the participation of a round.

        Args:
            config: of the run.
            channel: of the air.
            scheme: of the run.
            blocks: of the model.
            round: counted from 0.
            power: its budget, linear.
            streams: the run's randomness.
        """
        participants = draw_participants(config.clients, config.fraction, config.dropout_rate, round, streams)
        channel_state = channel.links(participants, config.clients, round, streams)
        transmits, bits, uses = channel_state.transmits, [math.inf] * len(participants), 0
        turns = int(transmits.sum())
        if scheme.traits.digital:
            uses = config.channel_uses or sum(block.size for block in blocks)
            bits = orthogonal.capacity(channel_state, uses, power, channel.noise_variance).tolist()
            fits = [scheme.transmits(room, tuple(blocks)) for room in bits]
            transmits = transmits & torch.tensor(fits, dtype=torch.bool)
        transmitting = [
            (client, room) for client, room, s in zip(participants, bits, transmits.tolist(), strict=True) if s
        ]
        return cls(
            participants=participants,
            transmitters=tuple(client for client, _ in transmitting),
            channel_state=channel_state.at(transmits),
            bits=tuple(room for _, room in transmitting),
            channel_uses=math.floor(uses * len(transmitting) / max(1, turns) + 0.5),
        )

    def of(self, clients: Collection[int]) -> "Participation":
        """Return the part of `clients`; an exchange takes the channel uses that were scheduled for all."""
        if len(self.participants) == len(clients):
            return self
        stays = torch.tensor([transmitter in clients for transmitter in self.transmitters], dtype=torch.bool)
        return replace(
            self,
            participants=tuple(client for client in self.participants if client in clients),
            transmitters=tuple(transmitter for transmitter in self.transmitters if transmitter in clients),
            channel_state=self.channel_state.at(stays),
            bits=tuple(room for room, s in zip(self.bits, stays.tolist(), strict=True) if s),
        )


def refuse_outage(config: RunConfig, channel: Channel, rounds: int, streams: RandomStreams) -> None:
    """Check that at least one client is expected to transmit in the whole run.

    Args:
        config: of the run.
        channel: of the air.
        rounds: length of the run.
        streams: the run's randomness.

    Raises:
        ConfigError: `channel` is expected to let fewer than one client transmit.
    """
    likely = float(channel.transmission_probability(config.clients, streams).mean())
    participants = asked(config.clients, config.fraction) * (1 - config.dropout_rate)
    expected = likely * participants * rounds
    if likely < 1 and not expected >= 1:  # NaN is refused, too
        rule = f"must let at least one client transmit in the whole run, expected are {expected:.2g}"
        raise ConfigError(f"gain-threshold: {rule}, got {config.gain_threshold}")
