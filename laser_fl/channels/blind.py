"""Blind over-the-air: no channel state at the clients; a server with many antennas aligns the received signals.

Antenna m receives y_m = Σ_i h_im x_i + z_m, h_im ~ CN(0, 1), and the server knows the sum of the gains,
H_m = Σ_i h_im. It combines Re(1/M Σ_m H_m* y_m): client i is received with the weight w_i = 1/M Σ_m Re(H_m* h_im), of
mean 1 and, among k clients, variance (k + 1) / (2M), under noise of variance σ²/M² Σ_m |H_m|², on average σ² k / M.
Both fall as 1/M: the limit is the exact mean.

Source: Amiri, Duman, Gündüz, Kulkarni, Poor, "Blind federated edge learning", IEEE Trans. Wireless Communications,
2021. Deviations: real signals; one gain for all values of a round, not one per subcarrier and symbol.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from laser_fl.channels.base import MANY, Channel, ChannelState, complex_normal, complex_normals
from laser_fl.registry import option
from laser_fl.rng import RandomStreams


@dataclass(frozen=True)
class Blind(Channel):
    """Blind: y = Re(1/M Σ_m H_m* y_m).

    Example:
        >>> Blind(antennas=64).noise_std(clients=16)
        0.5
    """

    antennas: int = option(64, "antennas M of the server", ge=1, le=65536)

    def links(self, participants: Sequence[int], clients: int, round: int, streams: RandomStreams) -> ChannelState:
        """Draw all gains of the round and combine the antennas; all participants transmit."""
        if clients * self.antennas > MANY and participants:
            gains = complex_normals(participants, self.antennas, streams, "blind fading", round)
        else:
            drawn = complex_normal((clients, self.antennas), streams.generator("blind fading", round))
            gains = drawn[list(participants)]
        total = gains.sum(dim=0)
        return ChannelState(
            precoding=torch.ones(len(participants), dtype=torch.float64),
            gain=(total.conj() * gains).real.mean(dim=1),
            snr_gain=gains.abs().square().sum(dim=1),
            noise_scale=float(total.abs().square().mean().sqrt()) / clients**0.5,
        )

    def noise_std(self, clients: int) -> float:
        """Return σ √(k/M), which is less the more antennas there are."""
        return math.sqrt(self.noise_variance * clients / self.antennas)
