"""A group of clients, computed by one process or Flower node: their replies, and their state between rounds."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from laser_fl.blocks import Tensors, pick, take
from laser_fl.channels.downlink import receive
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.clipping import with_unsent
from laser_fl.errors import brief
from laser_fl.federated.acknowledgements import Acknowledgements, flatten, unflatten
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.memories import Memories
from laser_fl.federated.replica import OutOfSyncError, ReplicaFollower, following
from laser_fl.federated.validation import Reply
from laser_fl.rng import Device
from laser_fl.storage.checkpoint import CheckpointError, Checkpoints, Numbers

TREES = ("memory", "copies", "signals", "buffers", "in-flight")
REPORTS = ("losses", "signal_norms", "gradient_norms")


@dataclass(frozen=True)
class ClientState:
    """The state of a group's clients between rounds, a row per client; the group owns it and changes it in place.

    memory: of error feedback, per block; empty at first, and for schemes without. A group keeps `Memories`.
    copies: each client's own model, where the server broadcasts updates; else empty.
    follower: of all the group's clients, where the server broadcasts the received signals; it is not in checkpoints.
    last: their last reply; it is sent again where the server asks again, and its approximations go back into the
        memory where the server has not accepted it.
    last_round: the last round whose broadcast the copies have followed.
    """

    memory: Mapping[str, Tensor] = field(default_factory=dict)
    copies: Tensors = field(default_factory=dict)
    follower: ReplicaFollower | None = None
    last: Reply | None = None
    last_round: int = -1


def to_checkpoint(client_state: ClientState) -> tuple[Numbers, Tensors]:
    """Return the client state after a reply, as numbers and tensors; memories, of those that have taken part only."""
    assert client_state.last is not None
    client_update = client_state.last.client_update
    in_flight, approximations = flatten(client_update.in_flight)
    of_update = (client_update.signals, client_update.buffers, approximations)
    numbers, memory = _memory_of(client_state)
    trees = dict(zip(TREES, (memory, client_state.copies, *of_update), strict=True))
    tensors = {f"{tree}/{name}": tensor for tree, named in trees.items() for name, tensor in named.items()}
    last, clients = client_state.last.exchange, client_state.last.clients
    if client_update.superposed:
        numbers["superposed"] = True
    numbers |= {"exchange": last, "clients": clients, "in-flight": in_flight, "last-round": client_state.last_round}
    return numbers, tensors | {name: getattr(client_update, name) for name in REPORTS}


def _memory_of(client_state: ClientState) -> tuple[Numbers, Tensors]:
    """Return the memories that there are, and whose they are, where not all clients of the group have one."""
    memory = client_state.memory
    if not isinstance(memory, Memories):
        return {}, dict(memory)
    owners, group = memory.owners, memory.clients
    if owners == tuple(group):
        return {}, memory.take(owners)
    return ({"group": [group.start, group.stop], "owners": owners} if memory else {}), memory.take(owners)


def _with_owners(numbers: Numbers, memory: Tensors) -> Mapping[str, Tensor]:
    """Undo `_memory_of`. Raises ValueError, KeyError or TypeError where they do not fit together."""
    if "owners" not in numbers:
        return memory
    (start, stop), owners = numbers["group"], numbers["owners"]
    group = range(int(start), int(stop))
    if not all(isinstance(client, int) and client in group for client in owners) or sorted(set(owners)) != list(owners):
        raise ValueError("its memories are of no clients of the group")
    if not memory or any(tensor.shape[:1] != (len(owners),) for tensor in memory.values()):
        raise ValueError("its memories must have a row for each of their clients")
    return Memories.of(memory, group, owners)


def from_checkpoint(numbers: Numbers, tensors: Tensors, device: Device = "cpu") -> ClientState:
    """Undo `to_checkpoint`, onto `device`. Raises CheckpointError."""
    trees: dict[str, Tensors] = {tree: {} for tree in TREES}
    for key, tensor in tensors.items():
        tree, _, name = key.partition("/")
        if tree in trees:
            trees[tree][name] = tensor.to(device)
    try:
        reports: dict[str, Any] = {name: tensors[name] for name in REPORTS}
        in_flight = unflatten(numbers["in-flight"], trees["in-flight"])
        reports["superposed"] = bool(numbers.get("superposed"))
        client_update = ClientUpdate(trees["signals"], buffers=trees["buffers"], in_flight=in_flight, **reports)
        last = Reply(int(numbers["exchange"]), tuple(numbers["clients"]), client_update)
        last_round = int(numbers["last-round"])
        memory = _with_owners(numbers, trees["memory"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"checkpoint: does not hold a client state ({brief(str(error))})") from None
    return ClientState(memory, trees["copies"], last=last, last_round=last_round)


UpdateFn = Callable[[Broadcast, Tensors], tuple[ClientUpdate, Tensors]]


class ClientGroup:
    """Some of the run's clients, and their state."""

    def __init__(
        self,
        clients: range,
        respond: UpdateFn,
        client_state: ClientState | None = None,
        name: str = "node-0-of-1",
        folder: Callable[[str], Path] | None = None,
        device: Device = "cpu",
        background: bool = False,
    ) -> None:
        """Start with a client state, or with none.

        Args:
            clients: their numbers in the run.
            respond: (broadcast, memory) -> (update, next memory), whose rows are broadcast.context.participants.
            client_state: to go on from; None: an empty one, or the snapshot on disk.
            name: of the group among those of the run.
            folder: returns the folder for its snapshots, by the name of the run; None: it saves none.
            device: on which the clients compute.
            background: True to write snapshots while the run goes on; `wait` returns when they are written.
        """
        self._client_state = client_state
        self._clients = clients
        self._respond = respond
        self._name = name
        self._folder = folder
        self._device = device
        self._background = background
        self._written: Checkpoints | None = None

    @property
    def client_state(self) -> ClientState:
        """The current client state; an empty one before the first broadcast."""
        return self._client_state or ClientState()

    def answer(self, broadcast: Broadcast) -> Reply:
        """Let the participants respond; the others only receive. An exchange that is repeated gets the same reply.

        Raises:
            OutOfSyncError: the server broadcast its received signals, or its update, but an earlier one was missed.
            StorageError: the server asked for a snapshot, but it cannot be written.
        """
        acknowledgements = broadcast.acknowledgements
        if self._client_state is None:
            self._client_state = self._load(acknowledgements)
        reply = self._last_reply(acknowledgements.exchange) or self._respond_to(broadcast)
        if acknowledgements.save and self._folder is not None:
            self._written = self._written or Checkpoints(self._folder(acknowledgements.run), self._name)
            numbers, tensors = to_checkpoint(self.client_state)
            self._written.save(acknowledgements.exchange, numbers, tensors, self._background)
        return reply

    def wait(self) -> None:
        """Wait until the last snapshot is written. Raises StorageError where it cannot be."""
        if self._written is not None:
            self._written.wait()

    def _last_reply(self, exchange: int) -> Reply | None:
        """Return the reply to an exchange that is repeated; None where it is new."""
        last = self.client_state.last
        return last if last is not None and last.exchange == exchange else None

    def _respond_to(self, broadcast: Broadcast) -> Reply:
        """Receive the broadcast and respond."""
        broadcast, client_state = follow(broadcast, self.client_state)
        self._client_state = restore_unacknowledged(client_state, broadcast.acknowledgements, self._clients)
        del client_state  # with the last exchange's signals, which must not be in memory beside the next gradients
        here = self._receive(broadcast)
        client_update, participants = ClientUpdate.none(), here.context.participants
        if participants:
            memories = Memories.of(self.client_state.memory, self._clients)
            client_update, memory = self._respond(here, memories.take(participants))
            memories.put(participants, memory)
            self._client_state = replace(self.client_state, memory=memories)
        reply = Reply(broadcast.acknowledgements.exchange, participants, client_update)
        self._client_state = replace(self.client_state, last=reply)
        return reply

    def _load(self, acknowledgements: Acknowledgements) -> ClientState:
        """Load the snapshot of when the server stopped, where it goes on from there and has accepted nothing since."""
        since = acknowledgements.since
        gone_on = any(acknowledgements.acknowledges(client, since) for client in self._clients)
        if self._folder is None or since == 0 or gone_on:
            return ClientState()
        snapshots = Checkpoints(self._folder(acknowledgements.run), self._name)
        for exchange in (since, since - 1):  # a server that stopped within an exchange begins with that one
            if exchange in snapshots.numbers:
                return from_checkpoint(*snapshots.load(exchange), self._device)
        return ClientState()

    def _receive(self, broadcast: Broadcast) -> Broadcast:
        """Return the broadcast as the participants receive it; copies of the model change with it."""
        here = broadcast.of(self._clients)
        if broadcast.context.phase > 0:
            return here
        participants, has_copies = here.context.participants, broadcast.downlink.content in ("start", "update")
        receiving = self._clients if has_copies else participants  # a copy follows while its client is away
        if broadcast.downlink.content == "update" and self.client_state.last_round != broadcast.context.round - 1:
            raise OutOfSyncError(f"round {broadcast.context.round + 1}: the update before it was missed")
        own, copies = receive(
            broadcast.weights, broadcast.downlink, self.client_state.copies, receiving, broadcast.context
        )
        self._client_state = replace(self.client_state, copies=copies, last_round=broadcast.context.round)
        if own is None or not participants:
            return here
        return replace(here, weights=pick(own, self._rows(participants)), own_weights=True)

    def _rows(self, participants: tuple[int, ...]) -> list[int]:
        """Find the participants' rows in what the group keeps."""
        return [client - self._clients.start for client in participants]


def restore_unacknowledged(
    client_state: ClientState, acknowledgements: Acknowledgements, clients: range
) -> ClientState:
    """Add the last approximations back to the memory as far as the server has not received them, in place.

    It has received nothing of an exchange that it has not acknowledged, and a part of signals that were clipped.

    Args:
        client_state: of the group.
        acknowledgements: of the server's next exchange.
        clients: numbers of the group's clients, the rows of the memory.
    """
    if client_state.last is None:
        return client_state
    exchange = client_state.last.exchange
    memories = Memories.of(client_state.memory, clients)
    for in_flight in client_state.last.client_update.in_flight:
        each = [acknowledgements.unsent_by(client, exchange) for client in in_flight.clients]
        if rows := [row for row, unsent in enumerate(each) if unsent is None or unsent]:
            whole = with_unsent(memories.take(in_flight.clients), in_flight.approximations, each)
            memories.put(tuple(in_flight.clients[row] for row in rows), take(whole, rows))
    return replace(client_state, memory=memories, last=None)


def follow(broadcast: Broadcast, client_state: ClientState) -> tuple[Broadcast, ClientState]:
    """Compute weights and shared state from the broadcast's sync message, where it has one.

    Raises:
        OutOfSyncError: an earlier exchange was missed.
    """
    if broadcast.sync is None:
        return broadcast, client_state
    follower = following(client_state.follower, broadcast.sync, broadcast.scheme)
    ctx = broadcast.context
    if ctx.transmitters and not broadcast.scheme.fits(follower.shared, ctx):
        raise OutOfSyncError("the received signals do not lead to the exchange whose broadcast sent them")
    followed = replace(broadcast, weights=follower.weights, shared=follower.shared, sync=None)
    return followed, replace(client_state, follower=follower)
