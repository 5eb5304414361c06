"""The ledger: what every round cost, and proof that nobody spent more than the budget."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, overload

from jaxtyping import Float64
from torch import Tensor

from laser_fl.channels.base import Usage
from laser_fl.errors import PowerError
from laser_fl.federated.validation import Fault

_KINDS: Mapping[Any, Callable[[str], Any]] = {"int": int, "float": float, "str": str, int: int, float: float, str: str}

POWER_TOLERANCE = 1e-5  # relative; rounding of float32 signals


@dataclass(frozen=True)
class Entry:
    """One round. Floats are counted per client; the downlink is heard by all at once.

    All that was transmitted counts, also in vain. An exchange that is repeated costs its broadcast once more (values,
    energy, channel uses, latency), and what clients report beside the air. The air itself is used once, when enough
    of them have answered: only then can the server tell them their amplitudes.

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
    snr_db: energy of the mean signals over that of the noise, in dB; inf without noise, -inf without signals.
    uplink_energy: what all clients together transmitted. downlink_energy: what the server
        did; 0 where the downlink is ideal.
    latency_seconds: channel uses, up and down, over the bandwidth; an ideal downlink takes no time.
    faults: replies of clients that were refused or never came, in all of the round's exchanges.
    retries: exchanges that were repeated because too few clients were left.
    clipped: clients a signal of whose came at its cap.
    left_out: whose replies, and what was wrong with them: ``<client> <kind>; ...``.
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
    faults: int
    retries: int
    clipped: int
    left_out: str

    @classmethod
    def parse(cls, row: Mapping[str, str]) -> "Entry":
        """Undo a row of ledger.csv. Raises ValueError or KeyError."""
        return cls(**{field.name: _KINDS[field.type](row[field.name]) for field in fields(cls)})

    @property
    def figures(self) -> dict[str, float]:
        """What of it can be drawn over the rounds."""
        return {name: value for name, value in vars(self).items() if name != "round" and not isinstance(value, str)}


@dataclass(frozen=True)
class Totals:
    """What some rounds have cost together; the columns of an entry that add up."""

    channel_uses: int = 0
    uplink_energy: float = 0.0
    downlink_energy: float = 0.0
    latency_seconds: float = 0.0
    faults: int = 0
    retries: int = 0
    clipped: int = 0

    def plus(self, entry: Entry) -> "Totals":
        """With one more round."""
        return Totals(**{name: total + getattr(entry, name) for name, total in vars(self).items()})


class Ledger(Sequence[Entry]):
    """A run's entries so far, and their totals, which are added up as it goes."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self._entries: list[Entry] = []
        self.totals = Totals()
        for entry in entries:
            self.append(entry)

    def append(self, entry: Entry) -> None:
        """Add a round."""
        self._entries.append(entry)
        self.totals = self.totals.plus(entry)

    def __len__(self) -> int:
        return len(self._entries)

    @overload
    def __getitem__(self, index: int) -> Entry: ...

    @overload
    def __getitem__(self, index: slice) -> list[Entry]: ...

    def __getitem__(self, index: int | slice) -> Entry | list[Entry]:
        return self._entries[index]


@dataclass
class Tally:
    """What a round has cost so far.

    client_energy: what each client of the run spent. usages: of the exchanges that were taken. broadcasts: of the
    model or its update. broadcast_floats, side_channel_floats, faults, retries: as in an entry. clipped: who was.
    """

    client_energy: Float64[Tensor, " clients"]
    usages: list[Usage] = field(default_factory=list)
    broadcasts: int = 0
    broadcast_floats: int = 0
    side_channel_floats: int = 0
    faults: list[Fault] = field(default_factory=list)
    retries: int = 0
    clipped: set[int] = field(default_factory=set)

    def take(self, usage: Usage, speakers: Sequence[int], side_channel_floats: int) -> None:
        """Add an exchange in which `speakers` transmitted."""
        self.usages.append(usage)
        self.client_energy[list(speakers)] += usage.client_power
        self.side_channel_floats += side_channel_floats

    def entry(
        self,
        round: int,
        present: int,
        speakers: int,
        power: float,
        bandwidth: float,
        broadcast_energy: float = 0.0,
        broadcast_uses: int = 0,
    ) -> Entry:
        """Sum the round up and check it against the budget.

        bandwidth: channel uses per second. broadcast_energy, broadcast_uses: of one broadcast; 0 on an ideal downlink.

        Raises:
            PowerError: a client's energy exceeds the budget by more than 1e-5 of it.
        """
        used = float(self.client_energy.max())
        if not used <= power * (1 + POWER_TOLERANCE):  # NaN is refused, too
            raise PowerError(f"round {round}: a client transmitted with power {used}, above the budget of {power}")
        uses = sum(usage.channel_uses for usage in self.usages)
        noise = sum(usage.noise_energy for usage in self.usages)
        signal = sum(usage.signal_energy for usage in self.usages)
        return Entry(
            round=round,
            present=present,
            speakers=speakers,
            power_budget=power,
            max_power_used=used,
            channel_uses=uses,
            uplink_floats=sum(usage.values for usage in self.usages),
            downlink_floats=self.broadcast_floats,
            side_channel_floats=self.side_channel_floats,
            noise_std=math.sqrt(noise / uses) if uses else 0.0,
            snr_db=_decibels(signal, noise) if speakers else -math.inf,
            uplink_energy=float(self.client_energy.sum()),
            downlink_energy=self.broadcasts * broadcast_energy,
            latency_seconds=(uses + self.broadcasts * broadcast_uses) / bandwidth,
            faults=len(self.faults),
            retries=self.retries,
            clipped=len(self.clipped),
            left_out="; ".join(f"{fault.client} {fault.kind}" for fault in self.faults),
        )


def _decibels(signal: float, noise: float) -> float:
    if signal == 0:
        return -math.inf
    return 10 * math.log10(signal / noise) if noise > 0 else math.inf
