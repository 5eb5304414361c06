"""Broadcasts as records, and back: one text with all numbers, and one record with all tensors."""

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import cached_property, lru_cache
from typing import Annotated, Any, Literal

from flwr.app import ArrayRecord, ConfigRecord, RecordDict
from pydantic import BaseModel, Field, model_validator

from laser_fl.blocks import PART, Block, Tensors
from laser_fl.channels.downlink import Downlink
from laser_fl.config import parse
from laser_fl.errors import WireError, brief
from laser_fl.federated.acknowledgements import Acknowledgements
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.replica import ReplicaState, ReplicaUpdate
from laser_fl.registry import KINDS, SCHEMES
from laser_fl.rng import Device, RandomStreams
from laser_fl.schemes.base import Received, RoundContext, Scheme
from laser_fl.storage.snapshots import RUN_NAME
from laser_fl.transport.arrays import (
    Publish,
    Values,
    bundled,
    handle_of,
    put_tensors,
    reading,
    take_tensors,
    text_in,
    unbundled,
)
from laser_fl.transport.shared_memory import TensorHandle

BROADCAST, TENSORS = "broadcast", "tensors"  # a message's main record, and its tensors
WEIGHTS, SHARED, BUFFERS = "weights", "shared", "buffers"  # trees of tensors in it
REPLICA, REPLICA_SHARED = "replica", "replica-shared"
RECEIVED, RECEIVED_STD = "received", "received-std"

RECENT = 4  # broadcasts of which a process keeps the numbers: many of its nodes get the same one
SCHEMES_IN_USE = 16

Index = Annotated[int, Field(ge=0, lt=2**63)]
Client = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=0, lt=2**40)]
Real = Annotated[float, Field(ge=0)]  # NaN is none
Shape = Annotated[tuple[Size, ...], Field(max_length=32)]
RunName = Annotated[str, Field(pattern=f"^({RUN_NAME.pattern})?$")]  # no path, whatever the server says
BlockName = Annotated[str, Field(pattern=f"^[^{PART}]+$")]


class _Exchange(BaseModel):
    """The numbers of an exchange, as received."""

    round: Index
    phase: Index
    updates: Index
    power: Annotated[float, Field(gt=0)]
    noise_std: Real
    clients: Annotated[int, Field(ge=1, lt=2**31)]
    participants: tuple[Client, ...]
    transmitters: tuple[Client, ...]
    averaged: Index
    bits: tuple[Real, ...]
    seed: Index
    noise_on_cpu: bool = False
    blocks: list[tuple[BlockName, Shape, bool]]

    @model_validator(mode="after")
    def _fits_together(self) -> "_Exchange":
        if (
            list(self.participants) != sorted(set(self.participants))
            or max(self.participants, default=0) >= self.clients
        ):
            raise ValueError("participants: must be rising numbers of clients")
        if list(self.transmitters) != sorted(set(self.transmitters) & set(self.participants)):
            raise ValueError("transmitters: must be among the participants, rising")
        if len(self.bits) != len(self.transmitters):
            raise ValueError("bits: must be one per transmitter")
        return self

    @cached_property
    def context(self) -> RoundContext:
        """The same, as the schemes read them."""
        return RoundContext(
            blocks=tuple(Block(name, shape, turned) for name, shape, turned in self.blocks),
            streams=RandomStreams(self.seed, on_cpu=self.noise_on_cpu),
            **self.model_dump(exclude={"blocks", "seed", "noise_on_cpu"}),
        )


class _Acknowledgements(BaseModel):
    exchange: Index
    last_acknowledged: tuple[Annotated[int, Field(ge=-1)], ...]
    unsent: dict[Client, dict[str, Annotated[float, Field(ge=0, le=1)]]]
    since: Index
    save: bool
    run: RunName

    @cached_property
    def acknowledgements(self) -> Acknowledgements:
        return Acknowledgements(**self.model_dump())


class _Downlink(BaseModel):
    content: Literal["model", "start", "update", "received"]
    noise_std: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _ReplicaUpdate(BaseModel):
    exchange: Index
    context: _Exchange
    empty: bool
    checksum: int


class Numbers(BaseModel):
    """All of a broadcast but its tensors, as received.

    options: of the strategy, as text. replica: the numbers of a replica's state, as text.
    """

    exchange: _Exchange
    downlink: _Downlink
    acknowledgements: _Acknowledgements
    strategy: str
    options: str
    replica: str | None = None
    update: _ReplicaUpdate | None = None


def write_broadcast(broadcast: Broadcast, publish: Publish | None = None) -> RecordDict:
    """Return a broadcast as records, which have the weights only in a round's first exchange."""
    sync = broadcast.sync
    numbers = {
        "exchange": _written(broadcast.context),
        "downlink": asdict(broadcast.downlink),
        "acknowledgements": asdict(broadcast.acknowledgements),
        "strategy": SCHEMES.name_of(broadcast.scheme),
        "options": json.dumps(asdict(broadcast.scheme)),  # type: ignore[call-overload]
    }
    trees = {SHARED: broadcast.shared}
    if broadcast.context.phase == 0:
        trees |= {WEIGHTS: broadcast.weights, BUFFERS: broadcast.buffers}
    if isinstance(sync, ReplicaState):
        numbers["replica"] = sync.numbers
        trees |= {REPLICA: sync.model, REPLICA_SHARED: sync.shared}
    elif sync is not None:
        empty = sync.received is None
        context = _written(sync.context)
        numbers["update"] = {"exchange": sync.exchange, "context": context, "empty": empty, "checksum": sync.checksum}
        if sync.received is not None:
            trees |= {RECEIVED: sync.received.values, RECEIVED_STD: sync.received.noise_std}
    records, values = RecordDict(), Values(text=json.dumps(numbers))
    # A file has the same layout in all broadcasts, so that a node that is late never reads one as another.
    put_tensors(records, values, TENSORS, bundled(trees), publish, file="-".join(trees))
    records[BROADCAST] = ConfigRecord(values)
    return records


def read_broadcast(records: RecordDict, device: Device = "cpu") -> Broadcast:
    """Undo `write_broadcast`, with all tensors on `device`; those in mapped files are for all, and only to be read.

    Raises:
        UnreachableError: as `take_tensors`.
        WireError: it is not a broadcast.
    """
    with reading(BROADCAST):
        numbers = _numbers(text_in(records, BROADCAST))
        trees = unbundled(take_tensors(records, BROADCAST, TENSORS, device))
        first = numbers.exchange.phase == 0
        broadcast = Broadcast(
            weights=trees.get(WEIGHTS, {}) if first else {},
            shared=trees.get(SHARED, {}),
            scheme=_scheme(_parts_from_outside(), numbers.strategy, numbers.options),
            context=numbers.exchange.context,
            downlink=Downlink(numbers.downlink.content, numbers.downlink.noise_std),
            buffers=trees.get(BUFFERS, {}) if first else {},
            sync=_read_sync(numbers, trees),
            acknowledgements=numbers.acknowledgements.acknowledgements,
        )
        _refuse_misfits(broadcast)
        return broadcast


def read_numbers(records: RecordDict) -> Numbers:
    """Return all of a broadcast but its tensors. Raises WireError."""
    with reading(BROADCAST):
        return _numbers(text_in(records, BROADCAST))


def handle_in(records: RecordDict) -> TensorHandle | None:
    """Return the handle to a broadcast's tensors; None where they ride along. Raises WireError."""
    return None if isinstance(records.get(TENSORS), ArrayRecord) else handle_of(records, BROADCAST, TENSORS)


def _written(ctx: RoundContext) -> dict[str, Any]:
    numbers = {name: getattr(ctx, name) for name in _Exchange.model_fields if hasattr(ctx, name)}
    blocks = [(block.name, block.shape, block.transposed) for block in ctx.blocks]
    return numbers | {"seed": ctx.streams.seed, "noise_on_cpu": ctx.streams.on_cpu, "blocks": blocks}


@lru_cache(maxsize=RECENT)
def _numbers(text: str) -> Numbers:
    return Numbers.model_validate_json(text)


def _read_sync(numbers: Numbers, trees: Mapping[str, Tensors]) -> ReplicaUpdate | ReplicaState | None:
    """Return the message to a node's replica, if there is one. Raises ValueError or ConfigError where it is none."""
    if numbers.replica is not None:
        return ReplicaState.parse(numbers.replica, trees.get(REPLICA, {}), trees.get(REPLICA_SHARED, {}))
    if (update := numbers.update) is None:
        return None
    received = None if update.empty else Received(trees.get(RECEIVED, {}), trees.get(RECEIVED_STD, {}))
    return ReplicaUpdate(update.exchange, update.context.context, received, update.checksum)


def _parts_from_outside() -> tuple[object, ...]:
    return tuple(part for table in KINDS.values() for part in table.outside.items())


@lru_cache(maxsize=SCHEMES_IN_USE)
def _scheme(parts: tuple[object, ...], name: str, options: str) -> Scheme:
    """Return the scheme, its options checked like those of a run; a message imports no module.

    Args:
        parts: those from outside that have their names now, since others may take their places.
        name: of the part.
        options: as text.
    """
    values = json.loads(options)
    for one in (name, *(value for value in values.values() if isinstance(value, str) and ":" in value)):
        if not any(one in table or one in table.outside for table in KINDS.values()):
            raise ValueError(f"the part {brief(one)} must be registered here: import its module in the client app")
    config = parse({key.replace("_", "-"): value for key, value in values.items()} | {"strategy": name})
    scheme: Scheme = SCHEMES.build(config.strategy, config)
    if values.keys() != (known := {field.name for field in fields(scheme)}):  # type: ignore[arg-type]
        raise ValueError(f"the scheme {name} has the options {sorted(known)}, not {sorted(values)}")
    return scheme


def _refuse_misfits(broadcast: Broadcast) -> None:
    """Raise WireError where the parts of a broadcast do not fit together, on which clients would stumble."""
    ctx, scheme, sync = broadcast.context, broadcast.scheme, broadcast.sync
    if (sync is None) == (broadcast.downlink.content == "received"):
        raise WireError("broadcast: it must hold either the model or received signals")
    if len(broadcast.acknowledgements.last_acknowledged) != ctx.clients:
        count = len(broadcast.acknowledgements.last_acknowledged)
        raise WireError(f"broadcast: it has {count} acknowledgements for {ctx.clients} clients")
    phases = len(scheme.traits.phase_shares)
    if max(ctx.phase, sync.context.phase if isinstance(sync, ReplicaUpdate) else 0) >= phases:
        raise WireError(f"broadcast: its phase must be below {phases}")
    model = {block.name: block.shape for block in ctx.blocks}
    if len(model) != len(ctx.blocks):
        raise WireError("broadcast: its blocks must have names of their own")
    trees = (sync.weights, sync.shared) if isinstance(sync, ReplicaState) else (broadcast.weights, broadcast.shared)
    types = {tensor.dtype for tree in trees for tensor in tree.values()}
    if len(types) > 1 or not all(dtype.is_floating_point for dtype in types):
        raise WireError("broadcast: its tensors must be floats of one type")
    if isinstance(sync, ReplicaUpdate):
        _refuse_other_update(sync, scheme, ctx)
        return
    _refuse_others("weights", trees[0], model if ctx.phase == 0 or sync is not None else {})
    if ctx.transmitters and not scheme.fits(trees[1], ctx):  # it is as before where nobody transmitted
        raise WireError("broadcast: its shared state must fit its blocks and its scheme")


def _refuse_other_update(update: ReplicaUpdate, scheme: Scheme, ctx: RoundContext) -> None:
    """Raise WireError where a replica update is of another model, or of other signals than the scheme's."""
    if (update.context.blocks, update.context.clients) != (ctx.blocks, ctx.clients):
        raise WireError("broadcast: its received signals must be of the same model and clients")
    if update.received is not None:
        shapes = {n: s for block in ctx.blocks for n, s in scheme.shapes(block, update.context).items()}
        _refuse_others("received signals", update.received.values, shapes)
        _refuse_others("noise", update.received.noise_std, dict.fromkeys(shapes, ()))


def _refuse_others(what: str, tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise WireError where tensors are not of these names and shapes, in order."""
    if [(name, tuple(tensor.shape)) for name, tensor in tensors.items()] != list(shapes.items()):
        raise WireError(f"broadcast: its {what} must fit its blocks and its scheme")
