"""A host of clients, a process or a Flower node: who of them takes part, and what they hold between rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from laser_fl.blocks import Tensors
from laser_fl.channels.downlink import listen
from laser_fl.errors import brief
from laser_fl.federated.acknowledgements import Receipts, flatten, unflatten
from laser_fl.federated.replica import Follower, OutOfStepError, following
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.rng import Device
from laser_fl.storage.checkpoint import CheckpointError, Checkpoints, Numbers

TREES = ("memory", "copies", "signals", "buffers", "kept")
REPORTS = ("losses", "signal_norms", "gradient_norms")


@dataclass(frozen=True)
class Held:
    """What a host's clients hold, a row per client; the host owns it and changes it in place.

    memory: of error feedback, per block; empty at first, and for schemes without.
    copies: each client's own model, where the server broadcasts updates; else empty.
    follower: of all the host's clients, where the server broadcasts what it heard; it is not in checkpoints.
    last: what they said last; it is said again where the server asks again, and goes back into the memory where
        the server has not taken it.
    heard: the last round whose broadcast the copies have followed.
    """

    memory: Tensors = field(default_factory=dict)
    copies: Tensors = field(default_factory=dict)
    follower: Follower | None = None
    last: Reply | None = None
    heard: int = -1


def to_checkpoint(held: Held) -> tuple[Numbers, Tensors]:
    """What is held after an answer, as numbers and tensors."""
    assert held.last is not None
    uplink = held.last.uplink
    pending, kept = flatten(uplink.pending)
    trees = dict(zip(TREES, (held.memory, held.copies, uplink.signals, uplink.buffers, kept), strict=True))
    tensors = {f"{tree}/{name}": tensor for tree, named in trees.items() for name, tensor in named.items()}
    last, clients = held.last.exchange, held.last.clients
    numbers = {"exchange": last, "clients": clients, "pending": pending, "heard": held.heard}
    return numbers, tensors | {name: getattr(uplink, name) for name in REPORTS}


def from_checkpoint(numbers: Numbers, tensors: Tensors, device: Device = "cpu") -> Held:
    """Undo `to_checkpoint`, onto `device`. Raises CheckpointError."""
    trees: dict[str, Tensors] = {tree: {} for tree in TREES}
    for key, tensor in tensors.items():
        tree, _, name = key.partition("/")
        if tree in trees:
            trees[tree][name] = tensor.to(device)
    try:
        reports: dict[str, Any] = {name: tensors[name] for name in REPORTS}
        pending = unflatten(numbers["pending"], trees["kept"])
        uplink = Uplink(trees["signals"], buffers=trees["buffers"], pending=pending, **reports)
        last, heard = Reply(int(numbers["exchange"]), tuple(numbers["clients"]), uplink), int(numbers["heard"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint: does not hold what clients hold ({brief(str(error))})") from None
    return Held(trees["memory"], trees["copies"], last=last, heard=heard)


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
