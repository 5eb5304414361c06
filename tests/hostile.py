"""Hostile nodes on a grid, and a judge of what they send. Imported by tests only, after the type-checking hook."""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from clients.node import _publish, reply
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.validation import Reply
from laser_fl.transport.client_state import asks_for_everything
from laser_fl.transport.messages import handle_in, read_broadcast, read_numbers
from laser_fl.transport.replies import write_reply
from tests.faults import single
from tests.grids import FakeGrid
from tests.spoilers import Spoilers, copied


@dataclass
class HostileGrid(FakeGrid):
    """A grid of honest nodes, and of hostile ones that spoil some of their replies.

    honest: node -> (its place, number of places), by the client's own code. hostile: node -> its client; they compute
    together. share: of their replies that are spoilt, but for the first exchange, in which clients are claimed.

    arrived: (round, exchange, node) -> (way, its reply as it should be, what arrived), of the last request in it.
    """

    honest: dict
    hostile: dict
    spoilers: Spoilers
    respond: Callable
    share: float = 0.9

    def __post_init__(self):
        super().__init__(0, {}, lambda message, context: reply(message, context, self.respond))
        self.contexts = {
            node: Context(1, node, {"partition-id": place, "num-partitions": places}, RecordDict(), {})
            for node, (place, places) in self.honest.items()
        }
        self.arrived, self._replies, self._sound = {}, {}, []
        self._group = ClientGroup(range(min(self.hostile.values()), max(self.hostile.values()) + 1), self.respond)

    def get_node_ids(self):
        return [*self.honest, *self.hostile]

    def request(self, messages):
        replies = super().request([m for m in messages if m.metadata.dst_node_id in self.honest])
        theirs = [m for m in messages if m.metadata.dst_node_id in self.hostile]
        together = iter(replies), iter([self._spoilt(m, m.metadata.dst_node_id) for m in theirs])
        return [next(together[m.metadata.dst_node_id in self.hostile]) for m in messages]

    def _spoilt(self, message, node):
        """Return what arrives from a hostile node, and note it."""
        numbers = read_numbers(message.content)
        exchange = numbers.acknowledgements.exchange
        if exchange not in self._replies:
            self._replies = {exchange: self._compute(read_broadcast(message.content))}
            self.spoilers.others, self._sound = self._sound, []
        client, handle = self.hostile[node], handle_in(message.content)
        publish = None if handle is None else partial(_publish, handle.folder, node, exchange % 2)
        sound = write_reply(self._replies[exchange][client], range(client, client + 1), publish)
        spoilt = exchange > 0 and self.spoilers.draw.random() < self.share
        way = self.spoilers.draw.choice(self.spoilers.names) if spoilt else "none"
        arrives = Message(copied(sound), reply_to=message)
        arrives = getattr(self.spoilers, way)(arrives) if spoilt else arrives
        self._sound.append(sound)
        self.arrived[numbers.exchange.round, exchange, node] = way, sound, arrives
        return arrives

    def _compute(self, broadcast):
        exchange = broadcast.acknowledgements.exchange
        sound = self._group.answer(broadcast)
        replies = {client: Reply(exchange, (), ClientUpdate.none()) for client in self.hostile.values()}
        return replies | {one.clients[0]: one for one in single(sound, broadcast.context.transmitters)}

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        if replies and isinstance(replies[0], Exception):
            raise replies[0]
        return replies


REFUSED, EITHER, SAME = "refused", "either", "same"


def verdict(honest, arrived):
    """Judge a reply by other means than the server's: whether it must be refused, is the honest one, or may be either.

    It may be either where only values differ, of which no other reader can say how they were measured; or numbers by
    their type; or claims.
    """
    if not isinstance(arrived, Message) or arrived.has_error() or not arrived.has_content():
        return REFUSED
    record, wanted = arrived.content.get("reply"), honest["reply"]
    if not isinstance(record, ConfigRecord):
        return REFUSED
    if asks_for_everything(arrived.content):  # for the second time, and replies
        return EITHER
    found = {_numbers(wanted, record), _reports(wanted, record), _tensors(honest, arrived.content)}
    return next(one for one in (REFUSED, EITHER, SAME) if one in found)


def _numbers(wanted, record):
    text, like = record.get("text"), json.loads(wanted["text"])
    if text == wanted["text"]:
        return SAME
    try:
        numbers = json.loads(text)
        same = all(_loosely(numbers[key]) == _loosely(like[key]) for key in ("exchange", "participants", "shapes"))
    except (ValueError, TypeError, KeyError, RecursionError):
        return REFUSED
    return EITHER if same else REFUSED


def _loosely(value):
    """A number, whatever its type: readers of JSON differ."""
    return [_loosely(one) for one in value] if isinstance(value, list) else float(value)


def _reports(wanted, record):
    data = record.get("reports")
    if data == wanted["reports"]:
        return SAME
    return EITHER if isinstance(data, bytes) and len(data) == len(wanted["reports"]) else REFUSED


def _tensors(honest, content):
    arrays, wanted = content.get("tensors"), honest.get("tensors")
    if not isinstance(arrays, ArrayRecord):
        return _handles(honest["reply"].get("tensors"), content["reply"].get("tensors"))
    if wanted is None:
        return REFUSED if len(arrays) == 0 else EITHER
    if list(arrays) != list(wanted):
        return EITHER if sorted(arrays) == sorted(wanted) else REFUSED
    return max((_array(arrays[name], wanted[name]) for name in wanted), key=(SAME, EITHER, REFUSED).index, default=SAME)


def _array(array, wanted):
    if (array.data, array.stype) == (wanted.data, wanted.stype):
        return SAME
    try:
        got, like = np.load(io.BytesIO(array.data)), np.load(io.BytesIO(wanted.data))
    except Exception:
        return REFUSED
    same = (got.shape, got.dtype, array.stype) == (like.shape, like.dtype, wanted.stype)
    return EITHER if same else REFUSED


def _handles(wanted, text):
    if text == wanted or wanted is None:
        return REFUSED if wanted is None else SAME
    try:
        _, _, layout = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return REFUSED
    return EITHER if layout == json.loads(wanted)[2] else REFUSED
