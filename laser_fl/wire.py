"""Broadcasts and uplinks as Flower records, and back. The only core file that imports Flower.

A broadcast names its scheme and carries everything a client needs to encode, so that a client
node follows whatever strategy the server runs.
"""

from dataclasses import asdict
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, RecordDict
from torch import Tensor

from laser_fl.blocks import Tensors, blocks_of
from laser_fl.pipeline import Broadcast, Uplink
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Scheme
from laser_fl.streams import Device, Streams

WEIGHTS, SHARED, EXCHANGE, SCHEME = "weights", "shared", "exchange", "scheme"
SIGNALS, REPORTS, CLIENTS = "signals", "reports", "clients"


def write_tensors(tensors: Tensors) -> ArrayRecord:
    """Tensors by name as an ArrayRecord."""
    return ArrayRecord({name: Array(tensor.detach().cpu().numpy()) for name, tensor in tensors.items()})


def read_tensors(record: ArrayRecord, device: Device = "cpu") -> Tensors:
    """Undo `write_tensors`, onto `device`."""
    return {name: torch.from_numpy(array.numpy()).to(device) for name, array in record.items()}


def write_broadcast(broadcast: Broadcast, weights: ArrayRecord) -> RecordDict:
    """A broadcast as records. weights: the broadcast's weights, already written."""
    ctx = broadcast.context
    exchange = ConfigRecord(
        {
            "round": ctx.round,
            "phase": ctx.phase,
            "power": ctx.power,
            "noise-std": ctx.noise_std,
            "clients": ctx.clients,
            "seed": ctx.streams.seed,
            "transposed": [block.name for block in ctx.blocks if block.transposed],
        }
    )
    scheme = ConfigRecord({"name": _name_of(broadcast.scheme), **asdict(broadcast.scheme)})  # type: ignore[call-overload]
    shared = write_tensors(broadcast.shared)
    return RecordDict({WEIGHTS: weights, SHARED: shared, EXCHANGE: exchange, SCHEME: scheme})


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
        clients=exchange["clients"],
        streams=Streams(exchange["seed"]),
    )
    return Broadcast(weights, shared, scheme, context)


def write_uplink(uplink: Uplink, clients: range) -> RecordDict:
    """What the clients of one node say, as records. clients: their numbers in the run."""
    reports = {
        "signal-norms": uplink.signal_norms,
        "gradient-norms": uplink.gradient_norms,
        "losses": uplink.losses,
    }
    numbers = ConfigRecord({"start": clients.start, "stop": clients.stop})
    return RecordDict({SIGNALS: write_tensors(uplink.signals), REPORTS: write_tensors(reports), CLIENTS: numbers})


def read_uplink(records: RecordDict, device: Device = "cpu") -> tuple[range, Uplink]:
    """Undo `write_uplink`: (the clients' numbers, what they say)."""
    numbers: dict[str, Any] = dict(records.config_records[CLIENTS])
    reports: dict[str, Tensor] = read_tensors(records.array_records[REPORTS], device)
    signals = read_tensors(records.array_records[SIGNALS], device)
    uplink = Uplink(signals, reports["signal-norms"], reports["gradient-norms"], reports["losses"])
    return range(numbers["start"], numbers["stop"]), uplink


def _name_of(scheme: Scheme) -> str:
    target = f"{type(scheme).__module__}:{type(scheme).__qualname__}"
    return next(name for name, entry in SCHEMES.items() if entry.target == target)
