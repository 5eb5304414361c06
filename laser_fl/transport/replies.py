"""Replies as records, and back."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Annotated

import numpy as np
import torch
from flwr.app import ConfigRecord, RecordDict
from pydantic import BaseModel, Field
from torch import Tensor

from laser_fl.channels.exchange import ClientUpdate
from laser_fl.errors import WireError
from laser_fl.federated.validation import Form, Reply
from laser_fl.rng import Device
from laser_fl.transport.arrays import (
    Forms,
    Look,
    Publish,
    Values,
    bundled,
    put_tensors,
    reading,
    take_tensors,
    text_in,
    unbundled,
)
from laser_fl.transport.messages import BUFFERS, TENSORS
from laser_fl.transport.shared_memory import TensorHandle

REPLY, SIGNALS = "reply", "signals"
FILE = f"{SIGNALS}-{BUFFERS}"  # name of the file with a reply's tensors
REPORT = "<f8"  # type of the values in a report
REPORTS = ("norms of signals", "norms of gradients", "losses")
LONGEST, PER_CLIENT = 1024, 24  # characters of a reply's numbers, and more for each client: an index has 19 digits

Index = Annotated[int, Field(ge=0, lt=2**63)]
Rows = Annotated[int, Field(ge=0, lt=2**31)]


class _Numbers(BaseModel):
    """The numbers of a reply, as received. first, end: of all clients of the node. shapes: of the reports."""

    exchange: Index
    participants: tuple[Index, ...]
    first: Index
    end: Rows
    shapes: tuple[tuple[Rows, Rows], tuple[Rows, Rows], tuple[Rows]]


def write_reply(reply: Reply, hosted: range, publish: Publish | None = None) -> RecordDict:
    """Return the reply of a node's clients as records.

    Args:
        reply: of the participants among them.
        hosted: all clients of the node.
        publish: as for `put_tensors`.
    """
    client_update = reply.client_update
    reports = (client_update.signal_norms, client_update.gradient_norms, client_update.losses)
    numbers = {
        "exchange": reply.exchange,
        "participants": reply.clients,
        "first": hosted.start,
        "end": hosted.stop,
        "shapes": [report.shape for report in reports],
    }
    together = torch.cat([report.detach().flatten().to("cpu", torch.float64) for report in reports])
    values: Values = {"text": json.dumps(numbers), "reports": together.numpy().astype(REPORT, copy=False).tobytes()}
    records, trees = RecordDict(), {SIGNALS: client_update.signals, BUFFERS: client_update.buffers}
    put_tensors(records, values, TENSORS, bundled(trees), publish, file=FILE)
    records[REPLY] = ConfigRecord(values)
    return records


def read_reply(records: RecordDict, device: Device = "cpu", look: Look = TensorHandle.map) -> Reply:
    """Undo `write_reply`.

    Args:
        records: of a node.
        device: where signals and buffers are wanted.
        look: as for `take_tensors`; a node maps a reply of its own.

    Raises:
        UnreachableError: as `take_tensors`.
        WireError: it is not a reply.
    """
    with reading(REPLY):
        numbers = _Numbers.model_validate_json(text_in(records, REPLY))
        norms, gradients, losses = _reports(records, numbers)
        trees = unbundled(take_tensors(records, REPLY, TENSORS, device, look))
        signals, buffers = trees.get(SIGNALS, {}), trees.get(BUFFERS, {})
        client_update = ClientUpdate(signals, norms.to(device), gradients.to(device), losses, buffers)
        return Reply(numbers.exchange, numbers.participants, client_update)


@dataclass(frozen=True)
class ReplyForm:
    """The form of a reply, for which none of its tensors is read.

    hosted: all clients of its node; the participants are among them. exchange, clients: as in `Reply`.
    parts: the form of each part, by the names that `ReplyValidator` has for them.
    """

    hosted: range
    exchange: int
    clients: tuple[int, ...]
    parts: Mapping[str, Form]


def read_form(records: RecordDict, clients: int) -> ReplyForm:
    """Return the form of a node's reply. Raises WireError. clients: number of clients in the run."""
    with reading(REPLY):
        text = text_in(records, REPLY, longest=LONGEST + PER_CLIENT * clients)
        numbers = _Numbers.model_validate_json(text)
        hosted = range(numbers.first, numbers.end)
        if strangers := [client for client in numbers.participants if client not in hosted]:
            raise WireError(f"reply: it is for client {strangers[0]}, which its node does not host")
        return ReplyForm(hosted, numbers.exchange, numbers.participants, _Parts(numbers, records))


class _Parts(Mapping[str, Form]):
    """The forms of a reply's parts, each read when it is asked for: reports, signals, buffers, strangers."""

    def __init__(self, numbers: _Numbers, records: RecordDict) -> None:
        self._reports: dict[str, Form] = {
            name: (shape, torch.float64) for name, shape in zip(REPORTS, numbers.shapes, strict=True)
        }
        self._forms = Forms(records, REPLY, TENSORS)
        trees: dict[str, dict[str, str]] = {SIGNALS: {}, BUFFERS: {}, "": {}}
        for key in self._forms:
            tree, _, name = key.partition("/")
            known = tree in (SIGNALS, BUFFERS)
            trees[tree if known else ""][f"{tree.removesuffix('s')} {name}" if known else f"stranger {key}"] = key
        self._keys = {part: key for tree in trees.values() for part, key in tree.items()}

    def __getitem__(self, part: str) -> Form:
        return self._reports[part] if part in self._reports else self._forms[self._keys[part]]

    def __iter__(self) -> Iterator[str]:
        yield from self._reports
        yield from self._keys

    def __len__(self) -> int:
        return len(self._reports) + len(self._keys)


def _reports(records: RecordDict, numbers: _Numbers) -> list[Tensor]:
    """Return the norms and losses. Raises ValueError or KeyError where they are not of the shapes in the numbers."""
    record = records[REPLY]
    data = record["reports"] if isinstance(record, ConfigRecord) else None
    sizes = [prod(shape) for shape in numbers.shapes]
    if not isinstance(data, bytes) or len(data) != sum(sizes) * np.dtype(REPORT).itemsize:
        raise ValueError(f"its reports must be bytes of the shapes {numbers.shapes}")
    values = torch.from_numpy(np.frombuffer(data, REPORT).astype(np.float64))
    return [part.view(shape) for part, shape in zip(torch.split(values, sizes), numbers.shapes, strict=True)]
