"""Block fading with channel state information at the clients, which invert their estimates of it.

In each round client i has a gain h_i = √β_i (√(K/(K+1)) + √(1/(K+1)) n_i), n_i ~ CN(0, 1): Rayleigh at K = 0, no fading
at K = ∞. It knows ĥ_i = h_i + e_i, e_i ~ CN(0, v), and transmits a_l s_il / ĥ_i; the server takes the real part of the
received sum. With v = 0 the signals add up as over ideal links, at an amplitude that the weakest link decides; else a
factor Re(h_i / ĥ_i) stays in each signal. Truncated inversion: a client that finds |ĥ_i|² below a threshold is in
outage for the round.

Path loss is log-distance: β_i = r_i^-α, r_i the client's distance over that of gain 1, drawn once a run, uniformly over
the disc 1 <= r <= R.

Source: Amiri, Gündüz, "Federated learning over wireless fading channels", IEEE Trans. Wireless Communications, 2020;
Zhu, Wang, Huang, "Broadband analog aggregation for low-latency federated edge learning", 2020 (truncated inversion).
Deviation: one gain for all values of a round.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from laser_fl.channels.base import MANY, Channel, ChannelState, complex_normal, complex_normals
from laser_fl.errors import packages_for
from laser_fl.registry import option
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Complex128, Float64

NEGLIGIBLE = 1e-12  # scattered energy over steady energy that decides nothing


@dataclass(frozen=True)
class Fading(Channel):
    """Fading: y = Re(Σ_i h_i x_i) + z.

    Example:
        >>> from laser_fl.rng import RandomStreams
        >>> channel = Fading(gain_threshold=0.5)
        >>> state = channel.links(participants=range(8), clients=8, round=0, streams=RandomStreams(0))
        >>> int(state.transmits.sum()) <= 8
        True
    """

    rician_k_db: float = option(
        -math.inf, "line of sight K over scattered energy, in dB; -inf: Rayleigh, inf: none scattered", infinite=True
    )
    csi_error_variance: float = option(
        0.0, "variance v of the error in the gain that a client estimates", ge=0, le=1e30
    )
    gain_threshold: float = option(0.1, "least |gain|^2 at which a client transmits; 0: all do", ge=0, le=1e30)
    path_loss_exponent: float = option(0.0, "exponent α of the loss over distance; 0: none", ge=0, le=10)
    cell_radius: float = option(10.0, "radius R of the clients' cell, over the distance of no path loss", ge=1, le=1e6)

    def links(self, participants: Sequence[int], clients: int, round: int, streams: RandomStreams) -> ChannelState:
        """Draw the gains and their estimates; invert the estimates."""
        gains, estimates = self.gains(clients, round, streams, participants)
        magnitude = estimates.abs()
        transmits = (magnitude.square() >= self.gain_threshold) & (magnitude > 0)
        in_phase = torch.where(magnitude > 0, (gains * estimates.conj()).real / magnitude, 0.0)
        return ChannelState(
            precoding=torch.where(transmits, 1 / magnitude, 0.0),
            gain=in_phase,
            snr_gain=in_phase.square(),
        )

    def gains(
        self, clients: int, round: int, streams: RandomStreams, participants: Sequence[int] | None = None
    ) -> tuple[Complex128[Tensor, " clients"], Complex128[Tensor, " clients"]]:
        """Draw the gains of a round.

        Args:
            clients: number of all clients of the run.
            round: counted from 0.
            streams: the run's randomness.
            participants: numbers of the clients to draw them for; None: all.

        Returns:
            (h, ĥ) of the participants.
        """
        rows = list(range(clients) if participants is None else participants)
        if 2 * clients > MANY and rows:
            scattered, errors = complex_normals(rows, 2, streams, "fading", round).mT
        else:
            scattered, errors = complex_normal((2, clients), streams.generator("fading", round))[:, rows]
        line_of_sight = self._line_of_sight
        fading = math.sqrt(line_of_sight) + math.sqrt(1 - line_of_sight) * scattered
        path = _path_gains(self.path_loss_exponent, self.cell_radius, clients, streams)
        gains = path[rows].sqrt() * fading
        return gains, gains + math.sqrt(self.csi_error_variance) * errors

    def path_gains(self, clients: int, streams: RandomStreams) -> Float64[Tensor, " clients"]:
        """Return β = r^-α of each client's position."""
        return _path_gains(self.path_loss_exponent, self.cell_radius, clients, streams).clone()

    def transmission_probability(self, clients: int, streams: RandomStreams) -> Float64[Tensor, " clients"]:
        """Return P(|ĥ|² >= threshold): |ĥ|² is a noncentral chi-square of two degrees of freedom."""
        with packages_for("channel=fading"):  # at the server; clients do without
            from scipy.stats import ncx2

        path = self.path_gains(clients, streams).numpy()
        scattered = path * (1 - self._line_of_sight) + self.csi_error_variance
        steady = path * self._line_of_sight
        certain = scattered <= NEGLIGIBLE * steady
        scattered = np.where(certain, 1.0, scattered)
        probability = ncx2.sf(2 * self.gain_threshold / scattered, 2, 2 * np.where(certain, 0, steady) / scattered)
        return torch.from_numpy(np.where(certain, steady >= self.gain_threshold, probability))

    @property
    def _line_of_sight(self) -> float:
        """K / (K + 1): the line of sight's share of the energy."""
        return 1 / (1 + 10 ** min(300.0, -self.rician_k_db / 10))


@lru_cache(maxsize=4)  # they are the same in all rounds of a run
def _path_gains(exponent: float, radius: float, clients: int, streams: RandomStreams) -> Float64[Tensor, " clients"]:
    area = torch.rand(clients, generator=streams.generator("positions"), dtype=torch.float64)
    distance = (1 + area * (radius**2 - 1)).sqrt()
    return distance**-exponent
