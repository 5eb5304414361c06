"""The client state of a node between exchanges, as records of the node's state, and back."""

import json
from dataclasses import replace
from functools import lru_cache
from typing import Annotated, Any, Literal

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import BaseModel, Field

from laser_fl.blocks import Tensors
from laser_fl.errors import WireError, brief
from laser_fl.federated.acknowledgements import Acknowledgements, flatten, unflatten
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.client import ClientState
from laser_fl.federated.replica import ReplicaFollower, ReplicaState
from laser_fl.federated.validation import Reply
from laser_fl.rng import Device
from laser_fl.schemes.approximation import float_tensors
from laser_fl.transport.arrays import (
    Publish,
    Values,
    put_tensors,
    read_tensors,
    reading,
    take_tensors,
    text_in,
)
from laser_fl.transport.checks import fits
from laser_fl.transport.messages import REPLICA, REPLICA_SHARED, TENSORS
from laser_fl.transport.replies import REPLY, read_reply

SAVED = "client-state"  # the main record
MEMORY, COPIES, IN_FLIGHT, LAST_TENSORS = "memory", "copies", "in-flight", "last-tensors"
LAST_REPLY, LAST_REPORTS, NUMBERS = "last-reply", "last-reports", "replica-numbers"  # values in it
LARGE = (MEMORY, COPIES, IN_FLIGHT, LAST_TENSORS)  # these lie in files, where there are any
EVERYTHING, FILES = "everything", "files"


class _Last(BaseModel):
    """The numbers of a client state.

    exchange: of the last reply. senders: the clients with approximations in flight. side: of the files in which the
    client state lies. last_round: of which the copies have followed the broadcast. in_flight: as `flatten` returns it.
    """

    exchange: Annotated[int, Field(ge=0, lt=2**63)]
    senders: tuple[int, ...]
    side: Literal[0, 1]
    last_round: int
    in_flight: str

    def is_needed(self, acknowledgements: Acknowledgements) -> bool:
        """Return True where the last reply may be sent again, or its approximations may go back into the memory."""
        unsent = [acknowledgements.unsent_by(client, self.exchange) for client in self.senders]
        return acknowledgements.exchange == self.exchange or any(one is None or one for one in unsent)


def save_client_state(
    state: RecordDict, client_state: ClientState, reply: RecordDict, side: int, publish: Publish | None = None
) -> None:
    """Save the client state after a reply.

    Args:
        state: the node's, gets the records.
        client_state: to save.
        reply: the last one, as records.
        side: of the files in which the client state lies, 0 or 1.
        publish: as for `put_tensors`.
    """
    assert client_state.last is not None
    in_flight = client_state.last.client_update.in_flight
    text, approximations = flatten(in_flight)
    numbers = {
        "exchange": client_state.last.exchange,
        "senders": [client for one in in_flight for client in one.clients],
        "side": side,
        "last_round": client_state.last_round,
        "in_flight": text,
    }
    records, values = _last_records(reply)
    values["text"] = json.dumps(numbers)
    trees: dict[str, Tensors] = {MEMORY: dict(client_state.memory), COPIES: client_state.copies}
    trees = {name: tree for name, tree in trees.items() if tree} | {IN_FLIGHT: approximations}
    if client_state.follower is not None:
        replica = client_state.follower.state
        values[NUMBERS] = replica.numbers
        trees |= {REPLICA: replica.model, REPLICA_SHARED: replica.shared}
    for name, tree in trees.items():
        put_tensors(records, values, name, tree, publish)
    forget(state)
    state.update({**records, SAVED: ConfigRecord(values)})


def _last_records(reply: RecordDict) -> tuple[RecordDict, Values]:
    """Return the records and values to which a reply's come in a client state."""
    record, tensors = reply[REPLY], reply.get(TENSORS)
    values = {LAST_REPLY: record["text"], LAST_REPORTS: record["reports"]}
    if tensors is None:
        return RecordDict(), values | {LAST_TENSORS: record[TENSORS]}
    return RecordDict({LAST_TENSORS: tensors}), values


def load_client_state(
    message: RecordDict,
    state: RecordDict,
    broadcast: Broadcast,
    clients: range,
    device: Device = "cpu",
    publish: Publish | None = None,
) -> ClientState | None:
    """Undo `save_client_state`; without the last reply, where the server has accepted it and goes on.

    Args:
        message: from the server, which sends the client state back where the node asked for it from elsewhere.
        state: the node's, in which the client state was saved.
        broadcast: as read from `message`. It decides if a replica, where there is one, is needed; the client state
            must fit its model.
        clients: of the node; the client state must fit them, too.
        device: where the tensors are wanted.
        publish: moves tensors that change in place to their next place; the saved ones stay as they are.

    Returns:
        The client state; None where none was saved, or where the server has another one than `state`: it is lost then.

    Raises:
        UnreachableError: it lies in files that this process cannot see.
        WireError: it is not as it was saved, or not of these clients and their model.
    """
    if SAVED not in state or _is_lost(message, state):
        return None
    saved = _saved(state)
    memory, copies = (_take(key, message, state, device) for key in (MEMORY, COPIES))
    known = _read_replica(state, device) if broadcast.is_replica_update else None
    needed = saved.is_needed(broadcast.acknowledgements)
    last = _take_last(message, state, saved.in_flight, device) if needed else None
    _refuse_misfits(memory, copies, last, broadcast, clients)
    if memory and publish is not None:
        memory = publish(MEMORY, memory).map()
    if known is not None and publish is not None:
        known = ReplicaState.parse(known.numbers, publish(REPLICA, known.model).map(), known.shared)
    follower = None if known is None else ReplicaFollower(known)
    return ClientState(memory, copies, follower, last, saved.last_round)


def side_of(state: RecordDict) -> int:
    """Return the side of the files that is free: the client state lies on the other one. Raises WireError."""
    return 1 - _saved(state).side if SAVED in state else 0


def forget(state: RecordDict) -> None:
    """Drop the client state that a node has from an earlier run."""
    for key in {*LARGE, SAVED, REPLICA, REPLICA_SHARED} & state.keys():
        del state[key]


def saved_files(state: RecordDict) -> RecordDict:
    """Return the handles of the files in which a node's client state lies, for the server; none where it has no files.

    The server sends the client state back, should the node ask for everything from elsewhere: what it says then names
    nothing.
    """
    saved = state.get(SAVED)
    handles = {key: saved[key] for key in LARGE if key in saved} if isinstance(saved, ConfigRecord) else {}
    return RecordDict({FILES: ConfigRecord(handles)})


def ask_for_everything(elsewhere: bool) -> RecordDict:
    """Return the answer of a node that could make nothing of a broadcast: a request for another one, in full.

    elsewhere: it cannot see the files, not even those in which its own client state lies.
    """
    return RecordDict({EVERYTHING: ConfigRecord({"elsewhere": elsewhere})})


def asks_for_everything(records: RecordDict) -> bool:
    """Return True where a reply is such an answer."""
    return isinstance(records.get(EVERYTHING), ConfigRecord)


def is_elsewhere(asked: RecordDict) -> bool:
    """Return True where the node that asked for everything cannot see the files, so that it must be sent, too."""
    request = asked[EVERYTHING]
    return isinstance(request, ConfigRecord) and bool(request.get("elsewhere"))


def _saved(state: RecordDict) -> _Last:
    with reading("saved client state"):
        return _parsed(text_in(state, SAVED))


@lru_cache(maxsize=1)  # a node needs it twice
def _parsed(text: str) -> _Last:
    return _Last.model_validate_json(text)


def _is_lost(message: RecordDict, state: RecordDict) -> bool:
    """Return True where the server sends back a client state, but not the one whose numbers are in the node's state."""
    return FILES in message and message[FILES] != saved_files(state)[FILES]


def _take(key: str, message: RecordDict, state: RecordDict, device: Device) -> Tensors:
    """Return the tensors in the message, which are sent as they are and never lie in a file; else the saved ones."""
    if isinstance(sent := message.get(key), ArrayRecord):
        return read_tensors(sent, device)
    return take_tensors(state, SAVED, key, device) if key in state or key in state[SAVED] else {}


def _take_last(message: RecordDict, state: RecordDict, layout: str, device: Device) -> Reply:
    """Return the last reply, with its approximations that are in flight, of that layout."""
    with reading("last reply"):
        saved = state[SAVED]
        values: Any = {"text": saved[LAST_REPLY], "reports": saved[LAST_REPORTS], TENSORS: saved.get(LAST_TENSORS, "")}
        arrays = message.get(LAST_TENSORS, state.get(LAST_TENSORS))
        records = RecordDict({REPLY: ConfigRecord(values)} | ({} if arrays is None else {TENSORS: arrays}))
        reply = read_reply(records, device)
    with reading("approximations in flight"):
        in_flight = unflatten(layout, _take(IN_FLIGHT, message, state, device))
    return replace(reply, client_update=replace(reply.client_update, in_flight=in_flight))


def _read_replica(state: RecordDict, device: Device) -> ReplicaState | None:
    """Return the saved state of the replica, in the mapped files' tensors; None where none was saved."""
    if NUMBERS not in state[SAVED]:
        return None
    with reading("replica"):
        model, shared = (take_tensors(state, SAVED, name, device) for name in (REPLICA, REPLICA_SHARED))
        return ReplicaState.parse(text_in(state, SAVED, NUMBERS), model, shared)


def _refuse_misfits(memory: Tensors, copies: Tensors, last: Reply | None, broadcast: Broadcast, clients: range) -> None:
    """Raise WireError where the client state is of other clients than the node's, or of another model."""
    model = {block.name: (len(clients), *block.shape) for block in broadcast.context.blocks}
    for what, tensors in ((MEMORY, memory), (COPIES, copies)):
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if tensors and not (model.items() <= shapes.items() and {s[:1] for s in shapes.values()} == {(len(clients),)}):
            raise WireError(f"{what}: it must be of {len(clients)} clients and the model's blocks")
    in_flight = last.client_update.in_flight if last is not None else ()
    for one in in_flight:
        if (
            list(one.clients) != sorted(set(one.clients) & set(clients))
            or not one.approximations.keys() <= memory.keys()
        ):
            raise WireError(
                "approximations in flight: they must be of the node's clients and of blocks in their memory"
            )
        for block in broadcast.context.blocks:
            if block.name in one.approximations and not fits(one.approximations[block.name], len(one.clients), block):
                raise WireError(f"approximations in flight: they must fit the block {brief(block.name)}")
    values = (
        *memory.values(),
        *copies.values(),
        *(v for one in in_flight for part in one.approximations.values() for v in float_tensors(part)),
    )
    like = next(iter((broadcast.weights or broadcast.shared or memory).values()), None)
    if like is not None and any(tensor.dtype != like.dtype for tensor in values):
        raise WireError(f"client state: it must be of {like.dtype}")
