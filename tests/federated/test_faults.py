"""A fault costs its clients the round, and nobody else: nothing is lost and nothing counts twice."""

import math
import random
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
import torch

from laser_fl.blocks import Block
from laser_fl.config import parse
from laser_fl.federated.acknowledgements import KINDS, Acknowledgements
from laser_fl.federated.client import ClientGroup, restore_unacknowledged
from laser_fl.federated.loop import Server
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.pipeline import encode_update
from laser_fl.schemes.approximation import Dense, LowRank, OwnIndices, SharedIndices, SubspaceAndColumns
from simulations.progress import Reporter
from tests.effort import THOROUGH, pairs
from tests.faults import SPOILERS, faulty_run, single, spoil
from tests.helpers import SHAPES, VARIANTS, context, exact, names, scheme, tensors

REMEMBERING = [name for name in VARIANTS if scheme(name).traits.error_feedback]
SHORT = {"model": "linear", "clients": 5, "batch-size": 16, "rounds": 6, "evaluate-every": 3}


def part(kind):
    """Something of that kind for a block of 5 x 4, stored transposed, and two clients."""
    generator = torch.Generator().manual_seed(3)
    drawn = torch.randn(2, 4, 5, dtype=torch.float64, generator=generator)
    left, right = torch.split(torch.randn(2, 9, 2, dtype=torch.float64, generator=generator), [5, 4], dim=1)
    places = torch.tensor([[3, 19, 0], [7, 2, 11]])
    return {
        Dense: lambda: Dense(drawn),
        LowRank: lambda: LowRank(Block("w", (4, 5), True), left, right),
        SubspaceAndColumns: lambda: SubspaceAndColumns(
            Block("w", (4, 5), True), right, left, places[0, ::2], (drawn - right @ left.mT)[..., places[0, ::2]]
        ),
        SharedIndices: lambda: SharedIndices(places[0], drawn.view(2, -1)[:, places[0]]),
        OwnIndices: lambda: OwnIndices(places, drawn.view(2, -1).gather(1, places)),
    }[KINDS[kind]]()


class TestWhatWasLostComesBack:
    @pytest.mark.parametrize("kind", names(KINDS))
    def test_restoring_undoes_leaving(self, kind):
        kept = part(kind)
        before = part("Dense").values.clone()  # of which the values at indices are a part
        corrected = before.clone()
        kept.subtract_from_(corrected)
        assert not torch.equal(corrected, before)
        kept.add_to_(corrected)
        torch.testing.assert_close(corrected, before, rtol=1e-14, atol=1e-14)

    @pytest.mark.parametrize("transposed", [False, True])
    @pytest.mark.parametrize("round", [0, 1, 2])
    @pytest.mark.parametrize("name", REMEMBERING)
    def test_it_does_for_all_that_schemes_keep(self, name, round, transposed):
        chosen = scheme(name)
        blocks = context().blocks
        if transposed:
            blocks = tuple(replace(b, transposed=len(b.shape) == 2) for b in blocks)
        shared = {n: t.double() for n, t in chosen.init(blocks, context().streams).items()}
        phases = len(chosen.traits.phase_shares)
        for t, phase in product(range(round + 1), range(phases)):
            ctx = replace(context(round=t, phase=phase), blocks=blocks)
            corrected = tensors(seed=t)
            signals, kept = chosen.encode(corrected, shared, ctx)
            assert phase == phases - 1 or not kept  # it is stated once a round
            _, shared = chosen.decode(exact(signals), shared, ctx)
        assert list(kept) == list(SHAPES)
        for n, one in kept.items():
            whole = corrected[n].clone()
            one.subtract_from_(whole)
            assert not torch.equal(whole, corrected[n])
            one.add_to_(whole)
            torch.testing.assert_close(whole, corrected[n], rtol=1e-13, atol=1e-13)


def losses_of(here):
    return torch.zeros(len(here.context.participants), dtype=torch.float64)


def gradients_of(ctx, clients):
    drawn = tensors(clients=clients, seed=ctx.round)
    return {name: g[list(ctx.participants)] for name, g in drawn.items()}


class Books:
    """By client and block: the gradients that it had, and what was taken of what it said."""

    def __init__(self, clients):
        self.had, self.taken = ({n: t * 0 for n, t in tensors(clients=clients).items()} for _ in range(2))

    def add(self, book, clients, values):
        for row, client in enumerate(clients):
            for n in SHAPES:
                book[n][client] += values[n][row]

    def take(self, reply, clients):
        """Note what `clients`, of those of `reply`, said."""
        for in_flight in reply.client_update.in_flight:
            whole = {n: torch.zeros(len(in_flight.clients), *shape).double() for n, shape in SHAPES.items()}
            for n, kept in in_flight.approximations.items():
                kept.add_to_(whole[n])
            rows = [row for row, client in enumerate(in_flight.clients) if client in clients]
            self.add(self.taken, [in_flight.clients[row] for row in rows], {n: w[rows] for n, w in whole.items()})

    def agree(self, client, memory, row):
        return all(
            torch.allclose(self.taken[n][client] + memory[n][row], self.had[n][client], rtol=1e-9, atol=1e-9)
            for n in SHAPES
        )


SITUATIONS = {
    "all there": {},
    "some absent": {"fraction": 0.7},
    "fading": {"channel": "fading", "gain-threshold": 0.7, "fraction": 0.8},
}


@pytest.mark.parametrize(("name", "situation"), pairs(REMEMBERING, SITUATIONS))
@pytest.mark.parametrize("seed", range(3 if THOROUGH else 1))
def test_what_was_taken_and_what_is_remembered_is_all_there_was(name, situation, seed):
    """Whatever subset of replies the server takes, and whoever misses a broadcast: Σ taken + memory = Σ gradients."""
    chance, clients = random.Random(seed), 6
    options = {"clients": clients, "seed": seed, "norm-cap": "inf", "max-retries": 10**6, "power": 5e3}
    options |= {"compression-factor": 0.3}
    server = Server(parse(options | VARIANTS[name] | SITUATIONS[situation]), tensors(clients=None), RoundSchedule(12))
    books, lost = Books(clients), 0
    shares = [range(0, 2), range(2, 3), range(3, 6)]

    def respond(here, memory):
        ctx = here.context
        if ctx.phase:
            return encode_update(here, None, losses_of(here), memory)
        gradients = gradients_of(ctx, clients)
        books.add(books.had, ctx.participants, gradients)
        return encode_update(here, gradients, losses_of(here), memory)

    hosts = [ClientGroup(share, respond) for share in shares]
    said = {}
    while not server.finished:
        told = server.broadcast()
        replies = []
        for i, group in enumerate(hosts):
            if chance.random() < 0.15:
                continue  # it misses the broadcast
            said[i] = group.answer(told)
            if chance.random() < 0.8:
                replies += [one for one in single(said[i], told.context.transmitters) if chance.random() < 0.8]
            lost += len(said[i].clients)
        server.aggregate(replies)
        for reply in said.values():
            fresh = [
                c
                for c in reply.clients
                if server._last_acknowledged[c] == reply.exchange == told.acknowledgements.exchange
            ]
            books.take(reply, fresh)
        lost -= sum(taken == told.acknowledgements.exchange for taken in server._last_acknowledged)
    assert lost > 10
    after = Acknowledgements(10**6, tuple(server._last_acknowledged))
    for share, group in zip(shares, hosts, strict=True):
        memory = restore_unacknowledged(group.client_state, after, share).memory
        for client in share:
            assert not memory or books.agree(client, memory, client - share.start)


class Spoiled:
    """A run of a few clients, whose replies a test can spoil; the gradients are drawn by round."""

    def __init__(self, clients=4, rounds=12, power="inf", **options):
        values = {"clients": clients, "power": power, "norm-cap": 1e6, "learning-rate": 1.0} | options
        self.server = Server(parse(values), tensors(clients=None), RoundSchedule(rounds))
        self.group = ClientGroup(range(clients), self.respond)
        self.answers = 0

    def respond(self, here, memory):
        self.answers += 1
        clients = self.server.config.clients
        return encode_update(
            here, None if here.context.phase else gradients_of(here.context, clients), losses_of(here), memory
        )

    def exchange(self, hows=None):
        """One exchange; hows: by client, how its reply is spoilt. Returns what `aggregate` does."""
        told = self.server.broadcast()
        replies, faults = [], []
        for reply in single(self.group.answer(told), told.context.transmitters):
            (client,) = reply.clients
            some, known = spoil(reply, hows[client]) if hows and client in hows else ([reply], [])
            replies, faults = replies + some, faults + known
        return self.server.aggregate(replies[::-1], faults)

    def weights(self):
        return {n: w.clone() for n, w in self.server.global_model.weights.items()}


class TestEveryFault:
    BAD = (1, 3)

    @pytest.mark.parametrize("how", names(SPOILERS))
    def test_leaves_out_its_clients_and_the_update_is_the_mean_of_the_others(self, how):
        run = Spoiled(5, strategy="sgd")
        for t in range(3):
            before = run.weights()
            assert run.exchange(dict.fromkeys(self.BAD, how) if t != 1 else None)
            others = [0, 2, 4] if t != 1 else list(range(5))
            for n, g in tensors(clients=5, seed=t).items():
                torch.testing.assert_close(before[n] - run.weights()[n], g[others].mean(dim=0), rtol=1e-12, atol=1e-12)
        kind = SPOILERS[how][0]
        lines = run.server.ledger
        assert [(line.participants, line.transmitters) for line in lines] == [(3, 3), (5, 5), (3, 3)]
        assert [(line.faults, line.retries) for line in lines] == [(2, 0), (0, 0), (2, 0)]
        assert [line.left_out for line in lines] == [f"1 {kind}; 3 {kind}", "", f"1 {kind}; 3 {kind}"]

    @pytest.mark.parametrize("how", names(SPOILERS))
    def test_in_the_first_phase_keeps_a_client_out_of_the_second(self, how):
        """What it had to say waits: the next round's update holds it."""
        run = Spoiled(3, strategy="laser", **{"factor-exchange": "two-phase"})
        bias = "hidden bias"  # all of which is sent
        first, second = (tensors(clients=3, seed=t)[bias] for t in range(2))
        before = run.weights()
        assert not run.exchange({1: how})
        assert run.server.broadcast().context.participants == (0, 2)
        assert run.exchange()
        torch.testing.assert_close(before[bias] - run.weights()[bias], first[[0, 2]].mean(dim=0))
        before = run.weights()
        assert not run.exchange()
        assert run.server.broadcast().context.participants == (0, 1, 2)
        assert run.exchange()
        torch.testing.assert_close(before[bias] - run.weights()[bias], second.mean(dim=0) + first[1] / 3)
        assert run.server.ledger[0].left_out == f"1 {SPOILERS[how][0]}"

    def test_a_stale_reply_beside_a_good_one_costs_nothing(self):
        """As from a node that was slow, and asked again."""
        run = Spoiled(3, strategy="sgd")
        run.exchange()
        told = run.server.broadcast()
        replies = list(single(run.group.answer(told), told.context.transmitters))
        assert run.server.aggregate([*replies, replace(replies[1], exchange=0)])
        assert (run.server.ledger[-1].participants, run.server.ledger[-1].faults) == (3, 0)

    def test_of_a_reply_of_many_costs_only_those_whose_values_are_bad(self):
        run = Spoiled(4, strategy="laser")
        reply = run.group.answer(run.server.broadcast())
        losses = reply.client_update.losses.clone()
        losses[2] = math.nan
        assert run.server.aggregate([replace(reply, client_update=replace(reply.client_update, losses=losses))])
        assert run.server.ledger[-1].left_out == "2 not-finite"

    def test_buffers_that_are_not_finite_do_not_reach_the_server(self):
        buffers = {"mean": torch.zeros(3)}
        server = Server(
            parse({"clients": 3, "strategy": "sgd"}), tensors(clients=None), RoundSchedule(2), buffers=buffers
        )
        received = torch.arange(9.0).view(3, 3)
        received[1, 2] = math.inf

        def respond(here, memory):
            return encode_update(here, gradients_of(here.context, 3), losses_of(here), memory, {"mean": received})

        server.aggregate([ClientGroup(range(3), respond).answer(server.broadcast())])
        assert server.ledger[-1].left_out == "1 not-finite"
        assert server.global_model.buffers["mean"].tolist() == [3.0, 4.0, 5.0]

    def test_is_named_in_the_ledger_and_on_the_progress_line(self, tmp_path, monkeypatch):
        hows = {(1, 4): "a loss that is NaN", (1, 0): "nothing comes", (4, 2): "its node fails"}
        reports = []
        summary, _ = faulty_run(
            monkeypatch,
            parse(SHORT),
            tmp_path / "run",
            lambda t, c, _: hows.get((t, c)),
            [Reporter("one", reports.append)],
        )
        ledger = pd.read_csv(tmp_path / "run" / "ledger.csv", keep_default_na=False)
        assert ledger.left_out.tolist() == ["", "0 late; 4 not-finite", "", "", "2 raised", ""]
        assert ledger.faults.tolist() == [0, 2, 0, 0, 1, 0]
        assert [r.warning for r in reports if r.warning] == [
            "round 2: left out client 0: no reply came; client 4: its gradient or loss is not finite; "
            "a lower learning-rate or more power may help",
            "round 5: left out client 2: its node failed: out of memory",
        ]
        assert (summary["total_faults"], summary["total_retries"]) == (3, 0)


class TestAPhaseInWhichAllWhoSpokeBeforeAreLeftOut:
    @pytest.mark.parametrize("downlink", ["model", "compressed"])
    def test_is_a_round_in_which_nobody_spoke(self, downlink):
        options = {"factor-exchange": "two-phase", "downlink": downlink, "channel": "fading", "gain-threshold": 0.7}
        run, emptied = Spoiled(4, rounds=20, strategy="laser", momentum=0.9, power=1e3, **options), 0
        while not run.server.finished:
            ctx, before = run.server.broadcast().context, run.weights()
            hows = {}
            if ctx.phase == 1 and ctx.round % 2 and 0 < len(ctx.transmitters) < len(ctx.participants):
                hows = dict.fromkeys(ctx.transmitters, "nothing comes")
            ended = run.exchange(hows)
            if hows:
                emptied += 1
                assert ended
                assert run.server.ledger[-1].transmitters == 0
                assert all(torch.equal(w, before[n]) for n, w in run.weights().items())
        assert emptied > 2
