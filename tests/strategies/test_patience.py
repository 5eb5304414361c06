"""An exchange waits as long as `reply-timeout` once, however many nodes are slow, die, or ask for everything."""

import pandas as pd
import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict

from clients.client_app import app as client_app
from laser_fl.transport.client_state import ask_for_everything, asks_for_everything
from laser_fl.transport.messages import read_numbers
from strategies.node_messenger import LOOK_SECONDS, NODES_AT_A_LOOK, carry
from strategies.server_app import app as server_app
from tests.grids import Clock, FakeGrid, run_config

TIMEOUT = 60.0
CRASHED, OWN_FAULT, UNAVAILABLE, GONE = 8, 2, 3, 5  # Flower's codes


class TimedGrid(FakeGrid):
    """A grid on which replies take their time.

    act: (node, number of the request to it, message) -> (seconds, reply or how to make it); no reply: (seconds, None).
    """

    pull_interval = 1.0

    def __init__(self, nodes, clock, act, run_config=None):
        super().__init__(nodes, run_config or {})
        self.clock, self.act, self.requests, self.due = clock, act, [], {}

    def push_messages(self, messages):
        numbers = []
        for message in messages:
            node = message.metadata.dst_node_id
            numbers.append(f"message {len(self.requests)}")
            message.metadata.__dict__["_message_id"] = numbers[-1]
            seconds, reply = self.act(node, sum(node == other for other, _ in self.requests), message)
            self.requests.append((node, self.clock.now))
            if reply is not None:
                self.due[numbers[-1]] = self.clock.now + seconds, reply
        return numbers

    def pull_messages(self, message_ids):
        (number,) = message_ids
        there = number in self.due and self.due[number][0] <= self.clock.now
        if not there:
            return []
        _, reply = self.due.pop(number)
        return [reply() if callable(reply) else reply]


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("strategies.node_messenger.time", clock)
    return clock


def message_to(node):
    return Message(RecordDict({"config": ConfigRecord({"for": node})}), dst_node_id=node, message_type="train")


def content(text):
    return RecordDict({"config": ConfigRecord({"text": text})})


def said(replies):
    return {r.metadata.src_node_id: r.error.code if r.has_error() else r.content["config"]["text"] for r in replies}


def carried(grid, in_full=None):
    return carry(grid, [message_to(node) for node in grid.contexts], TIMEOUT, in_full)


class TestAnExchange:
    def test_ends_when_the_last_reply_is_there(self, clock):
        grid = TimedGrid(3, clock, lambda node, i, m: (node - 100, Message(content("here"), reply_to=m)))
        assert said(carried(grid)) == {100: "here", 101: "here", 102: "here"}
        assert clock.now == 2.0

    def test_waits_once_for_a_node_that_never_replies(self, clock):
        grid = TimedGrid(
            2, clock, lambda node, i, m: (1, Message(content("here"), reply_to=m) if node == 100 else None)
        )
        assert said(carried(grid)) == {100: "here"}
        assert clock.now == TIMEOUT

    def test_waits_once_where_others_died_and_asked_for_everything(self, clock):
        """As before, two requests in vain followed each other twice: four times the timeout."""

        def act(node, i, message):
            died = Message(Error(CRASHED, "killed"), reply_to=message)
            asks = Message(ask_for_everything(elsewhere=False), reply_to=message)
            replies = {100: (), 101: (died, asks), 102: (asks,)}[node]
            return 1, replies[i] if i < len(replies) else None

        grid = TimedGrid(3, clock, act)
        assert carried(grid, lambda sent, request: message_to(sent.metadata.dst_node_id)) == []
        assert clock.now == TIMEOUT

    def test_asks_again_while_the_others_work(self, clock):
        def act(node, i, message):
            if node == 100:
                return 50, Message(content("slow"), reply_to=message)
            first = Message(Error(CRASHED, "killed"), reply_to=message)
            asks = Message(ask_for_everything(elsewhere=False), reply_to=message)
            return 2, (first, asks, Message(content("at last"), reply_to=message))[i]

        grid = TimedGrid(2, clock, act)
        assert said(carried(grid, lambda sent, request: message_to(101))) == {100: "slow", 101: "at last"}
        assert grid.requests == [(100, 0.0), (101, 0.0), (101, 2.0), (101, 4.0)]
        assert clock.now == 50.0

    def test_asks_a_node_again_once_for_each_reason(self, clock):
        asking = TimedGrid(1, clock, lambda node, i, m: (1, Message(ask_for_everything(elsewhere=False), reply_to=m)))
        (last,) = carried(asking, lambda sent, request: message_to(100))
        assert asks_for_everything(last.content)
        dying = TimedGrid(1, clock, lambda node, i, m: (1, Message(Error(CRASHED, "killed"), reply_to=m)))
        assert said(carried(dying)) == {100: CRASHED}
        assert (len(asking.requests), len(dying.requests)) == (2, 2)
        assert clock.now == 4.0

    @pytest.mark.parametrize(("code", "there"), [(OWN_FAULT, True), (UNAVAILABLE, True), (GONE, False)])
    def test_asks_none_again_that_would_fail_again_or_is_gone(self, clock, code, there):
        grid = TimedGrid(1, clock, lambda node, i, m: (1, Message(Error(code, "no"), reply_to=m)))
        messages = [message_to(100)]
        if not there:
            grid.contexts = {}
        assert said(carry(grid, messages, TIMEOUT, None)) == {100: code}
        assert len(grid.requests) == 1

    def test_looks_less_often_where_the_grid_does_not_say_how_often(self, clock, monkeypatch):
        looks = []

        class Remote(TimedGrid):
            def pull_messages(self, message_ids):
                looks.append(clock.now)
                return super().pull_messages(message_ids)

        monkeypatch.delattr(TimedGrid, "pull_interval")
        monkeypatch.delattr(FakeGrid, "pull_interval")
        grid = Remote(1, clock, lambda node, i, m: (2.5, Message(content("here"), reply_to=m)))
        assert said(carried(grid)) == {100: "here"}
        assert looks == [0.0, LOOK_SECONDS, 2 * LOOK_SECONDS, 3 * LOOK_SECONDS]

    def test_looks_less_often_while_many_nodes_work(self, clock):
        looks = []

        class Crowded(TimedGrid):
            def pull_messages(self, message_ids):
                looks.append(clock.now)
                return super().pull_messages(message_ids)

        nodes = 4 * NODES_AT_A_LOOK
        grid = Crowded(nodes, clock, lambda node, i, m: (9 if node == 100 else 8, Message(content("here"), reply_to=m)))
        assert len(carried(grid)) == nodes
        assert [(at, looks.count(at)) for at in sorted(set(looks))] == [
            (0.0, nodes),
            (4.0, nodes),
            (8.0, nodes),
            (9.0, 1),
        ]


class TestARun:
    """The server's app on such a grid, with the client's."""

    def run(self, path, clock, seconds, **options):
        """Run; seconds: (grid, node, request to it, exchange) -> how long it works, or None: it never replies."""
        config = run_config(path, client_batching="loop", reply_timeout=TIMEOUT, **options)

        def act(node, i, message):
            duration = seconds(grid, node, i, read_numbers(message.content).acknowledgements.exchange)
            return duration, None if duration is None else lambda: client_app(message, grid.contexts[node])

        grid = TimedGrid(2, clock, act, config.to_flat())
        server_app(grid, Context(1, 0, {}, RecordDict(), config.to_flat()))
        return grid, pd.read_csv(path / "ledger.csv", keep_default_na=False)

    def test_waits_once_per_exchange_for_a_node_that_never_replies(self, tmp_path, clock):
        _, ledger = self.run(tmp_path / "run", clock, lambda grid, node, i, t: 1.0 if node == 100 or t == 0 else None)
        assert ledger.left_out.tolist() == ["", *["3 late; 4 late"] * 5]
        assert clock.now == 1.0 + 5 * TIMEOUT

    def test_takes_no_late_reply_for_one_to_the_next_exchange(self, tmp_path, clock):
        grid, ledger = self.run(
            tmp_path / "run", clock, lambda grid, node, i, t: 1.5 * TIMEOUT if (node, t) == (101, 2) else 1.0
        )
        assert ledger.left_out.tolist() == ["", "", "3 late; 4 late", "", "", ""]
        assert len(grid.due) == 1  # the late one: nobody has pulled it

    @pytest.mark.parametrize("downlink", ["update", "compressed"])
    def test_leaves_alone_what_nodes_still_read_when_another_asks_for_everything(self, tmp_path, clock, downlink):
        def forgetful(slow):
            def seconds(grid, node, i, exchange):
                if (node, i, exchange) == (101, 3, 3):
                    grid.contexts[101].state = RecordDict()
                return slow if node == 100 and exchange == 3 else 0.0

            return seconds

        options = {"downlink": downlink, "factor_exchange": "alternating", "momentum": 0.5}
        for slow in (0.0, 50.0):
            grid, ledger = self.run(tmp_path / f"{slow}", clock, forgetful(slow), **options)
            assert sum(node == 101 for node, _ in grid.requests) == 7
            assert (ledger.faults == 0).all()
        runs = [(tmp_path / f"{slow}" / "weights.safetensors").read_bytes() for slow in (0.0, 50.0)]
        assert runs[0] == runs[1]
