"""Broadcasts and uplinks as Flower records, and back. The only core file that imports Flower.

A broadcast names its scheme and carries everything a client needs to encode, so that a client
node follows whatever strategy the server runs. Between processes of one host tensors do not ride
along: they lie in mapped files (`laser_fl.mapped`), and the records say where.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from laser_fl.blocks import Block, Tensors
from laser_fl.downlink import Downlink
from laser_fl.mapped import NotHereError, Slot
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.replica import News, State
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Heard, Scheme
from laser_fl.streams import Device, Streams

WEIGHTS, SHARED, EXCHANGE, SCHEME, BUFFERS = "weights", "shared", "exchange", "scheme", "buffers"
SIGNALS, REPORTS, CLIENTS = "signals", "reports", "clients"
MEMORY, COPIES = "memory", "copies"  # what a node's clients hold between rounds
NUMBERS, REPLICA, REPLICA_SHARED = "replica-numbers", "replica", "replica-shared"
NEWS, HEARD, HEARD_STD = "news", "heard", "heard-std"
EVERYTHING = "everything"

Show = Callable[[str, Tensors], Slot]  # write tensors where the reader maps them, under a name, and say where


def write_tensors(tensors: Tensors) -> ArrayRecord:
    """Tensors by name as an ArrayRecord."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def read_tensors(record: ArrayRecord, device: Device = "cpu") -> Tensors:
    """Undo `write_tensors`, onto `device`."""
    return {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}


def put_tensors(records: RecordDict, name: str, tensors: Tensors, show: Show | None = None) -> None:
    """Add tensors to records: themselves, or, with `show`, where they are."""
    records[name] = write_tensors(tensors) if show is None else ConfigRecord({"slot": show(name, tensors).text})


def take_tensors(records: RecordDict, name: str, device: Device = "cpu", board: Path | None = None) -> Tensors:
    """Undo `put_tensors`, onto `device`; board: the only folder to look into, if any.

    Raises:
        NotHereError: they are in a file that this process cannot see, or must not look into.
    """
    if name in records.array_records:
        return read_tensors(records.array_records[name], device)
    slot = Slot.parse(str(records.config_records[name]["slot"]))
    if board not in (None, slot.folder):
        raise NotHereError(f"{slot.path} is not in {board}")
    return {name: tensor.to(device) for name, tensor in slot.map().items()}


def board_of(records: RecordDict) -> Path | None:
    """The folder in which the broadcast's tensors lie; None where they ride along."""
    if SHARED in records.array_records:
        return None
    return Slot.parse(str(records.config_records[SHARED]["slot"])).folder


def ask_for_everything(state: RecordDict, elsewhere: bool) -> RecordDict:
    """The answer of a node that could make nothing of a broadcast: to be told again, in full.

    elsewhere: it cannot see the files, not even those in which its own clients' memory lies by its `state`.
    """
    slots = {key: state.config_records[key]["slot"] for key in (MEMORY, COPIES) if key in state.config_records}
    return RecordDict({EVERYTHING: ConfigRecord({"elsewhere": elsewhere} | slots)})


def is_elsewhere(asked: RecordDict) -> bool:
    """Whether the node that asked for everything needs to be sent it, too."""
    return bool(asked.config_records[EVERYTHING]["elsewhere"])


def add_held(records: RecordDict, asked: RecordDict, board: Path) -> None:
    """Give a node what its clients held, by what it asked, from the files on `board`."""
    for key in (MEMORY, COPIES):
        if (slot := asked.config_records[EVERYTHING].get(key)) is not None:
            where = Slot.parse(str(slot))
            if where.folder == board:
                put_tensors(records, key, where.map())


def clients_of(records: RecordDict) -> int:
    """How many clients the run of a broadcast has."""
    told: dict[str, Any] = dict(records.config_records[EXCHANGE])
    return int(told["clients"])


def begins(records: RecordDict) -> bool:
    """Whether a broadcast is the first of a run, at which nobody holds anything."""
    told: dict[str, Any] = dict(records.config_records[EXCHANGE])
    return bool(told["round"] == 0 and told["phase"] == 0)


def forget(state: RecordDict) -> None:
    """Drop what a node's clients held in an earlier run."""
    for key in {MEMORY, COPIES, NUMBERS, REPLICA, REPLICA_SHARED} & state.keys():
        del state[key]


def write_broadcast(broadcast: Broadcast, show: Show | None = None) -> RecordDict:
    """A broadcast as records; the weights only in a round's first exchange."""
    ctx, down = broadcast.context, broadcast.downlink
    exchange = ConfigRecord(_write_context(ctx) | {"downlink": down.content, "downlink-noise-std": down.noise_std})
    scheme = ConfigRecord({"name": _name_of(broadcast.scheme), **asdict(broadcast.scheme)})  # type: ignore[call-overload]
    records = RecordDict({EXCHANGE: exchange, SCHEME: scheme})
    put_tensors(records, SHARED, broadcast.shared, show)
    if ctx.phase == 0:
        put_tensors(records, WEIGHTS, broadcast.weights, show)
        put_tensors(records, BUFFERS, broadcast.buffers, show)
    if isinstance(broadcast.told, State):
        write_state(records, broadcast.told, show)
    elif broadcast.told is not None:
        _write_news(records, broadcast.told, show)
    return records


def write_state(records: RecordDict, state: State, show: Show | None = None) -> None:
    """Add a replica's state to records."""
    records[NUMBERS] = ConfigRecord({"text": state.numbers})
    put_tensors(records, REPLICA, state.model, show)
    put_tensors(records, REPLICA_SHARED, state.shared, show)


def read_state(records: RecordDict, device: Device = "cpu") -> State:
    """Undo `write_state`, onto `device`; on the CPU the tensors of a mapped file are the state's."""
    numbers = str(records.config_records[NUMBERS]["text"])
    model, shared = (take_tensors(records, name, device) for name in (REPLICA, REPLICA_SHARED))
    return State.parse(numbers, model, shared)


def _write_news(records: RecordDict, news: News, show: Show | None) -> None:
    told = {"exchange": news.exchange, "silent": news.heard is None, "checksum": news.checksum}
    records[NEWS] = ConfigRecord(_write_context(news.context) | told)
    if news.heard is not None:
        put_tensors(records, HEARD, news.heard.values, show)
        put_tensors(records, HEARD_STD, news.heard.noise_std)


def _read_news(records: RecordDict, device: Device) -> News:
    told: dict[str, Any] = dict(records.config_records[NEWS])
    heard = None
    if not told["silent"]:
        heard = Heard(take_tensors(records, HEARD, device), take_tensors(records, HEARD_STD, device))
    return News(told["exchange"], _read_context(told), heard, told["checksum"])


def _write_context(ctx: Context) -> dict[str, Any]:
    return {
        "round": ctx.round,
        "phase": ctx.phase,
        "power": ctx.power,
        "noise-std": ctx.noise_std,
        "updates": ctx.updates,
        "clients": ctx.clients,
        "present": list(ctx.present),
        "speakers": list(ctx.speakers),
        "averaged": ctx.averaged,
        "bits": list(ctx.bits),
        "seed": ctx.streams.seed,
        "blocks": json.dumps([(block.name, block.shape, block.transposed) for block in ctx.blocks]),
    }


def _read_context(told: dict[str, Any]) -> Context:
    return Context(
        blocks=tuple(Block(name, tuple(shape), turned) for name, shape, turned in json.loads(told["blocks"])),
        round=told["round"],
        phase=told["phase"],
        power=told["power"],
        noise_std=told["noise-std"],
        updates=told["updates"],
        clients=told["clients"],
        present=tuple(told["present"]),
        speakers=tuple(told["speakers"]),
        averaged=told["averaged"],
        bits=tuple(told["bits"]),
        streams=Streams(told["seed"]),
    )


def read_broadcast(records: RecordDict, device: Device = "cpu") -> Broadcast:
    """Undo `write_broadcast`, with all tensors on `device`; those in mapped files are for all, and only to be read.

    Raises:
        NotHereError: as `take_tensors`.
    """
    board = board_of(records)
    exchange: dict[str, Any] = dict(records.config_records[EXCHANGE])
    options: dict[str, Any] = dict(records.config_records[SCHEME])
    scheme = SCHEMES.load(options.pop("name"))(**options)
    context = _read_context(exchange)
    told: News | State | None = None
    if NUMBERS in records.config_records:
        told = read_state(records, device)
    elif NEWS in records.config_records:
        told = _read_news(records, device)
    downlink = Downlink(exchange["downlink"], exchange["downlink-noise-std"])
    first = context.phase == 0
    return Broadcast(
        weights=take_tensors(records, WEIGHTS, device, board) if first else {},
        shared=take_tensors(records, SHARED, device, board),
        scheme=scheme,
        context=context,
        downlink=downlink,
        buffers=take_tensors(records, BUFFERS, device, board) if first else {},
        told=told,
    )


def write_uplink(uplink: Uplink, clients: Sequence[int], show: Show | None = None) -> RecordDict:
    """What the clients of one node say, as records. clients: the numbers of those present, rising."""
    reports = {
        "signal-norms": uplink.signal_norms,
        "gradient-norms": uplink.gradient_norms,
        "losses": uplink.losses,
    }
    numbers = ConfigRecord({"present": list(clients)})
    records = RecordDict({REPORTS: write_tensors(reports), CLIENTS: numbers})
    put_tensors(records, SIGNALS, uplink.signals, show)
    put_tensors(records, BUFFERS, uplink.buffers, show)
    return records


def read_uplink(
    records: RecordDict, device: Device = "cpu", board: Path | None = None
) -> tuple[tuple[int, ...], Uplink]:
    """Undo `write_uplink`: (the clients' numbers, what they say); board: as for `take_tensors`."""
    numbers: dict[str, Any] = dict(records.config_records[CLIENTS])
    reports: dict[str, Tensor] = read_tensors(records.array_records[REPORTS], device)
    signals, buffers = (take_tensors(records, name, device, board) for name in (SIGNALS, BUFFERS))
    uplink = Uplink(signals, reports["signal-norms"], reports["gradient-norms"], reports["losses"], buffers)
    return tuple(numbers["present"]), uplink


def _name_of(scheme: Scheme) -> str:
    target = f"{type(scheme).__module__}:{type(scheme).__qualname__}"
    return next(name for name, entry in SCHEMES.items() if entry.target == target)
