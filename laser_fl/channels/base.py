"""The interface of channels: the channel state of a round, and the cost of a transmission.

All channels here add up the clients' transmissions; they differ in the state of the links. The walk of the signals
through the air, which follows from the state, is in `laser_fl.channels.mac`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from laser_fl.registry import check_options, option
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Bool, Complex128, Float64


@dataclass(frozen=True)
class ChannelState:
    """State of the links from some clients to the server, constant over a round.

    To send a·s, a client transmits x = a · precoding · s; the server receives Σ gain · x + noise.

    precoding: factor of a client's signal, >= 0; 0: the client is in outage this round.
    gain: part of a transmission that is received in phase with the others; it may be negative.
    snr_gain: energy gain of a link that is used alone, over the noise; for digital links.
    noise_scale: the noise received in this round over the noise received on average, both as standard deviations.
    """

    precoding: Float64[Tensor, " clients"]
    gain: Float64[Tensor, " clients"]
    snr_gain: Float64[Tensor, " clients"]
    noise_scale: float = 1.0

    @classmethod
    def ideal(cls, clients: int) -> "ChannelState":
        """Return the state of links that change nothing."""
        ones = torch.ones(clients, dtype=torch.float64)
        return cls(ones, ones, ones)

    @property
    def transmits(self) -> Bool[Tensor, " clients"]:
        """True for each client that transmits."""
        return self.precoding > 0

    @cached_property
    def aligned(self) -> bool:
        """True where all transmissions are received as they are sent."""
        return bool((self.gain == 1).all())

    def weighted(self, weights: Float64[Tensor, " clients"]) -> "ChannelState":
        """Return the state with clients that send weights · s: the weights, above 0, are part of the precoding."""
        return replace(self, precoding=self.precoding * weights)

    def at(self, rows: Bool[Tensor, " clients"]) -> "ChannelState":
        """Return the state of some of the clients' links."""
        return ChannelState(self.precoding[rows], self.gain[rows], self.snr_gain[rows], self.noise_scale)


@dataclass(frozen=True)
class ChannelUsage:
    """Cost and quality of a transmission, for the ledger.

    client_power: energy that each transmitter spent, ‖x_i‖² summed over signals, measured on the transmitted values.
    channel_uses: number of uses of the channel, by all clients at once.
    values: number of 32-bit values that a client sent.
    signal_energy: energy of the estimate, the noise left out, summed over signals. noise_energy: the expected ‖noise‖²
        in it.
    """

    client_power: Float64[Tensor, " clients"]
    channel_uses: int
    values: int
    signal_energy: float
    noise_energy: float

    @classmethod
    def none(cls, clients: int) -> "ChannelUsage":
        """Return the usage of an exchange in which nothing was transmitted."""
        return cls(torch.zeros(clients, dtype=torch.float64), 0, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Channel(ABC):
    """A model of the multiple-access channel: a frozen dataclass that draws the channel state of a round.

    Its numbers are declared by `option`, and are keys of the run config. Where gains are complex, the noise is that of
    the real part.

    Example:
        >>> @dataclass(frozen=True)
        ... class Ideal(Channel):
        ...     def links(self, participants, clients, round, streams): return ChannelState.ideal(len(participants))
        >>> Ideal(noise_variance=0.25).noise_std(clients=4)
        0.5
    """

    noise_variance: float = option(1.0, "variance σ² of the channel noise per received value", ge=0, le=1e30)

    def __post_init__(self) -> None:
        """Check the numbers. Raises ConfigError."""
        check_options(self)

    @abstractmethod
    def links(self, participants: Sequence[int], clients: int, round: int, streams: RandomStreams) -> ChannelState:
        """Draw the channel state of a round.

        Args:
            participants: numbers of the clients to draw it for.
            clients: number of all clients of the run.
            round: counted from 0.
            streams: the run's randomness.

        Returns:
            The state, with a row per participant.
        """

    def noise_std(self, clients: int) -> float:
        """Return the standard deviation of the noise in a received value that both sides expect with `clients`."""
        return math.sqrt(self.noise_variance)

    def transmission_probability(self, clients: int, streams: RandomStreams) -> Float64[Tensor, " clients"]:
        """Return each client's probability to transmit in a round in which it participates."""
        return torch.ones(clients, dtype=torch.float64)


MANY = 2**17  # gains of all clients together, beyond which a round draws those of its participants only


def complex_normals(
    participants: Sequence[int], count: int, streams: RandomStreams, purpose: str, round: int
) -> Complex128[Tensor, "participants count"]:
    """Draw CN(0, 1) values of some clients, each from a stream of its own, which costs nothing for the others.

    Args:
        participants: numbers of the clients.
        count: of a client's values.
        streams: the run's randomness.
        purpose: of the draw.
        round: counted from 0.
    """
    return torch.stack([complex_normal((count,), streams.generator(purpose, round, one)) for one in participants])


def complex_normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """Draw CN(0, 1), of complex128: real and imaginary parts of variance 1/2."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.complex128)
