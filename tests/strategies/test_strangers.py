"""A node may send anything: it costs its own clients the round, and nobody else anything."""

import json
import logging
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from flwr.app import Array, ConfigRecord, Error, RecordDict

from clients.node import reply
from laser_fl.config import parse
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.transport.arrays import write_tensors
from laser_fl.transport.shared_memory import _parsed
from strategies import OverTheAir
from strategies.claims import ClaimError, Claims
from tests.grids import Clock, FakeGrid
from tests.helpers import tensors

SHAPES = {"w": (6, 9), "b": (6,)}
ROUNDS = 4
BAD = 103  # the node of the last client
ESCAPES = "\x1b[2J\u202e\x07\nWARNING: round 9: all is well"


def respond(broadcast, memory):
    ones = {
        block.name: torch.ones(len(broadcast.context.participants), *block.shape) for block in broadcast.context.blocks
    }
    return encode_update(broadcast, ones, torch.ones(len(broadcast.context.participants)).double(), memory)


class Grid(FakeGrid):
    """Four nodes, of which the last one's replies are spoilt after the first exchange; spoil: reply -> what arrives."""

    def __init__(self, spoil):
        super().__init__(4, {}, lambda message, context: reply(message, context, respond))
        self.spoil, self.requests = spoil, 0

    def request(self, messages):
        self.requests += 1
        replies = super().request(messages)
        if self.requests == 1:
            return replies
        return [
            self.spoil(one) if message.metadata.dst_node_id == BAD else one
            for message, one in zip(messages, replies, strict=True)
        ]

    def pull_messages(self, message_ids):
        found = super().pull_messages(message_ids)
        if found and isinstance(found[0], Exception):
            raise found[0]
        return found


def run(spoil, **options):
    strategy = OverTheAir(parse({"clients": 4, "strategy": "z-sgd"} | options), schedule=RoundSchedule(ROUNDS))
    strategy.start(Grid(spoil), write_tensors(tensors(SHAPES, None, dtype=torch.float32)))
    return [record.left_out for record in strategy.server.ledger]


def replaced(reply, content=None, error=None):
    reply.__dict__.update(_content=content, _error=error)
    return reply


def names_bfloat16(reply):
    """It asks for everything, as if its memory were a part of the server's model, of another type."""
    if "tensors" in reply.content:  # it is taken for a node of another host by now
        return replaced(reply)
    handle = json.loads(reply.content["reply"]["tensors"])
    folder = handle[1].rpartition("/")[0]
    handle[1:] = f"{folder}/weights", [["w", [2, 2], "bfloat16"]]
    Path(handle[1]).write_bytes(bytes(64))
    return replaced(reply, RecordDict({"everything": ConfigRecord({"elsewhere": True, "memory": json.dumps(handle)})}))


def claims_to_be_another(reply):
    vars(reply.metadata).update(_src_node_id=100, _reply_to_message_id="message 1")
    return reply


ATTACKS = {
    "a request that names bfloat16 values": names_bfloat16,
    "neither content nor error": replaced,
    "what cannot be unpacked": lambda reply: ValueError("Unexpected set of `children`"),
    "an error without a reason": lambda reply: replaced(reply, error=Error(2)),
    "an error of no code": lambda reply: replaced(reply, error=Error(None, ESCAPES)),
    "a request for everything, always": lambda reply: replaced(
        reply, RecordDict({"everything": ConfigRecord({"elsewhere": [1.5]})})
    ),
    "nothing in it": lambda reply: replaced(reply, RecordDict()),
}


@pytest.fixture(autouse=True)
def _clock(monkeypatch):
    monkeypatch.setattr("strategies.node_messenger.time", Clock(least=100.0))


@pytest.mark.parametrize("attack", ATTACKS)
def test_it_leaves_out_its_own_clients_and_the_run_goes_on(attack):
    kinds = {"raised" if attack.startswith("an error") else "malformed"}
    out = run(ATTACKS[attack])
    assert out[0] == ""
    assert set(out[1:]) <= {f"3 {kind}" for kind in kinds}


def test_its_metadata_make_it_nobody_else():
    """On a SuperLink, too, a node writes the metadata of its replies by itself."""
    assert run(claims_to_be_another) == [""] * ROUNDS


@pytest.mark.parametrize(
    "spoil",
    [
        lambda reply: replaced(reply, error=Error(2, ESCAPES)),
        lambda reply: ValueError(ESCAPES),
        lambda reply: replaced(reply, RecordDict({"reply": ConfigRecord({"text": ESCAPES})})),
        lambda reply: replaced(reply, error=Error(2, "x" * 10**6)),
        lambda reply: KeyError("\ud800" + "x" * 10**6),
    ],
)
def test_its_texts_get_into_the_log_as_short_printable_lines(spoil, caplog):
    logging.getLogger("flwr").addHandler(caplog.handler)
    strategy = OverTheAir(parse({"clients": 4, "strategy": "z-sgd"}), schedule=RoundSchedule(2))
    try:
        strategy.start(Grid(spoil), write_tensors(tensors(SHAPES, None, dtype=torch.float32)))
    finally:
        logging.getLogger("flwr").removeHandler(caplog.handler)
    for line in [*caplog.messages, strategy.server.warning]:
        assert line.isprintable()
        assert len(line) < 2000
        line.encode()


class TestWhatIsLarge:
    MEGABYTES = 40

    def gathered(self, spoil):
        """Gather a spoilt reply; return (bytes allocated by that at most, the kinds of the faults)."""
        config = parse({"clients": 1, "strategy": "z-sgd"})
        server = Server(config, tensors(SHAPES, None, dtype=torch.float32), RoundSchedule(2))
        strategy = OverTheAir(config)
        strategy.server = server
        (message,) = strategy.configure_train(1, None, ConfigRecord(), FakeGrid(1, {}))
        context = FakeGrid(1, {}).contexts[100]
        arrived = reply(message, context, respond)
        spoil(arrived.content)
        tracemalloc.start()
        received, faults = strategy._gather([arrived])
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert received == []
        return peak, {fault.kind for fault in faults}

    def big(self, shape=None):
        return Array(np.zeros(shape or (self.MEGABYTES << 18,), "f4"))

    @pytest.mark.parametrize("name", ["x", "signals/x", "buffers/x", "signals/w"])
    def test_is_not_copied_where_the_scheme_does_not_expect_it(self, name):
        peak, kinds = self.gathered(lambda content: content["tensors"].update({name: self.big()}))
        assert peak < 1 << 20
        assert kinds <= {"names", "shapes"}

    def test_is_not_even_looked_at_where_there_is_too_much_of_it(self, monkeypatch):
        tiny, looked = Array(np.zeros(1, "f4")), []
        read = np.lib.format.read_array_header_1_0
        monkeypatch.setattr("numpy.lib.format.read_array_header_1_0", lambda file: looked.append(1) or read(file))

        def spoil(content):
            content["tensors"].update({f"signals/{i}": tiny for i in range(20_000)})
            looked.clear()

        _, kinds = self.gathered(spoil)
        assert kinds == {"names"}
        assert looked == []

    def test_is_no_list_of_clients_that_takes_more_than_its_text(self):
        def spoil(content):
            content["reply"]["text"] = '{"exchange": 0, "participants": [' + "0," * 10**6 + "0]}"

        peak, kinds = self.gathered(spoil)
        assert peak < 1 << 20
        assert kinds == {"malformed"}

    def test_is_no_handle_that_is_kept(self):
        """A valid handle may be followed by blanks: what is remembered is short."""

        def spoil(content):
            del content["tensors"]
            content["reply"]["tensors"] = json.dumps(["host", "/dev/shm/laser-fl-x/y", []]) + " " * (1 << 21)

        before = _parsed.cache_info().currsize
        _, kinds = self.gathered(spoil)
        assert kinds == {"names"}
        assert _parsed.cache_info().currsize == before


class TestClaims:
    def test_of_more_clients_than_a_node_may_host_are_refused(self):
        claims = Claims(most=4)
        with pytest.raises(ClaimError, match="node 7 is refused: it claims 16 clients, above 4 per node"):
            claims.settle(7, range(16))
        claims.settle(8, range(4))
        assert list(claims.refused) == [7]

    def test_that_come_first_do_not_take_the_run_from_all_others(self):
        """With min-available-nodes, no node may host more than its share."""

        class Greedy(Grid):
            def request(self, messages):
                return [greedy(one) for one in FakeGrid.request(self, messages)]

            def push_messages(self, messages):
                numbers = super().push_messages(messages)
                self.arriving = {number: self.arriving[number] for number in numbers[::-1]}  # the first one's first
                return numbers

        config = parse({"clients": 4, "strategy": "z-sgd", "min-available-nodes": 4})
        strategy = OverTheAir(config, schedule=RoundSchedule(2))
        strategy.start(Greedy(None), write_tensors(tensors(SHAPES, None, dtype=torch.float32)))
        assert [record.left_out for record in strategy.server.ledger] == ["0 twice"] * 2


def greedy(one):
    """Let the first node claim all clients."""
    if one.metadata.src_node_id == 100:
        numbers = json.loads(one.content["reply"]["text"]) | {"first": 0, "end": 4}
        one.content["reply"]["text"] = json.dumps(numbers)
    return one
