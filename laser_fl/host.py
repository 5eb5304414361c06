"""A host of clients, a process or a Flower node: who of them takes part, and what they hold between rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from laser_fl.blocks import Tensors
from laser_fl.downlink import listen
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.replica import Follower, following

Respond = Callable[[Broadcast, Tensors], tuple[Uplink, Tensors]]


@dataclass(frozen=True)
class Held:
    """What a host's clients hold between rounds, a row per client; the host owns it and changes it in place.

    memory: of error feedback, per block; empty at first, and for schemes without.
    copies: each client's own model, where the server broadcasts updates; else empty.
    follower: of all the host's clients, where the server broadcasts what it heard.
    """

    memory: Tensors = field(default_factory=dict)
    copies: Tensors = field(default_factory=dict)
    follower: Follower | None = None


def answer(broadcast: Broadcast, held: Held, clients: range, respond: Respond) -> tuple[Uplink, Held]:
    """Let those of `clients` that take part in the round respond; the others only listen.

    respond: (broadcast, memory) -> (uplink, next memory), whose rows are broadcast.context.present.

    Raises:
        OutOfStepError: the server told what it heard, but an exchange before that was missed.
    """
    broadcast, held = follow(broadcast, held)
    here, own = broadcast.of(clients), None
    rows = [client - clients.start for client in here.context.present]
    if broadcast.context.phase == 0:
        keeping = broadcast.downlink.content in ("start", "update")  # a copy goes on while its client is absent
        listeners = clients if keeping else here.context.present
        own, copies = listen(broadcast.weights, broadcast.downlink, held.copies, listeners, broadcast.context)
        held = replace(held, copies=copies)
    if not rows:
        return Uplink.none(), held
    if own is not None:
        here = replace(here, weights=pick(own, rows), own_weights=True)
    uplink, memory = respond(here, pick(held.memory, rows))
    return uplink, replace(held, memory=place(held.memory, rows, memory, len(clients)))


def follow(broadcast: Broadcast, held: Held) -> tuple[Broadcast, Held]:
    """Make weights and shared state of what was told, where it is for the host to make them.

    Raises:
        OutOfStepError: an exchange before that was missed.
    """
    if broadcast.told is None:
        return broadcast, held
    follower = following(held.follower, broadcast.told, broadcast.scheme)
    followed = replace(broadcast, weights=follower.weights, shared=follower.shared, told=None)
    return followed, replace(held, follower=follower)


def pick(tensors: Tensors, rows: list[int]) -> Tensors:
    """Some rows of each tensor; the tensors themselves where that is all."""
    if all(len(tensor) == len(rows) for tensor in tensors.values()):
        return tensors
    return {name: tensor[rows] for name, tensor in tensors.items()}


def place(tensors: Tensors, rows: list[int], changed: Tensors, count: int) -> Tensors:
    """Tensors of `count` rows, of which `rows` become as in `changed`; the others stay as before, at first zero."""
    if len(rows) == count:
        return changed
    index, result = torch.tensor(rows), {}
    for name, new in changed.items():
        before = tensors[name] if name in tensors else new.new_zeros(count, *new.shape[1:])
        result[name] = before.index_copy_(0, index.to(new.device), new)
    return result
