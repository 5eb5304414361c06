"""One client's absurd values spoil nothing for the others, and what it had to say is not lost."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_fl.blocks import PART, norms
from laser_fl.clipping import ABSURD, UsualNorms, clip_deviations, clip_shares, refuse_overflow
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
LINEAR = [name for name in REMEMBERING if name != "laser one-shot"]
CLIENTS, BAD = 5, 3
SPOILT = 3  # the round in which a client's gradient is out of all bounds


class Run:
    """Clients of normal gradients; spoilt: by round, what those of one of them are multiplied with."""

    def __init__(self, name, spoilt, rounds=18, **options):
        values = {"clients": CLIENTS, "learning-rate": 1.0, "power": 2e3, "compression-factor": 0.3} | options
        self.server = Server(parse(values | VARIANTS[name]), tensors(clients=None), RoundSchedule(rounds))
        self.spoilt, self.books = spoilt, Books(CLIENTS)
        self.group, self.update = ClientGroup(range(CLIENTS), self.respond), {}
        step = self.server.global_model.step
        self.server.global_model.step = lambda update, *more: (setattr(self, "update", update), step(update, *more))

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
            self.reply = self.group.answer(told)
            self.server.aggregate([self.reply])
        return self

    def column(self, name):
        return [getattr(line, name) for line in self.server.ledger]

    def memory(self):
        """Return the clients' memory once they know what the server has received."""
        before, after = self.group.client_state, self.server.broadcast().acknowledgements
        copy = replace(before, memory={n: memory.clone() for n, memory in before.memory.items()})
        return restore_unacknowledged(copy, after, range(CLIENTS)).memory


class TestOneClientOutOfAllBounds:
    @pytest.mark.parametrize("name", few(NOISY, *USUAL))
    def test_raises_the_noise_by_no_more_than_the_cap(self, name):
        options = {"power-allocation": "uniform", "norm-cap": 4}
        run, calm = (Run(name, spoilt, **options).go() for spoilt in ({SPOILT: 500.0}, {}))
        noise = run.column("noise_std")
        assert max(noise) <= 4 * 1.2 * max(calm.column("noise_std"))  # the bases of later rounds differ, too
        assert run.column("left_out") == [""] * len(noise)
        assert max(run.column("max_power_used")) <= 2e3 * (1 + 1e-5)

    @pytest.mark.parametrize("name", few(NOISY, *USUAL))
    def test_would_raise_it_without_one(self, name):
        if name == "signum":
            return  # its signals are as large as ever
        run = Run(name, {SPOILT: 500.0}, **{"power-allocation": "uniform", "norm-cap": "inf"}).go()
        noise = run.column("noise_std")
        assert max(noise[SPOILT:]) > 20 * max(noise[:SPOILT])

    @pytest.mark.parametrize("name", few(NOISY, *USUAL))
    def test_is_bounded_from_the_first_round_on(self, name):
        """There is no round in which a bound is not known yet."""
        if name == "signum":
            return
        first, calm = (
            Run(name, spoilt, **{"power-allocation": "uniform", "norm-cap": 2}).go(1).column("noise_std")[0]
            for spoilt in ({0: 500.0}, {})
        )
        assert first <= 2 * 1.2 * calm

    @pytest.mark.parametrize(("name", "factor"), pairs(REMEMBERING, [500.0, 50.0]))
    def test_remembers_what_it_did_not_send(self, name, factor):
        """Σ received + memory = Σ gradients, of the signals that enter the air and not of those that were wanted."""
        run = Run(name, {SPOILT: factor}, **{"norm-cap": 4})
        for t in range(SPOILT + 8):
            run.go(t + 1)
            run.books.add(run.books.taken, range(CLIENTS), self.sent(run))
            for n, remembered in run.memory().items():
                for client in range(CLIENTS):
                    left = run.books.taken[n][client] + remembered[client]
                    torch.testing.assert_close(left, run.books.had[n][client], rtol=1e-9, atol=1e-9 * factor)
        assert run.column("left_out") == [""] * len(run.server.ledger)
        assert run.column("clipped")[SPOILT] >= 1

    def sent(self, run):
        """Return the share of each client's approximations that entered the air, (clients, *shape)."""
        whole = {n: torch.zeros(CLIENTS, *shape).double() for n, shape in SHAPES.items()}
        for in_flight in run.reply.client_update.in_flight:
            for n, part in in_flight.approximations.items():
                part.add_to_(whole[n])
        for client, unsent in run.server.air.unsent.items():
            for n, share in unsent.items():
                whole[n][client] *= 1 - share
        return whole

    @pytest.mark.parametrize("name", few(LINEAR, *USUAL))
    def test_moves_the_mean_by_what_it_remembers_to_have_sent(self, name):
        """At infinite power the server receives the mean of what entered the air."""
        if len(scheme(name).traits.phase_shares) > 1 or name == "d-dsgd" or name.startswith("a-dsgd"):
            return  # the last phase's basis is not the first's; what a recovery makes of a projection is not linear
        run = Run(name, {SPOILT: 500.0}, **{"power": "inf", "norm-cap": 2}).go(SPOILT + 1)
        for n, update in run.update.items():
            torch.testing.assert_close(update, self.sent(run)[n].mean(dim=0), rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize("name", few(REMEMBERING, *USUAL))
    def test_says_the_rest_in_the_rounds_after(self, name):
        if name == "d-dsgd":
            return  # its links carry so little that it always remembers much
        run = Run(name, {SPOILT: 20.0}, rounds=60, **{"norm-cap": 2, "compression-factor": 0.9})
        run.go(SPOILT + 1)
        first = self.remembered(run)
        run.go(59)
        assert self.remembered(run) < 0.5 * first

    def remembered(self, run):
        return math.sqrt(sum(float(m[BAD].square().sum()) for m in run.memory().values()))

    @pytest.mark.parametrize("cap", [10, "inf"])
    def test_is_left_out_where_it_is_absurd(self, cap):
        run = Run("z-sgd", {2: 1e6}, **{"norm-cap": cap}).go(5)
        assert run.column("left_out") == ["", "", f"{BAD} norm", "", ""]


class TestUsualNorms:
    def test_grow_with_the_median_and_not_with_one_client(self):
        usual = UsualNorms()
        usual.observe(["w"], torch.tensor([[1.0], [2.0], [900.0]]).double())
        assert usual.largest == {"w": 2.0}
        usual.observe(["w"], torch.tensor([[0.1], [0.2], [0.3]]).double())
        assert usual.largest == {"w": 2.0}
        usual.observe(["w"], torch.tensor([[3.0], [4.0], [5.0]]).double())
        assert usual.largest == {"w": 4.0}

    def test_allow_for_those_that_grow_together(self):
        """When a run diverges, nobody is to blame."""
        bounds = UsualNorms({"w": 1.0}).bounds(["w"], torch.full((4, 1), 1e9).double())
        assert bounds.tolist() == [ABSURD * 1e9]

    def test_allow_for_a_single_hard_example_late_in_a_run(self):
        """Where most gradients have vanished, the one that has not is no fault."""
        late = torch.tensor([[1e-9], [1e-9], [1.0]]).double()
        assert (late.numpy() <= UsualNorms({"w": 1.0}).bounds(["w"], late)).all()

    def test_bound_nothing_as_long_as_nothing_is_usual(self):
        zeros = torch.tensor([[0.0], [0.0], [5.0]]).double()
        assert UsualNorms().bounds(["w"], zeros)[0] > 1e30

    def test_bound_nothing_where_too_few_transmit(self):
        """Nobody tells which of two is the odd one; and gradients that cancel may come before others."""
        assert UsualNorms({"w": 1e-8}).bounds(["w"], torch.tensor([[1.0], [0.5]]).double())[0] > 1e30

    def test_allow_for_a_small_block_that_was_a_rounding_error(self):
        norms = torch.tensor([[1e-9, 1.0], [1e-9, 1.0], [0.5, 1.0]]).double()
        assert (norms.numpy() <= UsualNorms().bounds(["bias", "weight"], norms)).all()


class TestCaps:
    def test_are_multiples_of_the_median_of_the_same_round(self):
        signal_norms = torch.tensor([[1.0, 4.0], [2.0, 4.0], [3.0, 40.0], [10.0, 4.0]]).double()
        shares = clip_shares(["a", "b"], signal_norms, 1.5)
        torch.testing.assert_close(shares, torch.tensor([[1, 1], [1, 1], [1, 6 / 40], [0.3, 1]]).double())

    def test_give_all_signals_of_a_block_one_share(self):
        names, signal_norms = ["a\tp", "a\tq", "b"], torch.tensor([[1.0, 1.0, 1.0]] * 3).double()
        names = [name.replace("\t", PART) for name in names]
        signal_norms[2] = torch.tensor([4.0, 2.0, 1.0])
        assert clip_shares(names, signal_norms, 1.0)[2].tolist() == [0.25, 0.25, 1.0]

    def test_of_a_signal_that_most_do_not_send_follow_the_others(self):
        signal_norms = torch.tensor([[0.0, 3.0], [0.0, 3.0], [0.0, 3.0], [30.0, 3.0]]).double()
        assert clip_shares(["a", "b"], signal_norms, 2.0)[3].tolist() == [0.2, 1.0]

    def test_clip_nobody_where_too_few_send(self):
        assert clip_shares(["a"], torch.tensor([[1.0], [100.0]]).double(), 1.0) is None
        assert clip_shares([], torch.zeros(4, 0).double(), 1.0) is None

    @given(
        st.lists(st.floats(0, 1e30), min_size=3, max_size=9),
        st.floats(1, 1e3),
        st.integers(1, 4),
    )
    def test_hold_for_every_norm(self, values, cap, bad):
        signal_norms = torch.tensor(values).double().unsqueeze(1)
        shares = clip_shares(["a"], signal_norms, cap)
        if shares is not None:
            most = cap * float(signal_norms.median())
            assert (shares * signal_norms <= most * (1 + 1e-5)).all()
            assert ((shares >= 0) & (shares <= 1)).all()
            assert (shares[signal_norms <= most] == 1).all()

    def test_are_told_with_the_next_broadcast(self):
        server = Run("laser", {SPOILT: 50.0}, **{"norm-cap": 4.0}).go(SPOILT + 1).server
        told = server.broadcast()
        assert list(told.acknowledgements.unsent) == [BAD]
        assert told.acknowledgements.unsent[BAD].keys() == SHAPES.keys()
        assert read_broadcast(write_broadcast(told)).acknowledgements == told.acknowledgements

    def test_are_counted_in_the_side_channel(self):
        """The bounds go down beside the amplitudes."""
        with_caps, without = (
            Run("laser", {}, **{"norm-cap": cap}).go().column("side_channel_floats") for cap in (10, "inf")
        )
        assert [a - b for a, b in zip(with_caps, without, strict=True)] == [len(SHAPES)] * len(without)

    def test_are_off_unless_asked_for(self):
        """An honest gradient of a hundred times the usual is taken as it is."""
        run = Run("z-sgd", {SPOILT: 100.0}).go()
        assert run.column("clipped") == run.column("faults") == [0] * len(run.server.ledger)

    @pytest.mark.parametrize("name", [*REMEMBERING, "z-sgd"])
    def test_count_in_the_ledger_whom_they_clip(self, name):
        run = Run(name, {SPOILT: 500.0}, **{"norm-cap": 8}).go(SPOILT + 1)
        assert run.column("clipped") == [0] * SPOILT + [1]
        if name == "z-sgd":
            assert run.go().column("clipped") == [0] * SPOILT + [1] + [0] * (len(run.server.ledger) - SPOILT - 1)

    def test_lose_what_they_cut_off_where_there_is_no_error_feedback(self):
        run = Run("z-sgd", {SPOILT: 60.0}, **{"norm-cap": 4, "power": "inf"}).go(SPOILT + 1)
        sent = run.reply.client_update.signals
        size = norms(sent, CLIENTS)
        for (n, signal), norm in zip(sent.items(), size.unbind(dim=1), strict=True):
            most = 4 * float(norm.median())
            clipped = torch.stack([s * min(1, most / float(one)) for s, one in zip(signal, norm, strict=True)])
            torch.testing.assert_close(run.update[n], clipped.mean(dim=0))
        assert run.memory() == {}

    def test_are_no_smaller_than_the_median(self):
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
    def test_change_nothing_where_nobody_exceeds_them(self, tmp_path, name, partition):
        options = {"rounds": 60, "clients": 8, "partition": partition, "evaluate-every": 30, "power": 100.0}
        for cap in ("100", "inf"):
            in_process.run(parse(VARIANTS[name] | options | {"norm-cap": cap}), tmp_path / cap)
        ledgers = [pd.read_csv(tmp_path / cap / "ledger.csv") for cap in ("100", "inf")]
        pd.testing.assert_frame_equal(*(ledger.drop(columns="side_channel_floats") for ledger in ledgers))
        assert ledgers[0].faults.sum() == 0
        for file in ("weights.safetensors", "metrics.csv"):
            assert (tmp_path / "100" / file).read_bytes() == (tmp_path / "inf" / file).read_bytes()


class TestWhatClientsReport:
    """Buffers and losses do not pass the air: the server sees each client's."""

    def test_is_no_further_from_the_middle_than_the_cap(self):
        values = {"b": torch.tensor([[1.0, 0.0], [1.1, 0.0], [0.9, 0.0], [1.0, 80.0]]).double()}
        clipped = clip_deviations(values, 4, 2.0)["b"]
        assert torch.equal(clipped[:3], values["b"][:3])
        torch.testing.assert_close(clipped[3], torch.tensor([1.0, 0.2]).double())

    def test_stays_as_it_is_without_a_cap_or_a_crowd(self):
        values = {"b": torch.tensor([1.0, 2.0, 1e6])}
        assert clip_deviations(values, 3, math.inf) is values
        assert clip_deviations({"b": values["b"][:2]}, 2, 1.0)["b"].tolist() == [1.0, 2.0]


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
