"""What a node's clients hold between exchanges, as records of its state, and back."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, RecordDict

from laser_fl.blocks import Tensors
from laser_fl.held import Held
from laser_fl.mapped import Slot
from laser_fl.receipts import flatten, unflatten
from laser_fl.replica import Follower, State
from laser_fl.replies import Reply
from laser_fl.streams import Device
from laser_fl.wire.broadcasts import BUFFERS, NUMBERS, REPLICA, REPLICA_SHARED, read_state, write_state
from laser_fl.wire.replies import CLIENTS, REPORTS, SIGNALS, read_reply
from laser_fl.wire.tensors import Show, put_tensors, reading, take_tensors

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
    told: RecordDict, state: RecordDict, follows: bool, device: Device = "cpu", show: Show | None = None
) -> Held | None:
    """Undo `put_held`: as the server sent it back in what it `told`, or as it was put away; None: nothing was.

    follows: whether the replica is needed, if there is one. show: moves what changes in place to where it is to be
        put next; what was put away stays as it is.

    Raises:
        NotHereError: it lies in files that this process cannot see.
        WireError: it is not what was put away.
    """
    if LAST not in state:
        return None
    memory, copies = (_take(key, told, state, device) for key in (MEMORY, COPIES))
    if memory and show is not None:
        memory = show(MEMORY, memory).map()
    follower = None
    if follows and NUMBERS in state:
        known = read_state(state, device)
        if show is not None:
            known = State.parse(known.numbers, show(REPLICA, known.model).map(), known.shared)
        follower = Follower(known)
    last: dict[str, Any] = dict(state.config_records[LAST])
    return Held(memory, copies, follower, _take_last(told, state, device), int(last[HEARD]))


def side_of(state: RecordDict) -> int:
    """The side of the files that is free: what is held lies on the other one."""
    if LAST not in state:
        return 0
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
    for records in (told, state):
        if key in records:
            return take_tensors(records, key, device)
    return {}


def _take_last(told: RecordDict, state: RecordDict, device: Device) -> Reply:
    """What was said last, with what is pending of it."""
    said = RecordDict({key: told[name] if name in told else state[name] for key, name in SAID.items()})
    reply = read_reply(said, device)
    with reading("what is pending"):
        text = str(state.config_records[LAST]["pending"])
        pending = unflatten(text, _take(KEPT, told, state, device))
    return replace(reply, uplink=replace(reply.uplink, pending=pending))
