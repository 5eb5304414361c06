"""One client's absurd values spoil nothing for the others, and what it had to say is not lost."""

import math

import pandas as pd
import pytest
import torch

from laser_fl.clipping import WINDOW, along, refuse_overflow
from laser_fl.config import parse
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.federated.acknowledgements import Acknowledgements
from laser_fl.federated.client import ClientGroup, restore_unacknowledged
from laser_fl.federated.loop import Server
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.pipeline import encode_update
from laser_fl.transport.messages import read_broadcast, write_broadcast
from simulations.engines import in_process
from tests.effort import few, pairs
from tests.federated.test_faults import REMEMBERING, Books, gradients_of, losses_of
from tests.helpers import SHAPES, VARIANTS, scheme, tensors

NOISY = [name for name in VARIANTS if not scheme(name).traits.noiseless and not scheme(name).traits.digital]
USUAL = ["laser", "laser two-phase", "random-k", "z-sgd", "a-dsgd"]
CLIENTS, BAD = 5, 3
SPOILT = WINDOW + 2  # the round in which a client's gradient is out of all bounds


class Run:
    """Clients of normal gradients; spoilt: by round, what those of one of them are multiplied with."""

    def __init__(self, name, spoilt, rounds=WINDOW + 15, **options):
        values = {"clients": CLIENTS, "learning-rate": 1.0, "power": 2e3, "compression-factor": 0.3} | options
        self.server = Server(parse(values | VARIANTS[name]), tensors(clients=None), RoundSchedule(rounds))
        self.spoilt, self.books, self.norm_bounds = spoilt, Books(CLIENTS), []
        self.group = ClientGroup(range(CLIENTS), self.respond)

    def respond(self, here, memory):
        ctx = here.context
        if ctx.phase:
            return encode_update(here, None, losses_of(here), memory)
        gradients = gradients_of(ctx, CLIENTS)
        if ctx.round in self.spoilt and BAD in ctx.participants:
            for g in gradients.values():
                g[ctx.participants.index(BAD)] *= self.spoilt[ctx.round]
        self.books.add(self.books.had, ctx.participants, gradients)
        return encode_update(here, gradients, losses_of(here), memory)

    def go(self, rounds=10**6):
        while not self.server.finished and self.server.round < rounds:
            told = self.server.broadcast()
            self.norm_bounds.append(told.norm_bounds)
            self.reply = self.group.answer(told)
            self.server.aggregate([self.reply])
            self.books.take(
                self.reply,
                [c for c in range(CLIENTS) if self.server._last_acknowledged[c] == told.acknowledgements.exchange],
            )
        return self

    def column(self, name):
        return [getattr(line, name) for line in self.server.ledger]


class TestOneClientOutOfAllBounds:
    ROUND = WINDOW + 2

    @pytest.mark.parametrize("name", few(NOISY, *USUAL))
    def test_raises_the_noise_by_no_more_than_the_cap(self, name):
        run = Run(name, {self.ROUND: 1e6}, **{"power-allocation": "uniform", "norm-cap": 4}).go()
        noise = run.column("noise_std")
        most = max(noise[: self.ROUND])
        assert max(noise) <= 4 * 1.2 * most  # the norms of a round are not all the largest
        assert run.column("left_out") == [""] * len(noise)
        assert max(run.column("max_power_used")) <= 2e3 * (1 + 1e-5)

    @pytest.mark.parametrize("name", few(NOISY, *USUAL))
    def test_would_raise_it_without_one(self, name):
        if name == "signum":
            return  # its signals are as large as ever
        run = Run(name, {self.ROUND: 500.0}, **{"power-allocation": "uniform", "norm-cap": "inf"}).go()
        noise = run.column("noise_std")
        assert max(noise[self.ROUND :]) > 20 * max(noise[: self.ROUND])

    @pytest.mark.parametrize(("name", "factor"), pairs(REMEMBERING, [1e6, 50.0]))
    def test_remembers_what_it_did_not_send(self, name, factor):
        run = Run(name, {self.ROUND: factor}, **{"norm-cap": 4})
        for t in range(self.ROUND, self.ROUND + 8):
            run.go(t + 1)
            books = run.books
            for client in range(CLIENTS):
                for n in SHAPES:
                    left = books.taken[n][client] + run.group.client_state.memory[n][client]
                    if run.server._last_acknowledged[client] != run.reply.exchange:
                        continue  # what it said is still pending
                    torch.testing.assert_close(left, books.had[n][client], rtol=1e-9, atol=1e-9 * factor)
        assert run.column("left_out") == [""] * len(run.server.ledger)

    @pytest.mark.parametrize("name", few(REMEMBERING, *USUAL))
    def test_says_the_rest_in_the_rounds_after(self, name):
        if name == "d-dsgd":
            return  # its links carry so little that it always remembers much
        run = Run(name, {self.ROUND: 20.0}, rounds=60, **{"norm-cap": 2, "compression-factor": 0.9})
        calm = Run(name, {}, rounds=60, **{"norm-cap": 2, "compression-factor": 0.9}).go(self.ROUND)
        run.go(self.ROUND + 1)
        first = self.remembered(run)
        run.go()
        assert self.remembered(run) < 0.5 * first
        assert self.remembered(calm) < 0.5 * first

    def remembered(self, run):
        return math.sqrt(sum(float(m[BAD].square().sum()) for m in run.group.client_state.memory.values()))

    def test_before_anything_is_usual_is_left_out_where_it_is_absurd(self):
        run = Run("z-sgd", {2: 1e6}, **{"norm-cap": 10}).go(5)
        assert run.column("left_out") == ["", "", f"{BAD} norm", "", ""]


class TestCaps:
    def test_are_told_once_it_is_known_what_is_usual(self):
        run = Run("laser", {}, **{"norm-cap": 3.0}).go()
        assert run.norm_bounds[:WINDOW] == [{}] * WINDOW
        assert all(list(norm_bounds) == list(SHAPES) for norm_bounds in run.norm_bounds[WINDOW:])
        received = read_broadcast(
            write_broadcast(Run("laser", {}, rounds=30, **{"norm-cap": 3.0}).go(WINDOW).server.broadcast())
        )
        assert list(received.norm_bounds) == list(SHAPES)

    def test_are_multiples_of_the_largest_of_the_last_medians(self):
        scales = [1.0, 5.0, *[2.0] * 12]
        server = Server(
            parse({"strategy": "z-sgd", "clients": 3, "norm-cap": 7}), tensors(clients=None), RoundSchedule(14)
        )
        ones = {n: torch.ones(3, *shape).double() for n, shape in SHAPES.items()}
        size = torch.tensor([1.0, 10.0, 3.0])

        def respond(here, memory):
            scale = scales[here.context.round] * size
            return encode_update(here, {n: g * along(scale, g) for n, g in ones.items()}, losses_of(here), {})

        group = ClientGroup(range(3), respond)
        while server.round < 13:
            norm_bounds = server.broadcast().norm_bounds
            most = {10: 5.0, 11: 5.0, 12: 2.0}.get(server.round)
            for n, g in ones.items() if most else ():
                assert norm_bounds[n] == pytest.approx(7 * most * 3.0 * float(g[0].norm()))
            server.aggregate([group.answer(server.broadcast())])

    def test_are_counted_in_the_side_channel(self):
        with_caps, without = (
            Run("laser", {}, **{"norm-cap": cap}).go().column("side_channel_floats") for cap in (10, "inf")
        )
        more = [a - b for a, b in zip(with_caps, without, strict=True)]
        assert more == [0] * WINDOW + [len(SHAPES)] * 15

    def test_are_off_unless_asked_for(self):
        """An honest gradient of a hundred times the usual is taken as it is."""
        run = Run("z-sgd", {SPOILT: 100.0}).go()
        assert not any(run.norm_bounds)
        assert run.column("clipped") == run.column("faults") == [0] * len(run.server.ledger)

    @pytest.mark.parametrize("name", [*REMEMBERING, "z-sgd"])
    def test_count_in_the_ledger_whom_they_clip(self, name):
        run = Run(name, {SPOILT: 1e6}, **{"norm-cap": 8}).go(SPOILT + 1)
        assert run.column("clipped") == [0] * SPOILT + [1]
        if name == "z-sgd":
            assert run.go().column("clipped") == [0] * SPOILT + [1] + [0] * (len(run.server.ledger) - SPOILT - 1)

    def test_lose_what_they_cut_off_where_there_is_no_error_feedback(self):
        run = Run("z-sgd", {SPOILT: 60.0}, **{"norm-cap": 4}).go(SPOILT + 1)
        for n, cap in run.norm_bounds[SPOILT].items():
            whole = 60 * tensors(clients=CLIENTS, seed=SPOILT)[n][BAD]
            torch.testing.assert_close(run.reply.client_update.signals[n][BAD], whole * (cap / whole.norm()))
        run.go(SPOILT + 2)
        assert run.group.client_state.memory == {}
        for n, signal in run.reply.client_update.signals.items():
            assert torch.equal(signal, tensors(clients=CLIENTS, seed=SPOILT + 1)[n])

    def test_are_no_smaller_than_what_is_usual(self):
        with pytest.raises(ConfigError, match=r"norm-cap: must be at least 1 \(inf: none\), got 0.5"):
            parse({"norm-cap": 0.5})

    @pytest.mark.thorough
    @pytest.mark.product
    @pytest.mark.parametrize("partition", ["iid", "shards"])
    @pytest.mark.parametrize(
        "name",
        [
            *("laser", "laser one-shot", "random-k"),
            *(pytest.param(n, marks=pytest.mark.long) for n in ("laser two-phase", "z-sgd", "a-dsgd", "d-dsgd")),
        ],
    )
    def test_change_nothing_among_honest_clients(self, tmp_path, name, partition):
        options = {"rounds": 60, "clients": 8, "partition": partition, "evaluate-every": 30, "power": 100.0}
        for cap in ("10", "inf"):
            in_process.run(parse(VARIANTS[name] | options | {"norm-cap": cap}), tmp_path / cap)
        ledgers = [pd.read_csv(tmp_path / cap / "ledger.csv") for cap in ("10", "inf")]
        pd.testing.assert_frame_equal(*(ledger.drop(columns="side_channel_floats") for ledger in ledgers))
        assert ledgers[0].faults.sum() == 0
        for file in ("weights.safetensors", "metrics.csv"):
            assert (tmp_path / "10" / file).read_bytes() == (tmp_path / "inf" / file).read_bytes()


class TestAGradientThatIsNotFinite:
    @pytest.mark.parametrize(("name", "value"), pairs(VARIANTS, [math.nan, math.inf, -math.inf]))
    def test_costs_its_client_the_round_and_nothing_else(self, name, value):
        """It is as if the client had had no gradient: it is back in the next round, with what it remembered before."""
        run = Run(name, {4: value}, rounds=8).go()
        assert run.column("left_out") == ["", "", "", "", f"{BAD} not-finite", "", "", ""]
        assert run.column("participants") == [5, 5, 5, 5, 4, 5, 5, 5]
        assert all(w.isfinite().all() for w in run.server.global_model.weights.values())
        assert all(memory.isfinite().all() for memory in run.group.client_state.memory.values())
        run = Run(name, {4: value}, rounds=8).go(5)
        after = restore_unacknowledged(
            run.group.client_state, Acknowledgements(9, tuple(run.server._last_acknowledged)), range(CLIENTS)
        ).memory
        before = Run(name, {}, rounds=8).go(4).group.client_state.memory
        for n in after:
            torch.testing.assert_close(after[n][BAD], before[n][BAD], rtol=1e-12, atol=1e-12)

    def test_nor_do_others_of_its_group_see_it(self):
        """One value among many that are batched together."""
        run, calm = (Run("laser", spoilt, rounds=6) for spoilt in ({2: math.nan}, {}))
        run.go(3)
        calm.go(3)
        others = [client for client in range(CLIENTS) if client != BAD]
        for n in SHAPES:
            assert torch.equal(run.group.client_state.memory[n][others], calm.group.client_state.memory[n][others])


@pytest.mark.parametrize("largest", [0.0, 1.0, 1e30, 3e38, math.inf, math.nan])
def test_an_estimate_is_refused_where_its_norm_is_no_number(largest):
    """Also where the squares of its values are none, though the norm is one."""
    tensors = {"a": torch.ones(3), "b": torch.tensor([1.0, -largest, largest, 0.0])}
    if largest <= 1e30:
        refuse_overflow(tensors, 4)
    else:
        with pytest.raises(TrainingError, match=r"round 5: the received estimate of b is too large"):
            refuse_overflow(tensors, 4)
