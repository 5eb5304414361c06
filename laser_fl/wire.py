"""Broadcasts and uplinks as Flower records, and back. The only core file that imports Flower.

A broadcast names its scheme and carries everything a client needs to encode, so that a client
node follows whatever strategy the server runs.
"""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from laser_fl.blocks import Tensors, blocks_of
from laser_fl.downlink import Downlink
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Scheme
from laser_fl.streams import Device, Streams

WEIGHTS, SHARED, EXCHANGE, SCHEME, BUFFERS = "weights", "shared", "exchange", "scheme", "buffers"
SIGNALS, REPORTS, CLIENTS = "signals", "reports", "clients"


def write_tensors(tensors: Tensors) -> ArrayRecord:
    """Tensors by name as an ArrayRecord."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def read_tensors(record: ArrayRecord, device: Device = "cpu") -> Tensors:
    """Undo `write_tensors`, onto `device`."""
    return {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}


def write_broadcast(broadcast: Broadcast, model: ArrayRecord) -> RecordDict:
    """A broadcast as records. model: the current weights, already written, for where the model is broadcast."""
    ctx = broadcast.context
    exchange = ConfigRecord(
        {
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
            "downlink": broadcast.downlink.content,
            "downlink-noise-std": broadcast.downlink.noise_std,
            "seed": ctx.streams.seed,
            "transposed": [block.name for block in ctx.blocks if block.transposed],
        }
    )
    scheme = ConfigRecord({"name": _name_of(broadcast.scheme), **asdict(broadcast.scheme)})  # type: ignore[call-overload]
    shared = write_tensors(broadcast.shared)
    weights = write_tensors(broadcast.weights) if broadcast.downlink.content == "update" else model
    buffers = write_tensors(broadcast.buffers)
    return RecordDict({WEIGHTS: weights, SHARED: shared, EXCHANGE: exchange, SCHEME: scheme, BUFFERS: buffers})


def read_broadcast(records: RecordDict, device: Device = "cpu") -> Broadcast:
    """Undo `write_broadcast`, with all tensors on `device`."""
    weights = read_tensors(records.array_records[WEIGHTS], device)
    shared = read_tensors(records.array_records[SHARED], device)
    exchange: dict[str, Any] = dict(records.config_records[EXCHANGE])
    options: dict[str, Any] = dict(records.config_records[SCHEME])
    scheme = SCHEMES.load(options.pop("name"))(**options)
    context = Context(
        blocks=blocks_of(weights, exchange["transposed"]),
        round=exchange["round"],
        phase=exchange["phase"],
        power=exchange["power"],
        noise_std=exchange["noise-std"],
        updates=exchange["updates"],
        clients=exchange["clients"],
        present=tuple(exchange["present"]),
        speakers=tuple(exchange["speakers"]),
        averaged=exchange["averaged"],
        bits=tuple(exchange["bits"]),
        streams=Streams(exchange["seed"]),
    )
    downlink = Downlink(exchange["downlink"], exchange["downlink-noise-std"])
    buffers = read_tensors(records.array_records[BUFFERS], device)
    return Broadcast(weights, shared, scheme, context, downlink, buffers=buffers)


def write_uplink(uplink: Uplink, clients: Sequence[int]) -> RecordDict:
    """What the clients of one node say, as records. clients: the numbers of those present, rising."""
    reports = {
        "signal-norms": uplink.signal_norms,
        "gradient-norms": uplink.gradient_norms,
        "losses": uplink.losses,
    }
    numbers = ConfigRecord({"present": list(clients)})
    signals, buffers = write_tensors(uplink.signals), write_tensors(uplink.buffers)
    return RecordDict({SIGNALS: signals, REPORTS: write_tensors(reports), CLIENTS: numbers, BUFFERS: buffers})


def read_uplink(records: RecordDict, device: Device = "cpu") -> tuple[tuple[int, ...], Uplink]:
    """Undo `write_uplink`: (the clients' numbers, what they say)."""
    numbers: dict[str, Any] = dict(records.config_records[CLIENTS])
    reports: dict[str, Tensor] = read_tensors(records.array_records[REPORTS], device)
    signals = read_tensors(records.array_records[SIGNALS], device)
    buffers = read_tensors(records.array_records[BUFFERS], device)
    uplink = Uplink(signals, reports["signal-norms"], reports["gradient-norms"], reports["losses"], buffers)
    return tuple(numbers["present"]), uplink


def _name_of(scheme: Scheme) -> str:
    target = f"{type(scheme).__module__}:{type(scheme).__qualname__}"
    return next(name for name, entry in SCHEMES.items() if entry.target == target)
