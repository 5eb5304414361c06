"""Participation in a run and in its rounds.

The run has a population: its clients with the examples that they hold, by which they may weigh in the mean. A round has
participants, their channel state, and the transmitters among them.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Integral

import torch
from torch import Tensor

from laser_fl.blocks import Block, to_device
from laser_fl.channels import orthogonal
from laser_fl.channels.base import Channel, ChannelState
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, quoted
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import Scheme
from laser_fl.shapes import Float, Float64


def draw_participants(
    clients: int,
    fraction: float,
    dropout_rate: float,
    round: int,
    streams: RandomStreams,
    holders: Sequence[int] | None = None,
) -> tuple[int, ...]:
    """Draw the clients that take part in `round`.

    The server asks ``fraction`` of those that hold examples, at least one, drawn anew each round; of these each drops
    out with the probability ``dropout_rate``. A client that does not participate computes nothing, and its memory stays
    as it is.

    Args:
        clients: their number in the run.
        fraction: part of the holders that the server asks, in (0, 1].
        dropout_rate: probability, in [0, 1).
        round: counted from 0.
        streams: the run's randomness.
        holders: numbers of the clients that hold examples, rising; None: all do.

    Returns:
        The participants' numbers, rising.
    """
    participants = holders = range(clients) if holders is None else holders
    if (count := asked(len(holders), fraction)) < len(holders):
        drawn = torch.randperm(len(holders), generator=streams.generator("participants", round))[:count]
        participants = [holders[place] for place in drawn.tolist()]
    if dropout_rate > 0:
        stays = torch.rand(clients, generator=streams.generator("dropouts", round)) >= dropout_rate
        participants = [client for client in participants if stays[client]]
    return tuple(sorted(participants))


def asked(clients: int, fraction: float) -> int:
    """Return the number of clients that the server asks in a round: the fraction of all, rounded, and at least one."""
    return max(1, int(fraction * clients + 0.5))


@dataclass(frozen=True)
class Population:
    """All clients of a run, with the examples that they hold.

    clients: their number. sizes: the number of examples of each; (): not known, and all hold some.
    weighs: True where the mean over clients is weighted by these numbers.

    A client without examples never takes part.
    """

    clients: int
    sizes: tuple[int, ...] = ()
    weighs: bool = False

    @classmethod
    def of(cls, config: RunConfig, sizes: Sequence[int] = ()) -> "Population":
        """Check the sizes.

        Args:
            config: of the run.
            sizes: number of examples of each client; (): not known.

        Raises:
            ConfigError: there are more or fewer than clients, one is no number of examples, or no client holds any; or
                the clients weigh by their examples, but the sizes are not known.
        """
        weighs = config.client_weighting == "examples"
        if weighs and not len(sizes):
            raise ConfigError("sizes: must be each client's number of examples for client-weighting examples, got none")
        if len(sizes) not in (0, config.clients):
            raise ConfigError(f"sizes: must be of the {config.clients} clients, got {len(sizes)}")
        for size in sizes:
            if not isinstance(size, Integral) or size < 0:
                raise ConfigError(f"sizes: must be numbers of examples, at least 0, got {quoted(size)}")
        if len(sizes) and not any(sizes):
            raise ConfigError("sizes: must leave a client with examples, got none")
        return cls(config.clients, tuple(map(int, sizes)), weighs)

    @cached_property
    def holders(self) -> Sequence[int]:
        """The numbers of the clients that hold examples, rising."""
        return [client for client, size in enumerate(self.sizes) if size] if self.sizes else range(self.clients)

    def weights(self, clients: Sequence[int], averaged: Sequence[int]) -> Float64[Tensor, " clients"] | None:
        """Return the weights w_i = n_i |A| / Σ_{j in A} n_j of clients in a mean over A; None where all weigh 1.

        The factor |A| / Σ n_j is the same for all, and part of the amplitude that a client gets anyway: it multiplies
        its signal by its own number of examples, and learns nothing of the others'.

        Args:
            clients: numbers of those to weigh.
            averaged: numbers of A.
        """
        if not self.weighs:
            return None
        total = sum(self.sizes[client] for client in averaged)
        return torch.tensor([self.sizes[client] * len(averaged) / total for client in clients], dtype=torch.float64)

    def mean(self, values: Float[Tensor, "clients ..."], clients: Sequence[int]) -> Float[Tensor, "..."]:
        """Average over clients what does not go through the air, with their weights.

        Args:
            values: a row per client.
            clients: their numbers.
        """
        if (weights := self.weights(clients, clients)) is None:
            return values.mean(dim=0)
        total: Tensor = torch.tensordot(to_device(weights.to(values.dtype), values.device), values, dims=1)
        return total / len(clients)


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
        holders: Sequence[int] | None = None,
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
            holders: numbers of the clients that hold examples; None: all do.
        """
        participants = draw_participants(config.clients, config.fraction, config.dropout_rate, round, streams, holders)
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


def refuse_outage(
    config: RunConfig, channel: Channel, rounds: int, streams: RandomStreams, holders: Sequence[int] | None = None
) -> None:
    """Check that at least one client is expected to transmit in the whole run.

    Args:
        config: of the run.
        channel: of the air.
        rounds: length of the run.
        streams: the run's randomness.
        holders: numbers of the clients that hold examples; None: all do.

    Raises:
        ConfigError: `channel` is expected to let fewer than one client transmit.
    """
    holders = range(config.clients) if holders is None else holders
    likely = float(channel.transmission_probability(config.clients, streams)[list(holders)].mean())
    participants = asked(len(holders), config.fraction) * (1 - config.dropout_rate)
    expected = likely * participants * rounds
    if likely < 1 and not expected >= 1:  # NaN is refused, too
        rule = f"must let at least one client transmit in the whole run, expected are {expected:.2g}"
        raise ConfigError(f"gain-threshold: {rule}, got {config.gain_threshold}")
