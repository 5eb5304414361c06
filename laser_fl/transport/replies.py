"""Replies as records, and back."""

from pathlib import Path
from typing import Annotated, Any

from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, Field

from laser_fl.errors import WireError
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import ClientUpdate
from laser_fl.rng import Device
from laser_fl.transport.arrays import Publish, put_tensors, read_tensors, reading, take_tensors, write_tensors
from laser_fl.transport.messages import BUFFERS

SIGNALS, REPORTS, CLIENTS = "signals", "reports", "clients"

Index = Annotated[int, Field(ge=0, lt=2**63)]


class _Clients(BaseModel):
    exchange: Index
    participants: tuple[Index, ...]


class _Hosted(BaseModel):
    first: Index
    end: Annotated[int, Field(ge=0, lt=2**31)]


def write_reply(reply: Reply, hosted: range, publish: Publish | None = None) -> RecordDict:
    """Return the reply of a node's clients as records.

    Args:
        reply: of the participants among them.
        hosted: all clients of the node.
        publish: as for `put_tensors`.
    """
    client_update = reply.client_update
    reports = {
        "signal-norms": client_update.signal_norms,
        "gradient-norms": client_update.gradient_norms,
        "losses": client_update.losses,
    }
    numbers: dict[str, Any] = {
        "exchange": reply.exchange,
        "participants": list(reply.clients),
        "first": hosted.start,
        "end": hosted.stop,
    }
    records = RecordDict({REPORTS: write_tensors(reports), CLIENTS: ConfigRecord(numbers)})
    put_tensors(records, SIGNALS, client_update.signals, publish)
    put_tensors(records, BUFFERS, client_update.buffers, publish)
    return records


def read_reply(records: RecordDict, device: Device = "cpu", shared_memory: Path | None = None) -> Reply:
    """Undo `write_reply`.

    Args:
        records: of a node.
        device: where signals and buffers are wanted.
        shared_memory: as for `take_tensors`.

    Raises:
        UnreachableError: as `take_tensors`.
        WireError: it is not a reply.
    """
    with reading("reply"):
        clients = _Clients.model_validate(dict(records.config_records[CLIENTS]))
        reports = read_tensors(records.array_records[REPORTS])
        norms, gradients, losses = (reports[name].double() for name in ("signal-norms", "gradient-norms", "losses"))
        if (norms.ndim, gradients.ndim, losses.ndim) != (2, 2, 1):
            raise WireError("reply: its reports must be two matrices and a vector")
        signals, buffers = (take_tensors(records, name, device, shared_memory) for name in (SIGNALS, BUFFERS))
        client_update = ClientUpdate(signals, norms.to(device), gradients.to(device), losses, buffers)
        return Reply(clients.exchange, clients.participants, client_update)


def hosted_by(records: RecordDict) -> range:
    """Return all clients of the node that replies; the participants are among them. Raises WireError."""
    with reading("reply"):
        numbers = dict(records.config_records[CLIENTS])
        hosted, participants = _Hosted.model_validate(numbers), _Clients.model_validate(numbers).participants
        clients = range(hosted.first, hosted.end)
        if strangers := [client for client in participants if client not in clients]:
            raise WireError(f"reply: it is for client {strangers[0]}, which its node does not host")
        return clients
