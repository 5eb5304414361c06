"""A host of clients, a process or a Flower node: who of them takes part, and what they hold between rounds."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from laser_fl.blocks import Tensors
from laser_fl.checkpoints import Checkpoints
from laser_fl.downlink import listen
from laser_fl.held import Held, from_checkpoint, to_checkpoint
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.receipts import Receipts
from laser_fl.replica import OutOfStepError, following
from laser_fl.replies import Reply
from laser_fl.streams import Device

Respond = Callable[[Broadcast, Tensors], tuple[Uplink, Tensors]]


class Host:
    """Some of the run's clients, and what they hold."""

    def __init__(
        self,
        clients: range,
        respond: Respond,
        held: Held | None = None,
        name: str = "node-0-of-1",
        folder: str = "",
        device: Device = "cpu",
    ) -> None:
        """clients: their numbers in the run. held: to go on from; None: nothing, or what is on disk.

        respond: (broadcast, memory) -> (uplink, next memory), whose rows are broadcast.context.present.
        name: of the host among those of the run. folder: for its snapshots, instead of the one that the server names.
        device: where the clients compute.
        """
        self._held = held
        self._clients = clients
        self._respond = respond
        self._name = name
        self._folder = folder
        self._device = device

    @property
    def held(self) -> Held:
        """What the clients hold now."""
        return self._held or Held()

    def answer(self, broadcast: Broadcast) -> Reply:
        """Let those that take part in the round respond; the others only listen. What was said already is said again.

        Raises:
            OutOfStepError: the server told what it heard, or its update, but one before that was missed.
            StorageError: the server asked for a snapshot, but it cannot be written.
        """
        receipts = broadcast.receipts
        if self._held is None:
            self._held = self._recall(receipts)
        reply = self._said(receipts.exchange) or self._say(broadcast)
        if receipts.save:
            self._snapshots(receipts).save(receipts.exchange, *to_checkpoint(self.held))
        return reply

    def _said(self, exchange: int) -> Reply | None:
        """What was said already in an exchange that is repeated."""
        last = self.held.last
        return last if last is not None and last.exchange == exchange else None

    def _say(self, broadcast: Broadcast) -> Reply:
        """Listen and respond."""
        broadcast, held = follow(broadcast, self.held)
        self._held = settle(held, broadcast.receipts, self._clients)
        del held  # with the signals of the exchange before, which are not to lie beside the next gradients
        here = self._hear(broadcast)
        uplink, rows = Uplink.none(), [client - self._clients.start for client in here.context.present]
        if rows:
            uplink, memory = self._respond(here, pick(self.held.memory, rows))
            self._held = replace(self.held, memory=place(self.held.memory, rows, memory, len(self._clients)))
        reply = Reply(broadcast.receipts.exchange, here.context.present, uplink)
        self._held = replace(self.held, last=reply)
        return reply

    def _recall(self, receipts: Receipts) -> Held:
        """What was on disk when the server stopped, where it goes on from there and has taken nothing since."""
        if receipts.since == 0 or any(receipts.has(client, receipts.since) for client in self._clients):
            return Held()
        snapshots = self._snapshots(receipts)
        for exchange in (receipts.since, receipts.since - 1):  # where it stopped within one, it begins with that
            if exchange in snapshots.numbers:
                return from_checkpoint(*snapshots.load(exchange), self._device)
        return Held()

    def _snapshots(self, receipts: Receipts) -> Checkpoints:
        return Checkpoints(Path(self._folder or receipts.folder), self._name)

    def _hear(self, broadcast: Broadcast) -> Broadcast:
        """The broadcast as those hear it that take part; copies of the model change with it."""
        here = broadcast.of(self._clients)
        if broadcast.context.phase > 0:
            return here
        present, keeping = here.context.present, broadcast.downlink.content in ("start", "update")
        listeners = self._clients if keeping else present  # a copy goes on while its client is absent
        if broadcast.downlink.content == "update" and self.held.heard != broadcast.context.round - 1:
            raise OutOfStepError(f"round {broadcast.context.round + 1}: the update before it was missed")
        own, copies = listen(broadcast.weights, broadcast.downlink, self.held.copies, listeners, broadcast.context)
        self._held = replace(self.held, copies=copies, heard=broadcast.context.round)
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
    ctx = broadcast.context
    if ctx.speakers and not broadcast.scheme.fits(follower.shared, ctx):
        raise OutOfStepError("what was heard does not lead to the exchange that it was told in")
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
