"""Grids of nodes in this process, healthy and faulty. Imported by tests only, after the type-checking hook."""

from flwr.app import ConfigRecord, Context, RecordDict
from flwr.serverapp import Grid

from clients.client_app import app as client_app
from laser_fl.config import parse
from laser_fl.transport.messages import read_numbers
from laser_fl.transport.shared_memory import _mapped
from strategies.server_app import app as server_app

SHORT = {"model": "linear", "clients": 5, "batch-size": 16, "rounds": 6, "evaluate-every": 3}


class Clock:
    """A clock that stands still but while somebody sleeps; least: seconds that each sleep takes."""

    def __init__(self, least=0.0):
        self.now, self.least = 0.0, least

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += max(seconds, self.least)


class FakeGrid(Grid):
    """A grid of nodes in this process, which map files as others would; replies arrive out of order, as they may.

    Those of one request arrive one by one, the last node's first.
    """

    pull_interval = 0.0

    def __init__(self, nodes, run_config, answer=client_app):
        self.answer = answer
        self.contexts = {
            100 + i: Context(1, 100 + i, {"partition-id": i, "num-partitions": nodes}, RecordDict(), run_config)
            for i in range(nodes)
        }
        self.sent, self.arriving = 0, {}

    def set_run(self, run):
        raise AssertionError

    @property
    def run(self):
        raise AssertionError

    def create_message(self, *args, **kwargs):
        raise AssertionError

    def send_and_receive(self, messages, *, timeout=None):
        raise AssertionError

    def push_messages(self, messages):
        for message in messages:
            self.sent += 1
            message.metadata.__dict__["_message_id"] = f"message {self.sent}"
        numbers = [message.metadata.message_id for message in messages]
        replies = self.request(list(messages))
        self.arriving |= {number: reply for number, reply in zip(numbers, replies, strict=True) if reply is not None}
        return numbers

    def pull_messages(self, message_ids):
        (number,) = message_ids
        return [self.arriving.pop(number)] if [number] == [*self.arriving][-1:] else []

    def get_node_ids(self):
        return list(self.contexts)

    def request(self, messages):
        """Return the replies to messages that are sent together, in their order; None: none comes."""
        replies = []
        for message in messages[::-1]:
            _mapped.cache_clear()
            replies.append(self.answer(message, self.contexts[message.metadata.dst_node_id]))
        return replies[::-1]


def run_config(path, **values):
    return parse(SHORT | {k.replace("_", "-"): v for k, v in values.items()} | {"out-dir": str(path)})


def run_on_grid(config, nodes):
    flat = config.to_flat()
    context = Context(1, 0, {}, RecordDict(), flat)
    server_app(FakeGrid(nodes, flat), context)


class ScatteredGrid(FakeGrid):
    """A grid with some nodes on another host, which cannot see the server's files; far: round -> their ids."""

    def __init__(self, nodes, run_config, monkeypatch, far):
        super().__init__(nodes, run_config, self.somewhere)
        self.monkeypatch, self.far = monkeypatch, far

    def somewhere(self, message, context):
        round = read_numbers(message.content).exchange.round
        if context.node_id not in self.far(round):
            return client_app(message, context)
        with self.monkeypatch.context() as patch:
            patch.setattr("laser_fl.transport.shared_memory._this_host", lambda: "another")
            return client_app(message, context)


class ForgetfulGrid(FakeGrid):
    """A grid whose second node loses its replica before a round."""

    forgets = 3

    def request(self, messages):
        exchange = read_numbers(messages[0].content).exchange
        if len(messages) > 1 and (exchange.round, exchange.phase) == (self.forgets, 0):
            state = self.contexts[101].state
            saved = {key: value for key, value in state["client-state"].items() if not key.startswith("replica")}
            state["client-state"] = ConfigRecord(saved)
        return super().request(messages)


class WeighingGrid(FakeGrid):
    """A grid that records the largest number of bytes of arrays in any message or context."""

    heaviest = 0

    @property
    def states(self):
        return [context.state for context in self.contexts.values()]

    def request(self, messages):
        replies = super().request(messages)
        for records in (*(message.content for message in (*messages, *replies)), *self.states):
            sizes = [len(a.data) for record in records.array_records.values() for a in record.values()]
            self.heaviest = max(self.heaviest, sum(sizes))
        return replies
