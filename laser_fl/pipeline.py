"""The walk of a gradient through the air: `encode_update` at a client, `aggregate_updates` at the server.

        client i                                  server
    gradient + memory = corrected
    encode -> signal, approximation
    memory = corrected - approximation
    norms  ----------- side channel ---------->   allocation: shares of the power budget
    signal ----------- the air --------------->   channel: mean signal + noise
                                                  decode -> update, next shared state

Every tensor of gradients, signals and memories has a leading clients axis. One client is the case clients = 1; many
clients on one machine are one batched call. Gradients and memories have a row per participant of the round, signals a
row per transmitter. A participant in outage does not transmit, and its whole gradient stays in its memory.

Source: paper, Algorithm 1 and §G.5.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norms, pick, put, take, to_device, to_host
from laser_fl.channels import mac, orthogonal
from laser_fl.channels.base import ChannelState, ChannelUsage
from laser_fl.clipping import LARGEST, along, clip_factors, refuse_overflow, without_broken
from laser_fl.errors import TrainingError
from laser_fl.power.split import Allocation, signal_powers
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme, decoded, encoded, owners
from laser_fl.shapes import Float64, Int64

NOISE_REACH = 10.0  # standard deviations; PyTorch draws none beyond 9

Losses = Float64[Tensor, " clients"]
Norms = Float64[Tensor, "clients _"]


@dataclass(frozen=True)
class Instructions:
    """The server's instructions to encode a gradient.

    shared: the scheme's shared state. norm_bounds: the largest norm that a signal may have, by its name; {}: no bound.
    """

    scheme: Scheme
    shared: Tensors
    context: RoundContext
    norm_bounds: Mapping[str, float] = field(default_factory=dict)


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


def encode_update(
    instructions: Instructions,
    gradients: Tensors | None,
    losses: Tensor,
    memory: Tensors,
    buffers: Tensors | None = None,
    in_place: bool = False,
) -> tuple[ClientUpdate, Tensors]:
    """Correct the gradients, encode them, and keep the difference in the memory: the clients' half of an exchange.

    A gradient that is not finite does not enter the memory; its client reports a loss of NaN, and is left out of the
    round.

    Args:
        instructions: of the server.
        gradients: per block (participants, *shape); None after the first phase of a round, whose gradient then waits
            in the memory.
        losses: (participants,), training losses, of any float type.
        memory: per block like the gradients; {} at first, and always for schemes without error feedback.
        buffers: of the model after the round's forward passes, (participants, *shape), where it has any.
        in_place: True for callers that own `memory` and `gradients`: both may be overwritten, and the next memory takes
            the place of one of them.

    Returns:
        The update, and the next memory.

    Raises:
        TrainingError: a block of the model has no gradient (a buffer is no block).
    """
    losses = losses.double()
    if not instructions.scheme.traits.error_feedback:
        return encode(instructions, gradients or {}, losses, buffers), {}
    if not in_place:
        memory, gradients = _copied(memory), gradients and _copied(gradients)
    corrected, corrected_norms = memory, None
    if gradients is not None:
        corrected, losses, corrected_norms = correct(memory, gradients, losses)
    return encode(instructions, corrected, losses, buffers, corrected_norms), corrected


def encode_finite(
    instructions: Instructions, gradients: Tensors | None, losses: Losses, memory: Tensors
) -> ClientUpdate:
    """Do as `encode_update` for gradients that are finite and the caller's: only the memory changes, in place.

    Args:
        instructions: of the server.
        gradients: per block (participants, *shape); None after the first phase of a round.
        losses: (participants,).
        memory: per block like the gradients, of every block; {} for schemes without error feedback.

    Raises:
        TrainingError: a block of the model has no gradient.
    """
    if not instructions.scheme.traits.error_feedback:
        return encode(instructions, gradients or {}, losses)
    _add(memory, gradients or {})
    return encode(instructions, memory, losses)


def correct(memory: Tensors, gradients: Tensors, losses: Losses) -> tuple[Tensors, Losses, Norms | None]:
    """Add up memory and gradients, in place of one of them, but not the gradients of clients whose sum is not finite.

    On a CPU the sum takes the place of the gradients, so that a broken one does not touch the memory: the norms, which
    are needed anyway, tell. On a GPU it takes that of the memory, and nobody waits for a look.

    Args:
        memory: per block (clients, *shape); a missing block is zero.
        gradients: per block (clients, *shape), contiguous.
        losses: (clients,).

    Returns:
        The corrected gradients, the losses, NaN for the clients that were left out, and the norms of the corrected
        gradients where they are known.
    """
    if not gradients:
        return {}, losses, None
    if next(iter(gradients.values())).is_cuda:
        gradients, losses = without_broken(gradients, losses)
        _add(memory, gradients)
        return {name: memory.get(name, gradient) for name, gradient in gradients.items()}, losses, None
    _add(gradients, memory)
    corrected_norms = norms(gradients, len(losses))
    if np.isfinite(corrected_norms.numpy()).all():
        return gradients, losses, corrected_norms
    broken = ~corrected_norms.isfinite().all(dim=1)
    before = {name: memory.get(name, torch.zeros_like(gradient)) for name, gradient in gradients.items()}
    corrected = {name: torch.where(along(broken, g).bool(), before[name], g) for name, g in gradients.items()}
    return corrected, torch.where(broken, math.nan, losses), None


def encode(
    instructions: Instructions,
    corrected: Tensors,
    losses: Losses,
    buffers: Tensors | None = None,
    corrected_norms: Norms | None = None,
) -> ClientUpdate:
    """Encode corrected gradients. With error feedback they become the next memory, in place.

    A signal whose norm is above its bound is sent at the bound. The excess stays in the memory where the scheme has
    error feedback, and is lost elsewhere.

    Args:
        instructions: of the server.
        corrected: per block (participants, *shape), contiguous.
        losses: (participants,).
        buffers: (participants, *shape).
        corrected_norms: of the corrected gradients, where they are known.

    Raises:
        TrainingError: a block of the model has no gradient.
    """
    scheme, ctx, buffers = instructions.scheme, instructions.context, buffers or {}
    if missing := [block.name for block in ctx.blocks if block.name not in corrected]:
        raise TrainingError(f"round {ctx.round + 1}: there is no gradient for the blocks {', '.join(missing)}")
    if not ctx.transmitters:
        return ClientUpdate.in_outage(losses, buffers)
    rows = _rows_of(ctx.transmitters, ctx.participants)
    sending, sending_norms = corrected, corrected_norms
    if rows is not None:
        sending, sending_norms = pick(corrected, rows), None
    encoded = _encode(sending, instructions, sending_norms)
    excess: Tensors = {}
    bounds = instructions.norm_bounds
    if (factors := clip_factors(bounds, encoded.signal_norms, list(encoded.signals), list(sending))) is not None:
        if scheme.traits.digital:  # a message is made of all blocks at once: smaller ones make room for others
            factors = factors.amin(dim=1, keepdim=True).expand_as(factors)
        clipped = {name: m * along(factors[:, i], m) for i, (name, m) in enumerate(sending.items())}
        excess = {name: m - clipped[name] for name, m in sending.items()}
        sending, encoded = clipped, _encode(clipped, instructions)
    in_flight: tuple[InFlight, ...] = ()
    if scheme.traits.error_feedback:
        _subtract(encoded.approximations, sending, excess, corrected, rows)
        in_flight = (InFlight(ctx.transmitters, encoded.approximations),)
    return ClientUpdate(encoded.signals, encoded.signal_norms, encoded.gradient_norms, losses, buffers, in_flight)


def aggregate_updates(
    client_update: ClientUpdate,
    shared: Tensors,
    scheme: Scheme,
    channel_state: ChannelState,
    allocation: Allocation,
    ctx: RoundContext,
    channel_uses: int = 0,
    weights: Float64[Tensor, " transmitters"] | None = None,
) -> AggregationResult:
    """Split the power, transmit, decode: the server's half of an exchange.

    With weights w_i the estimate is that of Σ_i w_i s_i over ctx.averaged clients. Analog clients send w_i s_i, so that
    the power is split, and the budget holds, for that; digital messages are weighed when they are decoded. A round in
    which nobody transmits changes nothing.

    Args:
        client_update: of all participants.
        shared: the scheme's shared state.
        scheme: as the clients have it.
        channel_state: of the transmitters.
        allocation: shares of the power per block.
        ctx: of the exchange.
        channel_uses: of an exchange by a digital scheme.
        weights: of the transmitters, above 0; None: all weigh 1.

    Raises:
        PowerError: a digital message does not fit into its link.
        TrainingError: noise or signals are so large that the estimate or the update is no number.
    """
    if not ctx.transmitters:
        return AggregationResult(None, None, shared, ChannelUsage.none(0), 0, scheme, ctx)
    amplitudes = 0
    if not client_update.signals:  # a phase in which this model has nothing to send
        received, usage = Received({}, {}), ChannelUsage.none(len(ctx.transmitters))
    elif scheme.traits.digital:
        payload = scheme.payload(values_sent(client_update.signals), ctx)
        received, usage = orthogonal.deliver(client_update.signals, payload, channel_uses, ctx, weights)
    else:
        signals, signal_norms = client_update.signals, client_update.signal_norms
        sent_norms, gradient_norms = signal_norms, client_update.gradient_norms
        if weights is not None:
            channel_state, rows = channel_state.weighted(weights), weights.to(signal_norms).unsqueeze(1)
            sent_norms, gradient_norms = rows * signal_norms, rows * gradient_norms
        power = signal_powers(signals, sent_norms, gradient_norms, scheme, allocation, ctx)
        received, usage = mac.transmit(
            signals, signal_norms, power, channel_state, ctx, superposed=client_update.superposed
        )
        amplitudes = len(signals)
    if not _is_moderate(usage):
        refuse_overflow(received.values, ctx.round)
    update, shared = decoded(scheme, received, shared, ctx)
    if update is not None and update is not received.values:
        refuse_overflow(update, ctx.round)
    return AggregationResult(received, update, shared, usage, amplitudes, scheme, ctx)


def superpose(client_update: ClientUpdate, factors: Float64[Tensor, " transmitters"], total: Tensors) -> ClientUpdate:
    """Add Σ_i factor_i s_i to a sum of signals, and return the rest of the update, without signals.

    A signal whose norm is no number, or whose factor is 0, does not enter the sum.

    Args:
        client_update: of some clients.
        factors: of their signals: precoding times gain.
        total: the sum so far, by name (1, *signal shape), changed in place; {} at first.
    """
    if client_update.signals:
        counts = (factors != 0) & client_update.signal_norms.isfinite().all(dim=1).to(factors.device)
        for name, signal in client_update.signals.items():
            rows, weights = (
                as_rows(signal),
                to_device(torch.where(counts, factors, 0.0).to(signal.dtype), signal.device),
            )
            if not counts.all():
                rows = torch.where(weights.unsqueeze(1) != 0, rows, 0.0)
            added = (weights.unsqueeze(0) @ rows).view(1, *signal.shape[1:])
            total[name] = total[name].add_(added) if name in total else added
    return replace(client_update, signals={})


def _is_moderate(usage: ChannelUsage) -> bool:
    """Return True where the energies of estimates and noise leave no doubt that all values are numbers."""
    largest = math.sqrt(usage.signal_energy) + NOISE_REACH * math.sqrt(usage.noise_energy)
    return usage.values > 0 and largest * math.sqrt(usage.values) < LARGEST


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


@dataclass(frozen=True)
class _Encoded:
    """Signals with their norms, and the approximations that they stand for."""

    signals: Tensors
    signal_norms: Float64[Tensor, "transmitters signals"]
    gradient_norms: Float64[Tensor, "transmitters blocks"]
    approximations: Mapping[str, Approximation]


def _encode(sending: Tensors, instructions: Instructions, sending_norms: Norms | None = None) -> _Encoded:
    signals, approximations = encoded(instructions.scheme, sending, instructions.shared, instructions.context)
    transmitters = len(instructions.context.transmitters)
    signal_norms = norms(signals, transmitters)
    if signals is sending:  # the gradient itself is sent, and its norms do for both
        return _Encoded(signals, signal_norms, signal_norms, approximations)
    names = list(owners(signals))
    if sending_norms is None:
        return _Encoded(signals, signal_norms, norms({n: sending[n] for n in names}, transmitters), approximations)
    if names != (known := list(sending)):
        sending_norms = sending_norms[:, [known.index(name) for name in names]]
    return _Encoded(signals, signal_norms, sending_norms, approximations)


def _rows_of(transmitters: tuple[int, ...], participants: tuple[int, ...]) -> list[int] | None:
    """Find the transmitters' rows among the participants'; None where all transmit."""
    if transmitters == participants:
        return None
    row = {client: index for index, client in enumerate(participants)}
    return [row[transmitter] for transmitter in transmitters]


def _add(to: Tensors, others: Tensors) -> None:
    """Add tensors in place to those of the same name."""
    if known := [name for name in to if name in others]:
        torch._foreach_add_([to[name] for name in known], [others[name] for name in known])


def _copied(tensors: Tensors) -> Tensors:
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def _subtract(
    approximations: Mapping[str, Approximation],
    sending: Tensors,
    excess: Tensors,
    corrected: Tensors,
    rows: list[int] | None,
) -> None:
    """Subtract the approximations from the transmitters' corrected gradients, in place.

    sending: the encoded gradients; excess: the rest of them, where norms were clipped.
    """
    for name, approximation in approximations.items():
        approximation.subtract_from_(sending[name])
    if rows is None and not excess:
        return
    left = {name: sending[name] + excess[name] if excess else sending[name] for name in approximations}
    if rows is not None:
        put(corrected, rows, left)
    else:
        for name, difference in left.items():
            corrected[name].copy_(difference)
