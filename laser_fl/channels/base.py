"""What every channel is: the links of a round, and what a transmission over them costs.

All channels here add up what the clients transmit; they differ in the links. What follows
from the links, the walk of the signals through the air, is in `laser_fl.channels.mac`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from laser_fl.rng import Streams


@dataclass(frozen=True)
class Links:
    """The links from some clients to the server, constant over a round.

    To send a·s, a client transmits x = a · precoding · s; the server hears Σ gain · x + noise.

    precoding: what a client multiplies its signal with, >= 0; 0: it stays silent this round.
    gain: what of a transmission is heard in phase with the others; it may be negative.
    snr_gain: energy gain of a link that is used alone, over the noise; for digital links.
    noise_scale: the noise that is heard in this round over what is heard on average, both as standard deviations.
    """

    precoding: Float64[Tensor, " clients"]
    gain: Float64[Tensor, " clients"]
    snr_gain: Float64[Tensor, " clients"]
    noise_scale: float = 1.0

    @classmethod
    def ideal(cls, clients: int) -> "Links":
        """Links that change nothing."""
        ones = torch.ones(clients, dtype=torch.float64)
        return cls(ones, ones, ones)

    @property
    def speaks(self) -> Bool[Tensor, " clients"]:
        """Who transmits."""
        return self.precoding > 0

    def at(self, rows: Bool[Tensor, " clients"]) -> "Links":
        """The links of some of the clients."""
        return Links(self.precoding[rows], self.gain[rows], self.snr_gain[rows], self.noise_scale)


@dataclass(frozen=True)
class Usage:
    """What a transmission cost and how good it was, for the ledger.

    client_power: energy that each speaker spent, ‖x_i‖² summed over signals, measured on what
        was transmitted.
    channel_uses: how often the channel was used, by all clients at once.
    values: floats of 32 bits that a client sent.
    signal_energy: energy of the estimate, the noise left out, summed over signals. noise_energy: the
        expected ‖noise‖² in it.
    """

    client_power: Float64[Tensor, " clients"]
    channel_uses: int
    values: int
    signal_energy: float
    noise_energy: float

    @classmethod
    def none(cls, clients: int) -> "Usage":
        """The usage of an exchange in which nothing was transmitted."""
        return cls(torch.zeros(clients, dtype=torch.float64), 0, 0, 0.0, 0.0)


@dataclass(frozen=True)
class Channel(ABC):
    """A model of the multiple-access channel: a frozen dataclass that draws the links of a round.

    noise_variance: σ² per value heard (of the real part, where gains are complex), >= 0.
    """

    noise_variance: float

    @abstractmethod
    def links(self, present: Sequence[int], clients: int, round: int, streams: Streams) -> Links:
        """Draw the links of the clients `present`, out of all `clients`, in `round`."""

    def noise_std(self, clients: int) -> float:
        """Standard deviation of the noise in a value heard, as both sides expect it of a channel with `clients`."""
        return math.sqrt(self.noise_variance)

    def speaking_probability(self, clients: int, streams: Streams) -> Float64[Tensor, " clients"]:
        """How likely each client is to speak in a round in which it is present."""
        return torch.ones(clients, dtype=torch.float64)


def complex_normal(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """CN(0, 1), of complex128: real and imaginary parts of variance 1/2."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.complex128)
