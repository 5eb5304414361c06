"""What a node's clients hold between exchanges, as records of its state, and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from laser_fl.blocks import Tensors
from laser_fl.errors import WireError, brief
from laser_fl.federated.acknowledgements import flatten, unflatten
from laser_fl.federated.client import Held
from laser_fl.federated.replica import Follower, State
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import Broadcast
from laser_fl.rng import Device
from laser_fl.transport.arrays import Show, put_tensors, read_tensors, reading, take_tensors
from laser_fl.transport.messages import BUFFERS, NUMBERS, REPLICA, REPLICA_SHARED, read_state, write_state
from laser_fl.transport.replies import CLIENTS, REPORTS, SIGNALS, read_reply
from laser_fl.transport.shared_memory import Slot

MEMORY, COPIES = "memory", "copies"
LAST, KEPT, SIDE, HEARD = "last", "kept", "side", "heard"
SAID = {key: f"said-{key}" for key in (CLIENTS, REPORTS, SIGNALS, BUFFERS)}
LARGE = (MEMORY, COPIES, KEPT, SAID[SIGNALS], SAID[BUFFERS])  # what lies in files, where there are any
EVERYTHING = "everything"


def put_held(state: RecordDict, held: Held, reply: RecordDict, side: int, show: Show | None = None) -> None:
    """Put away what is held after `reply`, the last one as records; side: of the files in which it lies."""
    assert held.last is not None
    for key, tensors in ((MEMORY, held.memory), (COPIES, held.copies)):
        if tensors:
            put_tensors(state, key, tensors, show)
    if held.follower is not None:
        write_state(state, held.follower.state, show)
    for key, said in SAID.items():
        state[said] = reply[key]
    text, tensors = flatten(held.last.uplink.pending)
    put_tensors(state, KEPT, tensors, show)
    state[LAST] = ConfigRecord({"pending": text, SIDE: side, HEARD: held.heard})


def take_held(
    told: RecordDict,
    state: RecordDict,
    broadcast: Broadcast,
    clients: range,
    device: Device = "cpu",
    show: Show | None = None,
) -> Held | None:
    """Undo `put_held`: as the server sent it back in what it `told`, or as it was put away; None: nothing was.

    broadcast: what was told, by which the replica is needed, if there is one, or not; what is held must fit its
        model, and the node's `clients`. show: moves what changes in place to where it is to be
        put next; what was put away stays as it is.

    Raises:
        NotHereError: it lies in files that this process cannot see.
        WireError: it is not what was put away, or not of these clients and their model.
    """
    if LAST not in state:
        return None
    memory, copies = (_take(key, told, state, device) for key in (MEMORY, COPIES))
    known = read_state(state, device) if broadcast.is_news and NUMBERS in state else None
    last = _take_last(told, state, device)
    _refuse_misfits(memory, copies, last, broadcast, clients)
    if memory and show is not None:
        memory = show(MEMORY, memory).map()
    if known is not None and show is not None:
        known = State.parse(known.numbers, show(REPLICA, known.model).map(), known.shared)
    follower = None if known is None else Follower(known)
    return Held(memory, copies, follower, last, _heard_of(state))


def _heard_of(state: RecordDict) -> int:
    """The last round whose broadcast the copies have followed. Raises WireError."""
    with reading("what was put away"):
        last: dict[str, Any] = dict(state.config_records[LAST])
        return int(last[HEARD])


def side_of(state: RecordDict) -> int:
    """The side of the files that is free: what is held lies on the other one. Raises WireError."""
    if LAST not in state:
        return 0
    with reading("what was put away"):
        last: dict[str, Any] = dict(state.config_records[LAST])
        return 1 - int(last[SIDE])


def forget(state: RecordDict) -> None:
    """Drop what a node's clients held in an earlier run."""
    for key in {*LARGE, *SAID.values(), LAST, NUMBERS, REPLICA, REPLICA_SHARED} & state.keys():
        del state[key]


def ask_for_everything(state: RecordDict, elsewhere: bool) -> RecordDict:
    """The answer of a node that could make nothing of a broadcast: to be told again, in full.

    elsewhere: it cannot see the files, not even those in which what its own clients hold lies by its `state`.
    """
    slots = {key: state.config_records[key]["slot"] for key in LARGE if key in state.config_records}
    return RecordDict({EVERYTHING: ConfigRecord({"elsewhere": elsewhere} | slots)})


def asks_for_everything(records: RecordDict) -> bool:
    """Whether a reply is such an answer."""
    return EVERYTHING in records.config_records


def is_elsewhere(asked: RecordDict) -> bool:
    """Whether the node that asked for everything needs to be sent it, too."""
    return bool(asked.config_records[EVERYTHING].get("elsewhere"))


def add_held(records: RecordDict, asked: RecordDict, board: Path) -> None:
    """Give a node what its clients held, by what it asked, from the files on `board`.

    Raises:
        WireError, NotHereError: there is no such thing.
    """
    for key in LARGE:
        if (slot := asked.config_records[EVERYTHING].get(key)) is not None:
            with reading(key):
                where = Slot.parse(str(slot))
            if where.folder == board:
                put_tensors(records, key, where.map())


def _take(key: str, told: RecordDict, state: RecordDict, device: Device) -> Tensors:
    """Tensors that were told, which are sent as they are and never lie in a file; else those that were put away."""
    if key in told.array_records:
        return read_tensors(told.array_records[key], device)
    return take_tensors(state, key, device) if key in state else {}


def _take_last(told: RecordDict, state: RecordDict, device: Device) -> Reply:
    """What was said last, with what is pending of it."""
    with reading("what was said"):
        sent = told.array_records
        said = RecordDict({key: sent[name] if name in sent else state[name] for key, name in SAID.items()})
    reply = read_reply(said, device)
    with reading("what is pending"):
        text = str(state.config_records[LAST]["pending"])
        pending = unflatten(text, _take(KEPT, told, state, device))
    return replace(reply, uplink=replace(reply.uplink, pending=pending))


def _refuse_misfits(memory: Tensors, copies: Tensors, last: Reply | None, broadcast: Broadcast, clients: range) -> None:
    """Raise WireError where what is held is of other clients than the node's, or of another model."""
    model = {block.name: (len(clients), *block.shape) for block in broadcast.context.blocks}
    for what, tensors in ((MEMORY, memory), (COPIES, copies)):
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if tensors and not (model.items() <= shapes.items() and {s[:1] for s in shapes.values()} == {(len(clients),)}):
            raise WireError(f"{what}: it must be of {len(clients)} clients and the model's blocks")
    pending = last.uplink.pending if last is not None else ()
    for one in pending:
        if list(one.clients) != sorted(set(one.clients) & set(clients)) or not one.kept.keys() <= memory.keys():
            raise WireError("what is pending: it must be of the node's clients and what they remember")
        for block in broadcast.context.blocks:
            if block.name in one.kept and not one.kept[block.name].fits(len(one.clients), block):
                raise WireError(f"what is pending: it must fit the block {brief(block.name)}")
    held = (
        *memory.values(),
        *copies.values(),
        *(v for one in pending for kept in one.kept.values() for v in kept.floats),
    )
    like = next(iter((broadcast.weights or broadcast.shared or memory).values()), None)
    if like is not None and any(tensor.dtype != like.dtype for tensor in held):
        raise WireError(f"what is held: it must be of {like.dtype}")
