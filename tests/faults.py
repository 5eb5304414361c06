"""Replies that are not as they must be, and engines in which there are such. Imported by tests only, after the hook."""

import math
from dataclasses import replace

import torch
from flwr.app import Context, Error, Message, RecordDict

from clients.client_app import app as client_app
from laser_fl.federated.validation import Fault, Reply
from simulations.engines import in_process
from strategies.server_app import app as server_app
from tests.grids import FakeGrid


def single(reply, speakers):
    """A reply as replies of one client each; what is pending stays with the host."""
    rows = {client: row for row, client in enumerate(c for c in reply.clients if c in speakers)}
    for row, client in enumerate(reply.clients):
        uplink = reply.uplink.of([row], [rows[client]] if client in rows else [])
        if client not in rows:  # a node whose client is silent has no signals to name
            uplink = type(uplink).silent(uplink.losses, uplink.buffers)
        yield Reply(reply.exchange, (client,), uplink)


def _saying(**values):
    """The reply with other parts of its uplink, each made of the uplink."""

    def spoil(reply):
        parts = {name: value(reply.uplink) for name, value in values.items()}
        return [replace(reply, uplink=replace(reply.uplink, **parts))], []

    return spoil


def _never(kind, reason):
    return lambda reply: ([], [Fault(client, kind, reason) for client in reply.clients])


def _one_nan(tensors):
    """The tensors with a NaN as the last one's last value."""
    *others, (name, last) = tensors.items()
    spoilt = last.clone()
    spoilt.view(-1)[-1] = math.nan
    return dict(others) | {name: spoilt}


def _first_longer(tensors):
    (name, first), *others = tensors.items()
    return {name: torch.cat([first, first], dim=-1), **dict(others)}


# What can be wrong with a client's reply: by a name, the kind by which the ledger calls it, and how to make it so.
# Whatever is said of signals needs a reply that has some.
SPOILERS = {
    "its node fails": ("raised", _never("raised", "its node failed: out of memory")),
    "nothing comes": ("late", lambda reply: ([], [])),
    "no reply by its form": ("malformed", _never("malformed", "reply: not what it must be")),
    "for somebody who does not exist": (
        "malformed",
        lambda reply: ([replace(reply, clients=(*reply.clients, 10**6 + max(reply.clients)))], []),
    ),
    "of the exchange before": ("round", lambda reply: ([replace(reply, exchange=reply.exchange - 1)], [])),
    "of the exchange after": ("round", lambda reply: ([replace(reply, exchange=reply.exchange + 1)], [])),
    "it comes twice": ("twice", lambda reply: ([reply, reply], [])),
    "a signal by another name": (
        "names",
        _saying(signals=lambda up: {name + "!": signal for name, signal in up.signals.items()}),
    ),
    "a signal is missing": ("names", _saying(signals=lambda up: dict(list(up.signals.items())[1:]))),
    "signals in another order": ("names", _saying(signals=lambda up: dict(list(up.signals.items())[::-1]))),
    "an unknown buffer": ("names", _saying(buffers=lambda up: up.buffers | {"count": torch.zeros(1)})),
    "a signal too long": ("shapes", _saying(signals=lambda up: _first_longer(up.signals))),
    "signals of another type": (
        "shapes",
        _saying(signals=lambda up: {name: signal.half() for name, signal in up.signals.items()}),
    ),
    "norms of one signal less": ("shapes", _saying(signal_norms=lambda up: up.signal_norms[:, 1:])),
    "a signal with a NaN": ("not-finite", _saying(signals=lambda up: _one_nan(up.signals))),
    "an infinite signal": (
        "not-finite",
        _saying(signals=lambda up: {name: signal * math.inf for name, signal in up.signals.items()}),
    ),
    "a norm that is NaN": ("not-finite", _saying(signal_norms=lambda up: up.signal_norms * math.nan)),
    "an infinite norm": ("not-finite", _saying(signal_norms=lambda up: up.signal_norms + math.inf)),
    "a gradient norm that is NaN": ("not-finite", _saying(gradient_norms=lambda up: up.gradient_norms * math.nan)),
    "a loss that is NaN": ("not-finite", _saying(losses=lambda up: up.losses * math.nan)),
    "an infinite loss": ("not-finite", _saying(losses=lambda up: up.losses + math.inf)),
    "a norm above all others": (
        "norm",
        _saying(
            signals=lambda up: {name: 1e5 * signal for name, signal in up.signals.items()},
            signal_norms=lambda up: 1e5 * up.signal_norms,
        ),
    ),
    "a norm below what was reported": ("norm", _saying(signal_norms=lambda up: 1.01 * up.signal_norms)),
    "a norm above what was reported": ("norm", _saying(signal_norms=lambda up: 0.99 * up.signal_norms)),
    "a negative norm": ("norm", _saying(signal_norms=lambda up: -up.signal_norms)),
}


def spoil(reply, how):
    """(what comes of a reply, the faults that the engine knows of); `how`: a name of SPOILERS."""
    return SPOILERS[how][1](reply)


class FaultyEngine(in_process.InProcess):
    """Every client's reply comes by itself, if it comes.

    choose: (exchange, client, whether it speaks) -> how its reply is spoilt, or None.

    injected: (round, client, kind) of all that was spoilt.
    """

    def __init__(self, setup, choose):
        super().__init__(setup)
        self.choose, self.injected = choose, []

    def advance(self):
        told = self.training.broadcast()
        replies, faults = [], []
        for reply in single(self._host.answer(told), told.context.speakers):
            (client,) = reply.clients
            if (how := self.choose(told.receipts.exchange, client, bool(reply.uplink.signals))) is None:
                replies.append(reply)
                continue
            self.injected.append((told.context.round + 1, client, SPOILERS[how][0]))
            some, known = spoil(reply, how)
            replies += some
            faults += known
        return self.training.absorb(replies, faults)


def faulty_run(monkeypatch, config, path, choose, observers=()):
    """An in-process run with faults: (summary, what was injected)."""
    engines = []

    def engine(setup):
        engines.append(FaultyEngine(setup, choose))
        return engines[0]

    with monkeypatch.context() as patch:
        patch.setattr(in_process, "InProcess", engine)
        summary = in_process.run(config, path, observers)
    return summary, engines[0].injected


class FaultyGrid(FakeGrid):
    """Nodes of which some fail; choose: (number of the request, node) -> what happens, or None.

    killed: it dies before it works. killed at work: its files have changed, but what it knows of them has not.
    lost: it does its work, but its reply never comes. garbled: what comes is no reply.
    """

    def __init__(self, nodes, run_config, choose, answer=client_app):
        super().__init__(nodes, run_config, self.try_to_answer)
        self.choose, self.really, self.requests, self.log = choose, answer, -1, []

    def try_to_answer(self, message, context):
        what = self.choose(self.requests, context.node_id - 100)
        self.log.append(what)
        if what == "killed":
            return Message(Error(code=1, reason="killed"), reply_to=message)
        before = RecordDict(dict(context.state))  # records are replaced, never changed
        reply = self.really(message, context)
        if what == "killed at work":
            context.state = before
            return Message(Error(code=1, reason="killed at work"), reply_to=message)
        if what == "garbled":
            del reply.content["reports"]
        return None if what == "lost" else reply

    def send_and_receive(self, messages, *, timeout=None):
        self.requests += 1
        return [reply for reply in super().send_and_receive(messages, timeout=timeout) if reply is not None]


def run_on(grid, config):
    """A whole run of the server's app on a grid."""
    server_app(grid, Context(1, 0, {}, RecordDict(), config.to_flat()))
