"""The walk of a gradient through the air: `encode_update` at a client, `aggregate_updates` at the server.

        client i                                  server
    gradient + memory = corrected
    encode -> signal, approximation
    memory = corrected - approximation
    norms  ----------- side channel ---------->   norm cap, allocation: shares of the power budget
    signal ----------- the air --------------->   channel: mean signal + noise
                                                  decode -> update, next shared state

Every tensor of gradients, signals and memories has a leading clients axis. One client is the case clients = 1; many
clients on one machine are one batched call. Gradients and memories have a row per participant of the round, signals a
row per transmitter. A participant in outage does not transmit, and its whole gradient stays in its memory.

Source: paper, Algorithm 1 and §G.5.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, norms, pick, put
from laser_fl.channels import mac, orthogonal
from laser_fl.channels.base import ChannelState, ChannelUsage
from laser_fl.channels.exchange import AggregationResult, ClientUpdate, InFlight, Instructions, values_sent
from laser_fl.clipping import LARGEST, along, refuse_overflow, without_broken
from laser_fl.errors import TrainingError
from laser_fl.power.split import Allocation, signal_powers
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme, decoded, encoded, owners
from laser_fl.shapes import Float64

NOISE_REACH = 10.0  # standard deviations; PyTorch draws none beyond 9

Losses = Float64[Tensor, " clients"]
Norms = Float64[Tensor, "clients _"]


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


def add_to_memory(memory: Tensors, gradients: Tensors, losses: Losses) -> Losses:
    """Add gradients to the memory in place, but not those of clients with a value that is not finite.

    Args:
        memory: per block (clients, *shape).
        gradients: per block like the memory.
        losses: (clients,).

    Returns:
        The losses, NaN for the clients that were left out.
    """
    gradients, losses = without_broken(gradients, losses)
    _add(memory, gradients)
    return losses


def encode(
    instructions: Instructions,
    corrected: Tensors,
    losses: Losses,
    buffers: Tensors | None = None,
    corrected_norms: Norms | None = None,
) -> ClientUpdate:
    """Encode corrected gradients. With error feedback they become the next memory, in place.

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
    in_flight: tuple[InFlight, ...] = ()
    if scheme.traits.error_feedback:
        for name, approximation in encoded.approximations.items():
            approximation.subtract_from_(sending[name])
        if rows is not None:
            put(corrected, rows, {name: sending[name] for name in encoded.approximations})
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
    shares: Float64[Tensor, "transmitters signals"] | None = None,
) -> AggregationResult:
    """Split the power, transmit, decode: the server's half of an exchange.

    With weights w_i and shares f_il the estimate is that of Σ_i w_i f_il s_il over ctx.averaged clients. Analog clients
    send w_i f_il s_il, so that the power is split, and the budget holds, for that; digital messages are weighed when
    they are decoded. A round in which nobody transmits changes nothing.

    Args:
        client_update: of all participants.
        shared: the scheme's shared state.
        scheme: as the clients have it.
        channel_state: of the transmitters.
        allocation: shares of the power per block.
        ctx: of the exchange.
        channel_uses: of an exchange by a digital scheme.
        weights: of the transmitters, above 0; None: all weigh 1.
        shares: of each signal that is to be sent, since the norm cap clips the others; None: all of all.

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
        received, usage = orthogonal.deliver(client_update.signals, payload, channel_uses, ctx, weights, shares)
    else:
        signals, signal_norms = client_update.signals, client_update.signal_norms
        sent_norms, gradient_norms = signal_norms, client_update.gradient_norms
        if shares is not None:
            sent_norms = shares * sent_norms
        if weights is not None:
            channel_state, rows = channel_state.weighted(weights), weights.to(signal_norms).unsqueeze(1)
            sent_norms, gradient_norms = rows * sent_norms, rows * gradient_norms
        power = signal_powers(signals, sent_norms, gradient_norms, scheme, allocation, ctx)
        received, usage = mac.transmit(
            signals, signal_norms, power, channel_state, ctx, shares, superposed=client_update.superposed
        )
        amplitudes = len(signals)
    if not _is_moderate(usage):
        refuse_overflow(received.values, ctx.round)
    update, shared = decoded(scheme, received, shared, ctx)
    if update is not None and update is not received.values:
        refuse_overflow(update, ctx.round)
    return AggregationResult(received, update, shared, usage, amplitudes, scheme, ctx)


def _is_moderate(usage: ChannelUsage) -> bool:
    """Return True where the energies of estimates and noise leave no doubt that all values are numbers."""
    largest = math.sqrt(usage.signal_energy) + NOISE_REACH * math.sqrt(usage.noise_energy)
    return usage.values > 0 and largest * math.sqrt(usage.values) < LARGEST


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
