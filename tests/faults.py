"""Faulty replies, and engines in which they occur. Imported by tests only, after the type-checking hook."""

import math
from dataclasses import replace

import pytest
import torch
from flwr.app import Context, Error, Message, RecordDict

from clients.client_app import app as client_app
from laser_fl.federated.validation import Fault, Reply
from simulations.engines import in_process
from strategies.server_app import app as server_app
from tests.grids import Clock, FakeGrid


def single(reply, transmitters):
    """Split a reply into replies of one client each; what is in flight stays with the client group."""
    rows = {client: row for row, client in enumerate(c for c in reply.clients if c in transmitters)}
    for row, client in enumerate(reply.clients):
        client_update = reply.client_update.of([row], [rows[client]] if client in rows else [])
        if client not in rows:  # a node whose client is in outage has no signals to name
            client_update = type(client_update).in_outage(client_update.losses, client_update.buffers)
        yield Reply(reply.exchange, (client,), client_update)


def _with(**values):
    """Return a spoiler that replaces parts of the client update, each by a function of the update."""

    def spoil(reply):
        parts = {name: value(reply.client_update) for name, value in values.items()}
        return [replace(reply, client_update=replace(reply.client_update, **parts))], []

    return spoil


def _never(kind, reason):
    return lambda reply: ([], [Fault(client, kind, reason) for client in reply.clients])


def _one_nan(tensors):
    """Return the tensors with a NaN as the last one's last value."""
    *others, (name, last) = tensors.items()
    spoilt = last.clone()
    spoilt.view(-1)[-1] = math.nan
    return dict(others) | {name: spoilt}


def _first_longer(tensors):
    (name, first), *others = tensors.items()
    return {name: torch.cat([first, first], dim=-1), **dict(others)}


# Faults of a client's reply, by name: the kind under which the ledger records it, and the spoiler that makes it so.
# The faults of signals need a reply that has some.
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
        _with(signals=lambda up: {name + "!": signal for name, signal in up.signals.items()}),
    ),
    "a signal is missing": ("names", _with(signals=lambda up: dict(list(up.signals.items())[1:]))),
    "signals in another order": ("names", _with(signals=lambda up: dict(list(up.signals.items())[::-1]))),
    "an unknown buffer": ("names", _with(buffers=lambda up: up.buffers | {"count": torch.zeros(1)})),
    "a signal too long": ("shapes", _with(signals=lambda up: _first_longer(up.signals))),
    "signals of another type": (
        "shapes",
        _with(signals=lambda up: {name: signal.half() for name, signal in up.signals.items()}),
    ),
    "norms of one signal less": ("shapes", _with(signal_norms=lambda up: up.signal_norms[:, 1:])),
    "a signal with a NaN": ("not-finite", _with(signals=lambda up: _one_nan(up.signals))),
    "an infinite signal": (
        "not-finite",
        _with(signals=lambda up: {name: signal * math.inf for name, signal in up.signals.items()}),
    ),
    "a norm that is NaN": ("not-finite", _with(signal_norms=lambda up: up.signal_norms * math.nan)),
    "an infinite norm": ("not-finite", _with(signal_norms=lambda up: up.signal_norms + math.inf)),
    "a gradient norm that is NaN": ("not-finite", _with(gradient_norms=lambda up: up.gradient_norms * math.nan)),
    "a loss that is NaN": ("not-finite", _with(losses=lambda up: up.losses * math.nan)),
    "an infinite loss": ("not-finite", _with(losses=lambda up: up.losses + math.inf)),
    "a norm above all others": (
        "norm",
        _with(
            signals=lambda up: {name: 1e5 * signal for name, signal in up.signals.items()},
            signal_norms=lambda up: 1e5 * up.signal_norms,
        ),
    ),
    "a norm below what was reported": ("norm", _with(signal_norms=lambda up: 1.01 * up.signal_norms)),
    "a norm above what was reported": ("norm", _with(signal_norms=lambda up: 0.99 * up.signal_norms)),
    "a negative norm": ("norm", _with(signal_norms=lambda up: -up.signal_norms)),
}


def spoil(reply, how):
    """Spoil a reply. Returns (replies that arrive, faults that the engine knows). how: a name of SPOILERS."""
    return SPOILERS[how][1](reply)


class FaultyEngine(in_process.InProcess):
    """An engine in which every client's reply arrives by itself, if it arrives.

    choose: (exchange, client, True if it transmits) -> name of the spoiler of its reply, or None.

    injected: (round, client, kind) of all spoilt replies.
    """

    def __init__(self, setup, choose):
        super().__init__(setup)
        self.choose, self.injected = choose, []

    def advance(self):
        broadcast = self.server.broadcast()
        replies, faults = [], []
        for reply in single(self._group.answer(broadcast), broadcast.context.transmitters):
            (client,) = reply.clients
            transmits = bool(reply.client_update.signals)
            if (how := self.choose(broadcast.acknowledgements.exchange, client, transmits)) is None:
                replies.append(reply)
                continue
            self.injected.append((broadcast.context.round + 1, client, SPOILERS[how][0]))
            some, known = spoil(reply, how)
            replies += some
            faults += known
        return self.server.aggregate(replies, faults)


def faulty_run(monkeypatch, config, path, choose, callbacks=()):
    """Run in-process with faults. Returns (summary, injected faults)."""
    engines = []

    def engine(setup):
        engines.append(FaultyEngine(setup, choose))
        return engines[0]

    with monkeypatch.context() as patch:
        patch.setattr(in_process, "InProcess", engine)
        summary = in_process.run(config, path, callbacks)
    return summary, engines[0].injected


class FaultyGrid(FakeGrid):
    """A grid on which some nodes fail; choose: (number of the request, node) -> the failure, or None.

    killed: the node dies before it works. killed at work: its files have changed, but its records of them have not.
    lost: it does its work, but its reply never arrives. garbled: the arriving message is no reply.
    """

    def __init__(self, nodes, run_config, choose, answer=client_app):
        super().__init__(nodes, run_config, self.try_to_answer)
        self.choose, self.really, self.requests, self.log = choose, answer, -1, []

    def try_to_answer(self, message, context):
        failure = self.choose(self.requests, context.node_id - 100)
        self.log.append(failure)
        if failure == "killed":
            return Message(Error(code=1, reason="killed"), reply_to=message)
        before = RecordDict(dict(context.state))  # records are replaced, never changed
        reply = self.really(message, context)
        if failure == "killed at work":
            context.state = before
            return Message(Error(code=1, reason="killed at work"), reply_to=message)
        if failure == "garbled":
            del reply.content["reply"]
        return None if failure == "lost" else reply

    def request(self, messages):
        self.requests += 1
        return super().request(messages)


def run_on(grid, config):
    """Run the server's app on a grid, from start to end; a reply that never comes is not waited for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("strategies.node_messenger.time", Clock(least=100.0))
        server_app(grid, Context(1, 0, {}, RecordDict(), config.to_flat()))
