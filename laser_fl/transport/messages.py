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
from laser_fl.errors import WireError, brief
from laser_fl.federated.acknowledgements import Acknowledgements
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.replica import ReplicaState, ReplicaUpdate
from laser_fl.registry import KINDS, SCHEMES
from laser_fl.rng import Device, RandomStreams
from laser_fl.schemes.base import Received, RoundContext, Scheme
from laser_fl.transport.arrays import Publish, handle_of, put_tensors, reading, take_tensors

WEIGHTS, SHARED, EXCHANGE, SCHEME, BUFFERS = "weights", "shared", "exchange", "scheme", "buffers"
ACKNOWLEDGEMENTS, NORM_BOUNDS, STRATEGY = "acknowledgements", "norm-bounds", "strategy"
NUMBERS, REPLICA, REPLICA_SHARED = "replica-numbers", "replica", "replica-shared"
REPLICA_UPDATE, RECEIVED, RECEIVED_STD = "replica-update", "received", "received-std"

Index = Annotated[int, Field(ge=0, lt=2**63)]
Client = Annotated[int, Field(ge=0, lt=2**31)]
Size = Annotated[int, Field(ge=0, lt=2**40)]
Real = Annotated[float, Field(ge=0)]  # NaN is none
Shape = Annotated[tuple[Size, ...], Field(max_length=32)]
BlockName = Annotated[str, Field(pattern=f"^[^{PART}]+$")]
_NormBounds = TypeAdapter(dict[str, Annotated[float, Field(gt=0)]])


class _Exchange(BaseModel):
    """The numbers of an exchange, as received."""

    model_config = ConfigDict(alias_generator=lambda name: name.replace("_", "-"))

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
    blocks: Json[list[tuple[BlockName, Shape, bool]]]

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

    @property
    def context(self) -> RoundContext:
        return RoundContext(
            blocks=tuple(Block(name, shape, turned) for name, shape, turned in self.blocks),
            streams=RandomStreams(self.seed, on_cpu=self.noise_on_cpu),
            **self.model_dump(exclude={"blocks", "seed", "noise_on_cpu"}),
        )


class _Acknowledgements(BaseModel):
    exchange: Index
    last_acknowledged: tuple[Annotated[int, Field(ge=-1)], ...]
    since: Index
    save: bool
    folder: str

    @property
    def acknowledgements(self) -> Acknowledgements:
        return Acknowledgements(**self.model_dump())


class _Downlink(BaseModel):
    content: Literal["model", "start", "update", "received"]
    noise_std: Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _ReplicaUpdate(BaseModel):
    exchange: Index
    empty: bool
    checksum: int


def write_broadcast(broadcast: Broadcast, publish: Publish | None = None) -> RecordDict:
    """Return a broadcast as records, which have the weights only in a round's first exchange."""
    ctx, down = broadcast.context, broadcast.downlink
    exchange = ConfigRecord(_write_context(ctx) | {"downlink": down.content, "downlink-noise-std": down.noise_std})
    scheme = ConfigRecord({STRATEGY: SCHEMES.name_of(broadcast.scheme), **asdict(broadcast.scheme)})  # type: ignore[call-overload]
    acknowledgements = ConfigRecord(
        asdict(broadcast.acknowledgements) | {"last_acknowledged": list(broadcast.acknowledgements.last_acknowledged)}
    )
    norm_bounds = ConfigRecord(dict(broadcast.norm_bounds))
    records = RecordDict(
        {EXCHANGE: exchange, SCHEME: scheme, ACKNOWLEDGEMENTS: acknowledgements, NORM_BOUNDS: norm_bounds}
    )
    put_tensors(records, SHARED, broadcast.shared, publish)
    if ctx.phase == 0:
        put_tensors(records, WEIGHTS, broadcast.weights, publish)
        put_tensors(records, BUFFERS, broadcast.buffers, publish)
    if isinstance(broadcast.sync, ReplicaState):
        write_state(records, broadcast.sync, publish)
    elif broadcast.sync is not None:
        _write_update(records, broadcast.sync, publish)
    return records


def read_broadcast(records: RecordDict, device: Device = "cpu") -> Broadcast:
    """Undo `write_broadcast`, with all tensors on `device`; those in mapped files are for all, and only to be read.

    Raises:
        UnreachableError: as `take_tensors`.
        WireError: it is not a broadcast.
    """
    shared_memory = shared_memory_of(records)
    with reading("broadcast"):
        exchange: dict[str, Any] = dict(records.config_records[EXCHANGE])
        context = _read_context(exchange)
        down = _Downlink(content=exchange["downlink"], noise_std=exchange["downlink-noise-std"])
        acknowledgements = _Acknowledgements.model_validate(dict(records.config_records[ACKNOWLEDGEMENTS]))
        norm_bounds = _NormBounds.validate_python(dict(records.config_records[NORM_BOUNDS]))
        scheme = _read_scheme(dict(records.config_records[SCHEME]))
        sync: ReplicaUpdate | ReplicaState | None = None
        if NUMBERS in records.config_records:
            sync = read_state(records, device, shared_memory)
        elif REPLICA_UPDATE in records.config_records:
            sync = _read_update(records, device, shared_memory)
        first = context.phase == 0
        broadcast = Broadcast(
            weights=take_tensors(records, WEIGHTS, device, shared_memory) if first else {},
            shared=take_tensors(records, SHARED, device, shared_memory),
            scheme=scheme,
            context=context,
            downlink=Downlink(down.content, down.noise_std),
            buffers=take_tensors(records, BUFFERS, device, shared_memory) if first else {},
            sync=sync,
            acknowledgements=acknowledgements.acknowledgements,
            norm_bounds=norm_bounds,
        )
        _refuse_misfits(broadcast)
        return broadcast


def shared_memory_of(records: RecordDict) -> Path | None:
    """Return the folder in which a broadcast's tensors lie; None where they ride along. Raises WireError."""
    return None if SHARED in records.array_records else handle_of(records, SHARED).folder


def clients_of(records: RecordDict) -> int:
    """Return the number of clients in the run of a broadcast. Raises WireError."""
    with reading("broadcast"):
        return _Exchange.model_validate(dict(records.config_records[EXCHANGE])).clients


def begins(records: RecordDict) -> bool:
    """Return True where a broadcast is the first of a run, at which there is no client state. Raises WireError."""
    with reading("broadcast"):
        return _Acknowledgements.model_validate(dict(records.config_records[ACKNOWLEDGEMENTS])).exchange == 0


def write_state(records: RecordDict, state: ReplicaState, publish: Publish | None = None) -> None:
    """Add a replica's state to records.

    Args:
        records: get three records more.
        state: of the replica.
        publish: as for `put_tensors`.
    """
    records[NUMBERS] = ConfigRecord({"text": state.numbers})
    put_tensors(records, REPLICA, state.model, publish)
    put_tensors(records, REPLICA_SHARED, state.shared, publish)


def read_state(records: RecordDict, device: Device = "cpu", shared_memory: Path | None = None) -> ReplicaState:
    """Undo `write_state`.

    Args:
        records: as `write_state` left them.
        device: where the tensors are wanted; on the CPU the tensors of a mapped file are the state's.
        shared_memory: as for `take_tensors`.

    Raises:
        UnreachableError: as `take_tensors`.
        WireError: as `take_tensors`, or it is not a replica's state.
    """
    with reading("replica"):
        numbers = str(records.config_records[NUMBERS]["text"])
        model, shared = (take_tensors(records, name, device, shared_memory) for name in (REPLICA, REPLICA_SHARED))
        return ReplicaState.parse(numbers, model, shared)


def _write_update(records: RecordDict, update: ReplicaUpdate, publish: Publish | None) -> None:
    numbers = {"exchange": update.exchange, "empty": update.received is None, "checksum": update.checksum}
    records[REPLICA_UPDATE] = ConfigRecord(_write_context(update.context) | numbers)
    if update.received is not None:
        put_tensors(records, RECEIVED, update.received.values, publish)
        put_tensors(records, RECEIVED_STD, update.received.noise_std)


def _read_update(records: RecordDict, device: Device, shared_memory: Path | None) -> ReplicaUpdate:
    numbers: dict[str, Any] = dict(records.config_records[REPLICA_UPDATE])
    update, received = _ReplicaUpdate.model_validate(numbers), None
    if not update.empty:
        received = Received(
            take_tensors(records, RECEIVED, device, shared_memory),
            take_tensors(records, RECEIVED_STD, device, shared_memory),
        )
    return ReplicaUpdate(update.exchange, _read_context(numbers), received, update.checksum)


def _write_context(ctx: RoundContext) -> dict[str, Any]:
    return {
        "round": ctx.round,
        "phase": ctx.phase,
        "power": ctx.power,
        "noise-std": ctx.noise_std,
        "updates": ctx.updates,
        "clients": ctx.clients,
        "participants": list(ctx.participants),
        "transmitters": list(ctx.transmitters),
        "averaged": ctx.averaged,
        "bits": list(ctx.bits),
        "seed": ctx.streams.seed,
        "noise-on-cpu": ctx.streams.on_cpu,
        "blocks": json.dumps([(block.name, block.shape, block.transposed) for block in ctx.blocks]),
    }


def _read_context(numbers: dict[str, Any]) -> RoundContext:
    return _Exchange.model_validate(numbers).context


def _read_scheme(options: dict[str, Any]) -> Scheme:
    """Return the scheme, its options checked like those of a run; a message imports no module."""
    name = str(options.pop(STRATEGY))
    for part in (name, *(value for value in options.values() if isinstance(value, str) and ":" in value)):
        if not any(part in table or part in table.outside for table in KINDS.values()):
            raise ValueError(f"the part {brief(part)} must be registered here: import its module in the client app")
    config = parse({key.replace("_", "-"): value for key, value in options.items()} | {"strategy": name})
    scheme: Scheme = SCHEMES.build(config.strategy, config)
    if options.keys() != (known := {field.name for field in fields(scheme)}):  # type: ignore[arg-type]
        raise ValueError(f"the scheme {name} has the options {sorted(known)}, not {sorted(options)}")
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
