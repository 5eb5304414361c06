"""The ledger: what every round cost, and proof that nobody spent more than the budget."""

import math
from dataclasses import dataclass

import torch

from laser_fl.channels.base import Usage
from laser_fl.errors import PowerError

POWER_TOLERANCE = 1e-5  # relative; rounding of float32 signals


@dataclass(frozen=True)
class Entry:
    """One round. Floats are counted per client; the downlink is heard by all at once.

    round: counted from 1, as in every file a user reads.
    present: clients that took part. speakers: those of them that transmitted; in a round
        without any the model stayed as it was.
    power_budget: P_t, linear. max_power_used: the largest energy any client transmitted.
    channel_uses: how often the channel was used, by all clients at once. uplink_floats: floats of
        32 bits that each client sent.
    downlink_floats: values of the model, its buffers and the scheme's shared state; or of what was
        heard in the exchange before, and all of a replica to nodes that could not follow.
    side_channel_floats: norms and buffers up, amplitudes down.
    noise_std: root mean square, over values, of the noise in the estimated mean signals.
    snr_db: energy of the mean signals over that of the noise, in dB; inf without noise.
    uplink_energy: what all clients together transmitted. downlink_energy: what the server
        did; 0 where the downlink is ideal.
    latency_seconds: channel uses, up and down, over the bandwidth; an ideal downlink takes no time.
    """

    round: int
    present: int
    speakers: int
    power_budget: float
    max_power_used: float
    channel_uses: int
    uplink_floats: int
    downlink_floats: int
    side_channel_floats: int
    noise_std: float
    snr_db: float
    uplink_energy: float
    downlink_energy: float
    latency_seconds: float


@dataclass(frozen=True)
class Broadcasts:
    """What a round's broadcasts cost. energy, channel_uses: 0 on an ideal downlink."""

    floats: int
    energy: float = 0.0
    channel_uses: int = 0


def entry(
    round: int,
    present: int,
    speakers: int,
    power: float,
    usages: list[Usage],
    broadcasts: Broadcasts,
    side_channel_floats: int,
    bandwidth: float,
) -> Entry:
    """Sum a round's exchanges up and check them against the budget.

    bandwidth: channel uses per second.

    Raises:
        PowerError: a client's energy exceeds the budget by more than 1e-5 of it.
    """
    spent = torch.stack([usage.client_power for usage in usages]).sum(dim=0)
    used = float(spent.max()) if speakers else 0.0
    if not used <= power * (1 + POWER_TOLERANCE):  # NaN is refused, too
        raise PowerError(f"round {round}: a client transmitted with power {used}, above the budget of {power}")
    uses = sum(usage.channel_uses for usage in usages)
    noise = sum(usage.noise_energy for usage in usages)
    return Entry(
        round=round,
        present=present,
        speakers=speakers,
        power_budget=power,
        max_power_used=used,
        channel_uses=uses,
        uplink_floats=sum(usage.values for usage in usages),
        downlink_floats=broadcasts.floats,
        side_channel_floats=side_channel_floats,
        noise_std=math.sqrt(noise / uses) if uses else 0.0,
        snr_db=_decibels(sum(usage.signal_energy for usage in usages), noise) if speakers else -math.inf,
        uplink_energy=float(spent.sum()),
        downlink_energy=broadcasts.energy,
        latency_seconds=(uses + broadcasts.channel_uses) / bandwidth,
    )


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
