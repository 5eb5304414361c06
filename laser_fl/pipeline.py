"""The walk of a gradient through the air: `send` at a client, `receive` at the server.

        client i                                  server
    gradient + memory = corrected
    encode -> signal, kept
    memory = corrected - kept
    norms  ----------- side channel ---------->   allocation: shares of the power budget
    signal ----------- the air ----------------> channel: mean signal + noise
                                                  decode -> update, next shared state

Every tensor of gradients, signals and memories has a leading clients axis: one client is the
case clients = 1, and many clients on one machine are one batched call.

Source: paper, Algorithm 1 and §G.5.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.channels.base import Channel, Usage
from laser_fl.errors import TrainingError
from laser_fl.norms import norms
from laser_fl.power import Allocation, signal_powers
from laser_fl.schemes.base import Context, Heard, Scheme, owners


@dataclass(frozen=True)
class Broadcast:
    """What the server tells every client before it sends: the model, how to encode, the round."""

    weights: Tensors
    shared: Tensors
    scheme: Scheme
    context: Context


@dataclass(frozen=True)
class Uplink:
    """What clients say in one exchange.

    signals: by name (clients, *signal shape); this goes through the air. Those of one block
        follow each other.
    signal_norms: per signal; gradient_norms: per block, of the corrected gradients; both go
        through the noiseless side channel.
    losses: each client's training loss; bookkeeping, not transmitted.
    """

    signals: Tensors
    signal_norms: Float64[Tensor, "clients signals"]
    gradient_norms: Float64[Tensor, "clients blocks"]
    losses: Float64[Tensor, " clients"]


@dataclass(frozen=True)
class Reception:
    """What the server made of an exchange.

    update: None until the scheme's last phase.
    side_channel_floats: norms up and amplitudes down, per client.
    """

    update: Tensors | None
    shared: Tensors
    usage: Usage
    side_channel_floats: int


def send(broadcast: Broadcast, gradients: Tensors | None, losses: Tensor, memory: Tensors) -> tuple[Uplink, Tensors]:
    """The client's half: correct, encode, remember what was left out.

    gradients: per block (clients, *shape); None after the first phase of a round, whose
    gradient then waits in the memory. memory: per block likewise; empty at first, and always
    for schemes without error feedback. Returns the uplink and the next memory.

    Raises:
        TrainingError: a block of the model has no gradient (a buffer is no block).
    """
    scheme, ctx = broadcast.scheme, broadcast.context
    corrected = _add(memory, gradients)
    if missing := [block.name for block in ctx.blocks if block.name not in corrected]:
        raise TrainingError(f"round {ctx.round + 1}: there is no gradient for the blocks {', '.join(missing)}")
    signals, kept = scheme.encode(corrected, broadcast.shared, ctx)
    signal_norms = norms(signals, len(losses))
    if signals is corrected:  # the gradient itself is sent, and its norms do for both
        gradient_norms = signal_norms
    else:
        gradient_norms = norms({name: corrected[name] for name in owners(signals)}, len(losses))
    uplink = Uplink(signals, signal_norms, gradient_norms, losses)
    return uplink, _subtract(corrected, kept) if scheme.promises.error_feedback else {}


def receive(
    uplink: Uplink, shared: Tensors, scheme: Scheme, channel: Channel, allocation: Allocation, ctx: Context
) -> Reception:
    """The server's half: share out the power, listen, decode.

    Raises:
        TrainingError: a client's gradient is not finite; nothing was decoded.
    """
    refuse_non_finite(uplink, ctx)
    if uplink.signals:
        names = list(uplink.signals)
        power = signal_powers(names, uplink.signal_norms, uplink.gradient_norms, scheme, allocation, ctx)
        heard, usage = channel.transmit(uplink.signals, uplink.signal_norms, power, ctx)
    else:  # a phase in which this model has nothing to say
        heard, usage = Heard({}, {}), Usage.none(len(uplink.losses))
    update, shared = scheme.decode(heard, shared, ctx)
    side_channel_floats = 2 * uplink.signal_norms.shape[1] + uplink.gradient_norms.shape[1]
    return Reception(update, shared, usage, side_channel_floats)


def refuse_non_finite(uplink: Uplink, ctx: Context) -> None:
    """Stop where a norm is NaN or infinite, with the round, the block and the client."""
    for what, values, names in (
        ("gradient", uplink.gradient_norms, list(owners(uplink.signals))),
        ("signal", uplink.signal_norms, list(uplink.signals)),
    ):
        broken = ~(values < torch.finfo(torch.float32).max)
        if broken.any():
            client, index = broken.nonzero()[0].tolist()
            raise TrainingError(
                f"round {ctx.round + 1}: the {what} of block {names[index]} is not finite at client {client} "
                f"(norm {values[client, index].item()}); a lower learning-rate or more power may help"
            )


def join(uplinks: list[Uplink]) -> Uplink:
    """Put the uplinks of several groups of clients, in order of clients, into one."""
    if len(uplinks) == 1:
        return uplinks[0]
    return Uplink(
        {name: torch.cat([u.signals[name] for u in uplinks]) for name in uplinks[0].signals},
        torch.cat([u.signal_norms for u in uplinks]),
        torch.cat([u.gradient_norms for u in uplinks]),
        torch.cat([u.losses for u in uplinks]),
    )


def _add(memory: Tensors, gradients: Tensors | None) -> Tensors:
    if gradients is None:
        return memory
    return {name: memory[name] + g if name in memory else g for name, g in gradients.items()}


def _subtract(corrected: Tensors, kept: Tensors) -> Tensors:
    return {name: m - kept[name] if name in kept else m for name, m in corrected.items()}
