"""A host of clients, a process or a Flower node: who of them takes part, and what they hold between rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from laser_fl.blocks import Tensors
from laser_fl.downlink import listen
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.receipts import Receipts
from laser_fl.replica import Follower, following
from laser_fl.replies import Reply

Respond = Callable[[Broadcast, Tensors], tuple[Uplink, Tensors]]


@dataclass(frozen=True)
class Held:
    """What a host's clients hold between exchanges, a row per client; the host owns it and changes it in place.

    memory: of error feedback, per block; empty at first, and for schemes without.
    copies: each client's own model, where the server broadcasts updates; else empty.
    follower: of all the host's clients, where the server broadcasts what it heard.
    last: what they said last; it is said again where the server asks again, and goes back into the memory where
        the server has not taken it.
    """

    memory: Tensors = field(default_factory=dict)
    copies: Tensors = field(default_factory=dict)
    follower: Follower | None = None
    last: Reply | None = None


class Host:
    """Some of the run's clients, and what they hold."""

    def __init__(self, clients: range, respond: Respond, held: Held | None = None) -> None:
        """clients: their numbers in the run. held: to go on from.

        respond: (broadcast, memory) -> (uplink, next memory), whose rows are broadcast.context.present.
        """
        self.held = held or Held()
        self._clients = clients
        self._respond = respond

    def answer(self, broadcast: Broadcast) -> Reply:
        """Let those that take part in the round respond; the others only listen. What was said already is said again.

        Raises:
            OutOfStepError: the server told what it heard, but an exchange before that was missed.
        """
        exchange = broadcast.receipts.exchange
        if self.held.last is not None and self.held.last.exchange == exchange:
            return self.held.last
        broadcast, self.held = follow(broadcast, self.held)
        self.held = settle(self.held, broadcast.receipts, self._clients)
        here = self._hear(broadcast)
        uplink, rows = Uplink.none(), [client - self._clients.start for client in here.context.present]
        if rows:
            uplink, memory = self._respond(here, pick(self.held.memory, rows))
            self.held = replace(self.held, memory=place(self.held.memory, rows, memory, len(self._clients)))
        reply = Reply(exchange, here.context.present, uplink)
        self.held = replace(self.held, last=reply)
        return reply

    def _hear(self, broadcast: Broadcast) -> Broadcast:
        """The broadcast as those hear it that take part; copies of the model change with it."""
        here = broadcast.of(self._clients)
        if broadcast.context.phase > 0:
            return here
        present, keeping = here.context.present, broadcast.downlink.content in ("start", "update")
        listeners = self._clients if keeping else present  # a copy goes on while its client is absent
        own, copies = listen(broadcast.weights, broadcast.downlink, self.held.copies, listeners, broadcast.context)
        self.held = replace(self.held, copies=copies)
        if own is None or not present:
            return here
        return replace(here, weights=pick(own, [client - self._clients.start for client in present]), own_weights=True)


def settle(held: Held, receipts: Receipts, clients: range) -> Held:
    """Put back into the memory what was said last and the server has not taken; in place."""
    if held.last is None:
        return held
    for pending in held.last.uplink.pending:
        lost = [i for i, c in enumerate(pending.clients) if not receipts.has(c, held.last.exchange)]
        if lost:
            rows = torch.tensor([client - clients.start for client in pending.clients])
            for name, part in pending.kept.items():
                memory = held.memory[name]
                whole = memory[rows]
                part.restore_(whole)
                memory[rows[lost]] = whole[lost]
    return replace(held, last=None)


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
