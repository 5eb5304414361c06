"""The ledger: the costs of every round, and proof that no client exceeded the power budget."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, overload

from torch import Tensor

from laser_fl.channels.base import ChannelUsage
from laser_fl.errors import PowerError
from laser_fl.federated.validation import Fault
from laser_fl.shapes import Float64

_KINDS: Mapping[Any, Callable[[str], Any]] = {"int": int, "float": float, "str": str, int: int, float: float, str: str}

POWER_TOLERANCE = 1e-5  # relative; rounding of float32 signals


@dataclass(frozen=True)
class LedgerRecord:
    """The costs of one round. Numbers of values are per client; all clients receive the downlink at once.

    All transmissions count, also those in vain. An exchange that is repeated costs its broadcast once more (values,
    energy, channel uses, latency), and the clients' reports in the side channel. The air itself is used once, when
    enough clients have replied: only then can the server send them their amplitudes.

    round: counted from 1, as in every file a user reads.
    participants: number of clients that took part. transmitters: number of those that transmitted; in a round without
        any the model stayed as it was.
    power_budget: P_t, linear. max_power_used: the largest energy that any client transmitted.
    channel_uses: number of uses of the channel, by all clients at once. uplink_floats: values of 32 bits that each
        client sent.
    downlink_floats: values of the model, its buffers and the scheme's shared state; or of the signals received in the
        exchange before, and all of a replica to nodes that could not follow.
    side_channel_floats: norms and buffers up, amplitudes down.
    noise_std: root mean square, over values, of the noise in the estimated mean signals.
    snr_db: energy of the mean signals over that of the noise, in dB; inf without noise, -inf without signals.
    uplink_energy: transmitted by all clients together. downlink_energy: transmitted by the server; 0 where the
        downlink is ideal.
    latency_seconds: channel uses, up and down, over the bandwidth; an ideal downlink takes no time.
    faults: number of clients' replies that were refused or never came, in all of the round's exchanges.
    retries: number of exchanges that were repeated because too few clients were left.
    clipped: number of clients with a signal at its norm bound.
    left_out: the clients with faults, and their kinds: ``<client> <kind>; ...``.
    """

    round: int
    participants: int
    transmitters: int
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
    def parse(cls, row: Mapping[str, str]) -> "LedgerRecord":
        """Undo a row of ledger.csv. Raises ValueError or KeyError."""
        return cls(**{field.name: _KINDS[field.type](row[field.name]) for field in fields(cls)})

    @property
    def figures(self) -> dict[str, float]:
        """The numbers that can be drawn over the rounds."""
        return {name: value for name, value in vars(self).items() if name != "round" and not isinstance(value, str)}


@dataclass(frozen=True)
class Totals:
    """The costs of several rounds together; the columns of a record that add up."""

    channel_uses: int = 0
    uplink_energy: float = 0.0
    downlink_energy: float = 0.0
    latency_seconds: float = 0.0
    faults: int = 0
    retries: int = 0
    clipped: int = 0

    def plus(self, record: LedgerRecord) -> "Totals":
        """Return the totals with one more round."""
        return Totals(**{name: total + getattr(record, name) for name, total in vars(self).items()})


class Ledger(Sequence[LedgerRecord]):
    """A run's records so far, and their totals, which are added up round by round."""

    def __init__(self, records: Iterable[LedgerRecord] = ()) -> None:
        self._records: list[LedgerRecord] = []
        self.totals = Totals()
        for record in records:
            self.append(record)

    def append(self, record: LedgerRecord) -> None:
        """Add a round."""
        self._records.append(record)
        self.totals = self.totals.plus(record)

    def __len__(self) -> int:
        return len(self._records)

    @overload
    def __getitem__(self, index: int) -> LedgerRecord: ...

    @overload
    def __getitem__(self, index: slice) -> list[LedgerRecord]: ...

    def __getitem__(self, index: int | slice) -> LedgerRecord | list[LedgerRecord]:
        return self._records[index]


@dataclass
class RoundAccounting:
    """The costs of a round so far.

    client_energy: spent by each client of the run. usages: of the exchanges that were accepted. broadcasts: number of
    those of the model or its update. broadcast_floats: the record's downlink_floats. side_channel_floats, retries: as
    in the record. faults: of all the round's exchanges. clipped: numbers of the clients with a signal at its bound.
    """

    client_energy: Float64[Tensor, " clients"]
    usages: list[ChannelUsage] = field(default_factory=list)
    broadcasts: int = 0
    broadcast_floats: int = 0
    side_channel_floats: int = 0
    faults: list[Fault] = field(default_factory=list)
    retries: int = 0
    clipped: set[int] = field(default_factory=set)

    def take(self, usage: ChannelUsage, transmitters: Sequence[int], side_channel_floats: int) -> None:
        """Add an exchange.

        Args:
            usage: of the channel.
            transmitters: numbers of the clients that transmitted, the rows of `usage.client_power`.
            side_channel_floats: amplitudes down, per client.
        """
        self.usages.append(usage)
        self.client_energy.numpy()[list(transmitters)] += usage.client_power.numpy()
        self.side_channel_floats += side_channel_floats

    def record(
        self,
        round: int,
        participants: int,
        transmitters: int,
        power: float,
        bandwidth: float,
        broadcast_energy: float = 0.0,
        broadcast_uses: int = 0,
    ) -> LedgerRecord:
        """Sum the round up and check it against the budget.

        Args:
            round: counted from 1.
            participants: their number.
            transmitters: their number.
            power: the budget, linear.
            bandwidth: channel uses per second.
            broadcast_energy: of one broadcast; 0 on an ideal downlink.
            broadcast_uses: channel uses of one broadcast; 0 on an ideal downlink.

        Raises:
            PowerError: a client's energy exceeds the budget by more than 1e-5 of it.
        """
        used = float(self.client_energy.max())
        if not used <= power * (1 + POWER_TOLERANCE):  # NaN is refused, too
            raise PowerError(f"round {round}: a client transmitted with power {used}, above the budget of {power}")
        uses = sum(usage.channel_uses for usage in self.usages)
        noise = sum(usage.noise_energy for usage in self.usages)
        signal = sum(usage.signal_energy for usage in self.usages)
        return LedgerRecord(
            round=round,
            participants=participants,
            transmitters=transmitters,
            power_budget=power,
            max_power_used=used,
            channel_uses=uses,
            uplink_floats=sum(usage.values for usage in self.usages),
            downlink_floats=self.broadcast_floats,
            side_channel_floats=self.side_channel_floats,
            noise_std=math.sqrt(noise / uses) if uses else 0.0,
            snr_db=_decibels(signal, noise) if transmitters else -math.inf,
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
