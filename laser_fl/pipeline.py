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

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.channels.base import Channel, Usage
from laser_fl.errors import TrainingError
from laser_fl.norms import norms
from laser_fl.schemes.base import Context, Scheme

Norms = Float64[Tensor, "clients signals"]
Shares = Float64[Tensor, " signals"]
Allocation = Callable[[Norms, Norms, Shares], Shares]

SMALLEST_SHARE = 1e-6  # of the budget, divided by the number of blocks


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

    signals: per block (clients, *signal shape); this goes through the air.
    signal_norms, gradient_norms: norms of the signals and of the corrected gradients of their
        blocks; this goes through the noiseless side channel.
    losses: each client's training loss; bookkeeping, not transmitted.
    """

    signals: Tensors
    signal_norms: Norms
    gradient_norms: Norms
    losses: Float64[Tensor, " clients"]


@dataclass(frozen=True)
class Reception:
    """What the server made of an exchange. update: None until the scheme's last phase."""

    update: Tensors | None
    shared: Tensors
    usage: Usage


def send(broadcast: Broadcast, gradients: Tensors | None, losses: Tensor, memory: Tensors) -> tuple[Uplink, Tensors]:
    """The client's half: correct, encode, remember what was left out.

    gradients: per block (clients, *shape); None after the first phase of a round, whose
    gradient then waits in the memory. memory: per block likewise; empty at first, and always
    for schemes without error feedback. Returns the uplink and the next memory.
    """
    scheme, ctx = broadcast.scheme, broadcast.context
    corrected = _add(memory, gradients)
    signals, kept = scheme.encode(corrected, broadcast.shared, ctx)
    spoken = {name: corrected[name] for name in signals}
    uplink = Uplink(signals, norms(signals), norms(spoken), losses)
    return uplink, _subtract(corrected, kept) if scheme.error_feedback else {}


def receive(
    uplink: Uplink, shared: Tensors, scheme: Scheme, channel: Channel, allocation: Allocation, ctx: Context
) -> Reception:
    """The server's half: share out the power, listen, decode.

    Raises:
        TrainingError: a client's gradient is not finite; nothing was decoded.
    """
    refuse_non_finite(uplink, ctx)
    share = shares(uplink, allocation)
    power = torch.where(share > 0, ctx.power * share, 0.0)  # inf * 0 is NaN
    heard, usage = channel.transmit(uplink.signals, uplink.signal_norms, power, ctx)
    update, shared = scheme.decode(heard, shared, ctx)
    return Reception(update, shared, usage)


def shares(uplink: Uplink, allocation: Allocation) -> Shares:
    """The allocation's shares, with at least 1e-6/L for every block that has something to say."""
    sizes = torch.tensor([s[0].numel() for s in uplink.signals.values()]).to(uplink.signal_norms)
    proposed = allocation(uplink.signal_norms, uplink.gradient_norms, sizes)
    speaks = uplink.signal_norms.amax(dim=0) > 0
    least = SMALLEST_SHARE * (1 + 2 * SMALLEST_SHARE) / len(sizes)  # still enough after the division
    raised = torch.where(speaks, proposed.clamp_min(least), proposed)
    return raised / raised.sum()


def refuse_non_finite(uplink: Uplink, ctx: Context) -> None:
    """Stop where a norm is NaN or infinite, with the round, the block and the client."""
    largest = torch.finfo(next(iter(uplink.signals.values())).dtype).max
    for what, values in (("gradient", uplink.gradient_norms), ("signal", uplink.signal_norms)):
        broken = ~(values < largest)
        if broken.any():
            client, index = broken.nonzero()[0].tolist()
            name = list(uplink.signals)[index]
            raise TrainingError(
                f"round {ctx.round + 1}: the {what} of block {name} is not finite at client {client} "
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
