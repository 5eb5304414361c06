"""The ledger: what every round cost, and proof that nobody spent more than the budget."""

import math
from dataclasses import dataclass

from laser_fl.channels.base import Usage
from laser_fl.errors import PowerError

POWER_TOLERANCE = 1e-5  # relative; rounding of float32 signals


@dataclass(frozen=True)
class Entry:
    """One round. Floats are counted per client; the downlink is heard by all at once.

    round: counted from 1, as in every file a user reads.
    power_budget: P_t, linear. max_power_used: the largest energy any client transmitted.
    channel_uses, uplink_floats: values each client sent through the air.
    downlink_floats: values of the model and of the scheme's shared state.
    side_channel_floats: norms up and amplitudes down.
    noise_std: root mean square, over values, of the noise in the estimated mean signals.
    snr_db: energy of the mean signals over that of the noise, in dB; inf without noise.
    """

    round: int
    power_budget: float
    max_power_used: float
    channel_uses: int
    uplink_floats: int
    downlink_floats: int
    side_channel_floats: int
    noise_std: float
    snr_db: float


def entry(round: int, power: float, usages: list[Usage], downlink_floats: int, side_channel_floats: int) -> Entry:
    """Sum a round's exchanges up and check them against the budget.

    Raises:
        PowerError: a client's energy exceeds the budget by more than 1e-5 of it.
    """
    used = float(sum(usage.client_power for usage in usages).max())  # type: ignore[union-attr]
    if not used <= power * (1 + POWER_TOLERANCE):  # NaN is refused, too
        raise PowerError(f"round {round}: a client transmitted with power {used}, above the budget of {power}")
    uses = sum(usage.channel_uses for usage in usages)
    noise = sum(usage.noise_energy for usage in usages)
    return Entry(
        round=round,
        power_budget=power,
        max_power_used=used,
        channel_uses=uses,
        uplink_floats=uses,
        downlink_floats=downlink_floats,
        side_channel_floats=side_channel_floats,
        noise_std=math.sqrt(noise / uses) if uses else 0.0,
        snr_db=_decibels(sum(usage.signal_energy for usage in usages), noise),
    )


def _decibels(signal: float, noise: float) -> float:
    if noise == 0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf
