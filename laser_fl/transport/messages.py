"""Broadcasts as records, and back."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, ConfigDict, Field, Json, TypeAdapter, model_validator

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.channels.downlink import Downlink
from laser_fl.config import parse
from laser_fl.errors import WireError
from laser_fl.federated.acknowledgements import Receipts
from laser_fl.federated.replica import News, State
from laser_fl.pipeline import Broadcast
from laser_fl.registry import SCHEMES, from_fields
from laser_fl.rng import Device, Streams
from laser_fl.schemes.base import Context, Heard, Scheme
from laser_fl.transport.arrays import Show, put_tensors, reading, slot_of, take_tensors

WEIGHTS, SHARED, EXCHANGE, SCHEME, BUFFERS = "weights", "shared", "exchange", "scheme", "buffers"
RECEIPTS, CAPS = "receipts", "caps"
NUMBERS, REPLICA, REPLICA_SHARED = "replica-numbers", "replica", "replica-shared"
NEWS, HEARD, HEARD_STD = "news", "heard", "heard-std"

Index = Annotated[int, Field(ge=0, lt=2**63)]
Client = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=0, lt=2**40)]
Real = Annotated[float, Field(ge=0)]  # NaN is none
Shape = Annotated[tuple[Size, ...], Field(max_length=32)]
BlockName = Annotated[str, Field(pattern=f"^[^{PART}]+$")]
_Caps = TypeAdapter(dict[str, Annotated[float, Field(gt=0)]])


class _Told(BaseModel):
    """The numbers of an exchange, as they came."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))

    round: Index
    phase: Index
    updates: Index
    power: Annotated[float, Field(gt=0)]
    noise_std: Real
    clients: Annotated[int, Field(ge=1, lt=2**31)]
    present: tuple[Client, ...]
    speakers: tuple[Client, ...]
    averaged: Index
    bits: tuple[Real, ...]
    seed: Index
    blocks: Json[list[tuple[BlockName, Shape, bool]]]

    @model_validator(mode="after")
    def _fits_together(self) -> "_Told":
        if list(self.present) != sorted(set(self.present)) or max(self.present, default=0) >= self.clients:
            raise ValueError("present: must be rising numbers of clients")
        if list(self.speakers) != sorted(set(self.speakers) & set(self.present)):
            raise ValueError("speakers: must be among those present, rising")
        if len(self.bits) != len(self.speakers):
            raise ValueError("bits: must be one per speaker")
        return self

    @property
    def context(self) -> Context:
        return Context(
            blocks=tuple(Block(name, shape, turned) for name, shape, turned in self.blocks),
            streams=Streams(self.seed),
            **self.model_dump(exclude={"blocks", "seed"}),
        )


class _Receipts(BaseModel):
    exchange: Index
    taken: tuple[Annotated[int, Field(ge=-1)], ...]
    since: Index
    save: bool
    folder: str

    @property
    def receipts(self) -> Receipts:
        return Receipts(**self.model_dump())


class _Downlink(BaseModel):
    content: Literal["model", "start", "update", "heard"]
    noise_std: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _News(BaseModel):
    exchange: Index
    silent: bool
    checksum: int


def write_broadcast(broadcast: Broadcast, show: Show | None = None) -> RecordDict:
    """A broadcast as records; the weights only in a round's first exchange."""
    ctx, down = broadcast.context, broadcast.downlink
    exchange = ConfigRecord(_write_context(ctx) | {"downlink": down.content, "downlink-noise-std": down.noise_std})
    scheme = ConfigRecord({"name": SCHEMES.name_of(broadcast.scheme), **asdict(broadcast.scheme)})  # type: ignore[call-overload]
    receipts = ConfigRecord(asdict(broadcast.receipts) | {"taken": list(broadcast.receipts.taken)})
    caps = ConfigRecord(dict(broadcast.caps))
    records = RecordDict({EXCHANGE: exchange, SCHEME: scheme, RECEIPTS: receipts, CAPS: caps})
    put_tensors(records, SHARED, broadcast.shared, show)
    if ctx.phase == 0:
        put_tensors(records, WEIGHTS, broadcast.weights, show)
        put_tensors(records, BUFFERS, broadcast.buffers, show)
    if isinstance(broadcast.told, State):
        write_state(records, broadcast.told, show)
    elif broadcast.told is not None:
        _write_news(records, broadcast.told, show)
    return records


def read_broadcast(records: RecordDict, device: Device = "cpu") -> Broadcast:
    """Undo `write_broadcast`, with all tensors on `device`; those in mapped files are for all, and only to be read.

    Raises:
        NotHereError: as `take_tensors`.
        WireError: it is not a broadcast.
    """
    board = board_of(records)
    with reading("broadcast"):
        exchange: dict[str, Any] = dict(records.config_records[EXCHANGE])
        context = _read_context(exchange)
        down = _Downlink(content=exchange["downlink"], noise_std=exchange["downlink-noise-std"])
        receipts = _Receipts.model_validate(dict(records.config_records[RECEIPTS]))
        caps = _Caps.validate_python(dict(records.config_records[CAPS]))
        scheme = _read_scheme(dict(records.config_records[SCHEME]))
        told: News | State | None = None
        if NUMBERS in records.config_records:
            told = read_state(records, device, board)
        elif NEWS in records.config_records:
            told = _read_news(records, device, board)
        first = context.phase == 0
        broadcast = Broadcast(
            weights=take_tensors(records, WEIGHTS, device, board) if first else {},
            shared=take_tensors(records, SHARED, device, board),
            scheme=scheme,
            context=context,
            downlink=Downlink(down.content, down.noise_std),
            buffers=take_tensors(records, BUFFERS, device, board) if first else {},
            told=told,
            receipts=receipts.receipts,
            caps=caps,
        )
        _refuse_misfits(broadcast)
        return broadcast


def board_of(records: RecordDict) -> Path | None:
    """The folder in which the broadcast's tensors lie; None where they ride along. Raises WireError."""
    return None if SHARED in records.array_records else slot_of(records, SHARED).folder


def clients_of(records: RecordDict) -> int:
    """How many clients the run of a broadcast has. Raises WireError."""
    with reading("broadcast"):
        return _Told.model_validate(dict(records.config_records[EXCHANGE])).clients


def begins(records: RecordDict) -> bool:
    """Whether a broadcast is the first of a run, at which nobody holds anything. Raises WireError."""
    with reading("broadcast"):
        return _Receipts.model_validate(dict(records.config_records[RECEIPTS])).exchange == 0


def write_state(records: RecordDict, state: State, show: Show | None = None) -> None:
    """Add a replica's state to records."""
    records[NUMBERS] = ConfigRecord({"text": state.numbers})
    put_tensors(records, REPLICA, state.model, show)
    put_tensors(records, REPLICA_SHARED, state.shared, show)


def read_state(records: RecordDict, device: Device = "cpu", board: Path | None = None) -> State:
    """Undo `write_state`, onto `device`; on the CPU the tensors of a mapped file are the state's.

    board: as for `take_tensors`, which says what it raises, too.
    """
    with reading("replica"):
        numbers = str(records.config_records[NUMBERS]["text"])
        model, shared = (take_tensors(records, name, device, board) for name in (REPLICA, REPLICA_SHARED))
        return State.parse(numbers, model, shared)


def _write_news(records: RecordDict, news: News, show: Show | None) -> None:
    told = {"exchange": news.exchange, "silent": news.heard is None, "checksum": news.checksum}
    records[NEWS] = ConfigRecord(_write_context(news.context) | told)
    if news.heard is not None:
        put_tensors(records, HEARD, news.heard.values, show)
        put_tensors(records, HEARD_STD, news.heard.noise_std)


def _read_news(records: RecordDict, device: Device, board: Path | None) -> News:
    told: dict[str, Any] = dict(records.config_records[NEWS])
    news, heard = _News.model_validate(told), None
    if not news.silent:
        heard = Heard(take_tensors(records, HEARD, device, board), take_tensors(records, HEARD_STD, device, board))
    return News(news.exchange, _read_context(told), heard, news.checksum)


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
    return _Told.model_validate(told).context


def _read_scheme(options: dict[str, Any]) -> Scheme:
    """The scheme, its options checked like those of a run."""
    name = str(options.pop("name"))
    config = parse({key.replace("_", "-"): value for key, value in options.items()} | {"strategy": name})
    scheme: Scheme = from_fields(SCHEMES.load(config.strategy), config)
    if options.keys() != (known := {field.name for field in fields(scheme)}):  # type: ignore[arg-type]
        raise ValueError(f"the scheme {name} has the options {sorted(known)}, not {sorted(options)}")
    return scheme


def _refuse_misfits(broadcast: Broadcast) -> None:
    """Raise WireError where the parts of a broadcast do not fit together, on which clients would stumble."""
    ctx, scheme, told = broadcast.context, broadcast.scheme, broadcast.told
    if (told is None) == (broadcast.downlink.content == "heard"):
        raise WireError("broadcast: it must hold either the model or what was heard")
    if len(broadcast.receipts.taken) != ctx.clients:
        raise WireError(f"broadcast: it has {len(broadcast.receipts.taken)} receipts for {ctx.clients} clients")
    phases = len(scheme.promises.phase_shares)
    if max(ctx.phase, told.context.phase if isinstance(told, News) else 0) >= phases:
        raise WireError(f"broadcast: its phase must be below {phases}")
    model = {block.name: block.shape for block in ctx.blocks}
    if len(model) != len(ctx.blocks):
        raise WireError("broadcast: its blocks must have names of their own")
    trees = (told.weights, told.shared) if isinstance(told, State) else (broadcast.weights, broadcast.shared)
    types = {tensor.dtype for tree in trees for tensor in tree.values()}
    if len(types) > 1 or not all(dtype.is_floating_point for dtype in types):
        raise WireError("broadcast: its tensors must be floats of one type")
    if isinstance(told, News):
        _refuse_other_news(told, scheme, ctx)
        return
    _refuse_others("weights", trees[0], model if ctx.phase == 0 or told is not None else {})
    if ctx.speakers and not scheme.fits(trees[1], ctx):  # where nobody spoke, it is as it was before
        raise WireError("broadcast: its shared state must fit its blocks and its scheme")


def _refuse_other_news(news: News, scheme: Scheme, ctx: Context) -> None:
    """Raise WireError where news is of another model, or of other signals than the scheme's."""
    if (news.context.blocks, news.context.clients) != (ctx.blocks, ctx.clients):
        raise WireError("broadcast: what was heard must be of the same model and clients")
    if news.heard is not None:
        shapes = {n: s for block in ctx.blocks for n, s in scheme.shapes(block, news.context).items()}
        _refuse_others("what was heard", news.heard.values, shapes)
        _refuse_others("its noise", news.heard.noise_std, dict.fromkeys(shapes, ()))


def _refuse_others(what: str, tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WireError where tensors are not of these names and shapes, in order."""
    if [(name, tuple(tensor.shape)) for name, tensor in tensors.items()] != list(shapes.items()):
        raise WireError(f"broadcast: its {what} must fit its blocks and its scheme")
