"""The additive white Gaussian noise multiple-access channel: every client is received equally well.

Source: paper, Eq. (1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from laser_fl.channels.base import Channel, ChannelState
from laser_fl.rng import RandomStreams


@dataclass(frozen=True)
class Awgn(Channel):
    """AWGN: y = Σ_i x_i + z.

    Example:
        >>> Awgn(noise_variance=4.0).noise_std(clients=16)
        2.0
    """

    def links(self, participants: Sequence[int], clients: int, round: int, streams: RandomStreams) -> ChannelState:
        """Return the ideal state: all clients alike, in every round."""
        return ChannelState.ideal(len(participants))


def is_constant(channel: Channel) -> bool:
    """Return True where the state of the links depends on the participants alone, in every round."""
    return type(channel).links is Awgn.links
