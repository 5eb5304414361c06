"""A channel of your own: clients pass behind buildings, and stay in their shadow for some rounds.

$ laser-fl run -c channel=own_channel:Shadowed -c outage=0.3
...
accuracy  84.2 % last, 87.5 % with averaged weights, 87.9 % their best
...
clients   11.3 of 16 transmitted in a round, on average
$ python own_channel.py
Shadowed keeps the promises of a channel
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import laser_fl as lf
from laser_fl.channels.base import ChannelState
from laser_fl.rng import RandomStreams
from laser_fl.testing import check_channel


@lf.register_channel("shadowed")
@dataclass(frozen=True)
class Shadowed(lf.Channel):
    """Every client is received as well as all others, or is in outage."""

    outage: float = lf.option(0.2, "chance of a client to be in a shadow", ge=0, lt=1)
    burst: int = lf.option(5, "rounds between two draws of who is in a shadow", ge=1)

    def links(self, participants: Sequence[int], clients: int, round: int, streams: RandomStreams) -> ChannelState:
        """Draw who is in a shadow: the same clients throughout a burst, in every process."""
        draw = streams.generator("shadows", round // self.burst)
        lit = (torch.rand(clients, generator=draw, dtype=torch.float64) >= self.outage).double()[list(participants)]
        return ChannelState(precoding=lit, gain=torch.ones_like(lit), snr_gain=lit)

    def transmission_probability(self, clients: int, streams: RandomStreams) -> Tensor:
        """Return the share of the rounds in which each client is in the light."""
        return torch.full((clients,), 1 - self.outage, dtype=torch.float64)


if __name__ == "__main__":
    check_channel(Shadowed(outage=0.3))
    print("Shadowed keeps the promises of a channel")
