"""Replies as records, and back."""

from pathlib import Path
from typing import Annotated, Any

from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, Field

from laser_fl.errors import WireError
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import Uplink
from laser_fl.rng import Device
from laser_fl.transport.arrays import Show, put_tensors, read_tensors, reading, take_tensors, write_tensors
from laser_fl.transport.messages import BUFFERS

SIGNALS, REPORTS, CLIENTS = "signals", "reports", "clients"

Index = Annotated[int, Field(ge=0, lt=2**63)]


class _Clients(BaseModel):
    exchange: Index
    present: tuple[Index, ...]


class _Hosted(BaseModel):
    first: Index
    end: Annotated[int, Field(ge=0, lt=2**31)]


def write_reply(reply: Reply, hosted: range, show: Show | None = None) -> RecordDict:
    """What the clients of one node say, as records. hosted: all of that node's."""
    uplink = reply.uplink
    reports = {
        "signal-norms": uplink.signal_norms,
        "gradient-norms": uplink.gradient_norms,
        "losses": uplink.losses,
    }
    numbers: dict[str, Any] = {
        "exchange": reply.exchange,
        "present": list(reply.clients),
        "first": hosted.start,
        "end": hosted.stop,
    }
    records = RecordDict({REPORTS: write_tensors(reports), CLIENTS: ConfigRecord(numbers)})
    put_tensors(records, SIGNALS, uplink.signals, show)
    put_tensors(records, BUFFERS, uplink.buffers, show)
    return records


def read_reply(records: RecordDict, device: Device = "cpu", board: Path | None = None) -> Reply:
    """Undo `write_reply`; board: as for `take_tensors`.

    Raises:
        NotHereError: as `take_tensors`.
        WireError: it is not a reply.
    """
    with reading("reply"):
        told = _Clients.model_validate(dict(records.config_records[CLIENTS]))
        reports = read_tensors(records.array_records[REPORTS])
        norms, gradients, losses = (reports[name].double() for name in ("signal-norms", "gradient-norms", "losses"))
        if (norms.ndim, gradients.ndim, losses.ndim) != (2, 2, 1):
            raise WireError("reply: its reports must be two matrices and a vector")
        signals, buffers = (take_tensors(records, name, device, board) for name in (SIGNALS, BUFFERS))
        uplink = Uplink(signals, norms.to(device), gradients.to(device), losses, buffers)
        return Reply(told.exchange, told.present, uplink)


def hosted_by(records: RecordDict) -> range:
    """All clients of the node that replies; who speaks is among them. Raises WireError."""
    with reading("reply"):
        told = dict(records.config_records[CLIENTS])
        hosted, present = _Hosted.model_validate(told), _Clients.model_validate(told).present
        clients = range(hosted.first, hosted.end)
        if strangers := [client for client in present if client not in clients]:
            raise WireError(f"reply: it speaks for client {strangers[0]}, whom its node does not host")
        return clients
