"""The additive white Gaussian noise multiple-access channel: every client is heard equally well.

Source: paper, Eq. (1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from laser_fl.channels.base import Channel, Links
from laser_fl.rng import Streams


@dataclass(frozen=True)
class Awgn(Channel):
    """y = Σ_i x_i + z."""

    def links(self, present: Sequence[int], clients: int, round: int, streams: Streams) -> Links:
        """All alike, in every round."""
        return Links.ideal(len(present))
