"""The messages of an exchange: instructions down, the clients' updates up, and the server's result.

Gradients and memories have a row per participant of the round, signals a row per transmitter.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, take, to_device, to_host
from laser_fl.channels.base import ChannelUsage
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme
from laser_fl.shapes import Float64, Int64


@dataclass(frozen=True)
class Instructions:
    """The server's instructions to encode a gradient.

    shared: the scheme's shared state.
    """

    scheme: Scheme
    shared: Tensors
    context: RoundContext


@dataclass(frozen=True)
class InFlight:
    """Approximations whose signals the server has not acknowledged yet.

    clients: the senders, rising. approximations: per block, a row for each of them.
    """

    clients: tuple[int, ...]
    approximations: Mapping[str, Approximation]


@dataclass(frozen=True)
class ClientUpdate:
    """The clients' part of an exchange.

    signals: by name (transmitters, *signal shape), through the air. Those of one block follow each other.
    signal_norms: per signal; gradient_norms: per block, of the corrected gradients. Both take the side channel.
    losses: training loss of each participant; bookkeeping, not transmitted.
    buffers: of each participant's model, (participants, *shape), through the side channel.
    in_flight: the approximations behind the signals; they stay with the clients.
    superposed: True where the signals are added up already, each times its precoding and its gain, (1, *signal shape).
    """

    signals: Tensors
    signal_norms: Float64[Tensor, "transmitters signals"]
    gradient_norms: Float64[Tensor, "transmitters blocks"]
    losses: Float64[Tensor, " participants"]
    buffers: Tensors = field(default_factory=dict)
    in_flight: tuple[InFlight, ...] = ()
    superposed: bool = False

    @classmethod
    def in_outage(cls, losses: Float64[Tensor, " participants"], buffers: Tensors) -> "ClientUpdate":
        """The update of participants none of whom transmits."""
        nothing = torch.zeros(0, 0, dtype=torch.float64)
        return cls({}, nothing, nothing, losses, buffers)

    @classmethod
    def none(cls) -> "ClientUpdate":
        """The update of no participants."""
        return cls.in_outage(torch.zeros(0, dtype=torch.float64), {})

    @property
    def reported(self) -> "ClientUpdate":
        """The same update with norms and losses on the CPU, where the server looks at them."""
        if not (self.signal_norms.is_cuda or self.losses.is_cuda):
            return self
        signal_norms, gradient_norms, losses = to_host(self.signal_norms, self.gradient_norms, self.losses)
        return replace(self, signal_norms=signal_norms, gradient_norms=gradient_norms, losses=losses)

    def of(self, participants: list[int], transmitters: list[int]) -> "ClientUpdate":
        """Some of its rows, in their order; nothing is in flight at the server. A sum of signals stays as it is."""
        return ClientUpdate(
            self.signals if self.superposed else take(self.signals, transmitters),
            self.signal_norms[transmitters],
            self.gradient_norms[transmitters],
            self.losses[participants],
            take(self.buffers, participants),
            superposed=self.superposed,
        )


@dataclass(frozen=True)
class AggregationResult:
    """The server's result of an exchange.

    received: None in a round in which nobody transmitted.
    update: None until the scheme's last phase, and in a round in which nobody transmitted.
    side_channel_floats: amplitudes down, per client.
    scheme, context: of the exchange.
    """

    received: Received | None
    update: Tensors | None
    shared: Tensors
    usage: ChannelUsage
    side_channel_floats: int
    scheme: Scheme
    context: RoundContext

    @cached_property
    def noise(self) -> Tensors:
        """The expected energy of the noise in each block of the update; few update filters look at it."""
        if self.received is None or self.update is None:
            return {}
        return self.scheme.noise_energies(self.received, self.context)

    @property
    def weighs(self) -> bool:
        """True where an update filter is to weigh the update by its noise."""
        return self.scheme.weighs(self.context)


def superpose(client_update: ClientUpdate, factors: Float64[Tensor, "transmitters _"], total: Tensors) -> ClientUpdate:
    """Add Σ_i factor_il s_il to a sum of signals, and return the rest of the update, without signals.

    The signals of a client with a norm that is no number, and a signal whose factor is 0, do not enter the sum.

    Args:
        client_update: of some clients.
        factors: of each signal, or one for all signals of a client: precoding times gain times share.
        total: the sum so far, by name (1, *signal shape), changed in place; {} at first.
    """
    if client_update.signals:
        finite = client_update.signal_norms.isfinite().all(dim=1, keepdim=True).to(factors.device)
        each = torch.where(finite, factors, 0.0).expand(-1, len(client_update.signals)).unbind(dim=1)
        for (name, signal), factor in zip(client_update.signals.items(), each, strict=True):
            rows = as_rows(signal)
            weights = to_device(factor.to(signal.dtype), signal.device)
            if not factor.all():
                rows = torch.where(weights.unsqueeze(1) != 0, rows, 0.0)
            added = (weights.unsqueeze(0) @ rows).view(1, *signal.shape[1:])
            total[name] = total[name].add_(added) if name in total else added
    return replace(client_update, signals={})


def join(client_updates: list[ClientUpdate]) -> ClientUpdate:
    """Join the updates of several groups of clients, in the order of clients."""
    if len(client_updates) == 1:
        return client_updates[0]
    if not client_updates:
        return ClientUpdate.none()
    losses = torch.cat([u.losses for u in client_updates])
    buffers = {name: torch.cat([u.buffers[name] for u in client_updates]) for name in client_updates[0].buffers}
    sending = [u for u in client_updates if len(u.signal_norms) > 0]
    if not sending:
        return ClientUpdate.in_outage(losses, buffers)
    return ClientUpdate(
        {name: torch.cat([u.signals[name] for u in sending]) for name in sending[0].signals},
        torch.cat([u.signal_norms for u in sending]),
        torch.cat([u.gradient_norms for u in sending]),
        losses,
        buffers,
        tuple(one for u in sending for one in u.in_flight),
    )


def values_reported(client_update: ClientUpdate, scheme: Scheme) -> int:
    """Count a client's values in the side channel: buffers, and norms, of which a digital message needs none."""
    norms_up = 0
    if not scheme.traits.digital:
        norms_up = client_update.signal_norms.shape[1] + client_update.gradient_norms.shape[1]
    return norms_up + sum(prod(buffer.shape[1:]) for buffer in client_update.buffers.values())


def values_sent(signals: Tensors) -> Int64[Tensor, " transmitters"]:
    """Count the values of each transmitter's signals that are not zero."""
    counts = [as_rows(signal).count_nonzero(dim=1) for signal in signals.values()]
    return torch.stack(counts).sum(dim=0)
