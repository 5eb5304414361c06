"""Who is asked again says the same again, and a run that loses replies goes on as if it had not."""

import logging
import random
from typing import ClassVar

import pandas as pd
import pytest
import torch
from flwr.app import RecordDict

from laser_fl.config import parse
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.replica import OutOfSyncError
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.transport.arrays import take_tensors
from laser_fl.transport.messages import read_numbers
from laser_fl.transport.replies import read_reply
from tests.effort import pairs
from tests.faults import FaultyGrid, faulty_run, run_on
from tests.federated.test_faults import Spoiled
from tests.grids import SHORT, FakeGrid, run_config
from tests.helpers import names, tensors

CASES = {
    "laser": {},
    "two-phase": {"factor-exchange": "two-phase"},
    "random-k": {"strategy": "random-k"},
    "drifting copies": {"downlink": "update", "downlink-power": 1e4},
    "compressed": {"downlink": "compressed", "momentum": 0.9},
    "z-sgd": {"strategy": "z-sgd"},
}


class TestWhoIsAskedAgain:
    def everything(self, group):
        client_state = group.client_state
        follower = (
            {} if client_state.follower is None else client_state.follower.state.model | client_state.follower.shared
        )
        return [t.clone() for tree in (client_state.memory, client_state.copies, follower) for t in tree.values()]

    @pytest.mark.parametrize("case", names(CASES))
    def test_says_the_same_without_computing_it_and_holds_the_same(self, case):
        run = Spoiled(4, rounds=6, power=1e4, **CASES[case])
        while not run.server.finished:
            told = run.server.broadcast()
            said, client_state, answers = run.group.answer(told), self.everything(run.group), run.answers
            again = run.group.answer(run.server.broadcast())
            assert run.answers == answers
            assert again is said
            assert all(torch.equal(a, b) for a, b in zip(client_state, self.everything(run.group), strict=True))
            run.server.aggregate([again])

    @pytest.mark.parametrize(("case", "far"), pairs(CASES, [False, True]))
    def test_does_so_as_a_node(self, tmp_path, monkeypatch, case, far):
        """Also where nothing lies in files."""
        config = run_config(tmp_path / "run", **{k.replace("-", "_"): v for k, v in CASES[case].items()})
        if far:
            monkeypatch.setattr("strategies.over_the_air.SharedMemory.with_room", lambda size: None)
        grid = AskingTwice(2, config.to_flat())
        run_on(grid, config)
        assert grid.twice > 8


class AskingTwice(FakeGrid):
    """Every request but the first is sent twice; the second answer must be the first, and is what counts."""

    twice = 0

    def request(self, messages):
        first = self.said(super().request(messages))
        if read_numbers(messages[0].content).acknowledgements.exchange == 0:  # at which nodes begin anew
            return super().request(messages)
        client_state = self.client_state()

        def refuse(*args):
            raise AssertionError("it was computed again")

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("laser_fl.federated.local_training.LocalTrainer.answer", refuse)
            replies = super().request(messages)
        again = self.said(replies)
        self.twice += len(again)
        for a, b in ((first, again), (client_state, self.client_state())):
            assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
        return replies

    def said(self, replies):
        client_updates = [read_reply(reply.content).client_update for reply in replies]
        return [
            t.clone()
            for u in client_updates
            for t in (*u.signals.values(), u.signal_norms, u.losses, *u.buffers.values())
        ]

    def client_state(self):
        kinds = ("memory", "copies", "in-flight", "replica", "replica-shared")
        states = [context.state for context in self.contexts.values()]
        found = [
            take_tensors(state, "client-state", kind)
            for state in states
            for kind in kinds
            if kind in state or kind in state["client-state"]
        ]
        return [t.clone() for tensors in found for t in tensors.values()]


class TestTooFewAnswers:
    def test_repeat_the_exchange_which_costs_its_downlink_again(self):
        run = Spoiled(4, strategy="laser", **{"min-clients": 3, "max-retries": 2})
        assert run.exchange()
        told = run.server.broadcast()
        assert not run.exchange({0: "nothing comes", 2: "a loss that is NaN"})
        again = run.server.broadcast()
        assert again.acknowledgements == told.acknowledgements
        assert again.context == told.context
        assert run.exchange({3: "nothing comes"})
        first, second = run.server.ledger
        assert (second.retries, second.faults, second.participants) == (1, 3, 3)
        assert second.left_out == "0 late; 2 not-finite; 3 late"
        bases = sum(basis.numel() for basis in told.shared.values())
        assert second.downlink_floats == 2 * (run.server.parameters + bases)
        assert first.downlink_floats == run.server.parameters + sum(
            b.numel() for b in Spoiled(4, strategy="laser").server.broadcast().shared.values()
        )
        assert run.answers == 2

    @pytest.mark.parametrize("downlink", ["model", "update"])
    @pytest.mark.parametrize("exchange", ["alternating", "two-phase"])
    def test_cost_all_that_was_transmitted_again(self, exchange, downlink):
        """The broadcast and what clients report beside the air, but the air itself is used once."""
        options = {"factor-exchange": exchange, "downlink": downlink, "downlink-power": 50.0, "bandwidth": 10.0}
        run = Spoiled(4, strategy="laser", **{"min-clients": 4, "power": 30.0}, **options)
        while len(run.server.ledger) < 3:
            first = run.server.broadcast().context.phase == 0
            if len(run.server.ledger) == 2 and first:
                assert not run.exchange({1: "nothing comes"})
                assert not run.exchange(dict.fromkeys(range(4), "nothing comes"))
            run.exchange()
        _, once, thrice = run.server.ledger
        signals, size = 4, run.server.parameters
        assert (once.retries, thrice.retries) == (0, 2)
        assert (once.downlink_energy, thrice.downlink_energy) == (50.0, 150.0)
        assert thrice.latency_seconds - once.latency_seconds == pytest.approx(
            (2 * size + thrice.channel_uses - once.channel_uses) / 10
        )
        again = thrice.side_channel_floats - once.side_channel_floats  # two norms per signal, of the first repeat alone
        assert again == 2 * (signals if exchange == "alternating" else 3)
        assert thrice.uplink_energy <= 4 * 30.0 * (1 + 1e-5)
        assert once.channel_uses <= size

    def test_repeat_the_phase_that_lacks_them_and_not_the_one_before(self):
        run = Spoiled(4, **{"factor-exchange": "two-phase", "min-clients": 4})
        run.exchange()
        assert run.server.broadcast().acknowledgements.exchange == 1
        assert not run.exchange({1: "its node fails"})
        assert run.server.broadcast().acknowledgements.exchange == 1
        assert run.exchange()
        assert (run.server.ledger[0].retries, run.server.ledger[0].participants) == (1, 4)

    @pytest.mark.parametrize("retries", [0, 2])
    def test_stop_the_run_in_the_end_which_says_why(self, retries):
        run = Spoiled(4, **{"min-clients": 3, "max-retries": retries})
        run.exchange()
        for _ in range(retries):
            assert not run.exchange({1: "nothing comes", 2: "a loss that is NaN"})
        line = (
            rf"round 2: client 1: its node failed: out of memory; 2 of 4 clients answered as they should, in "
            rf"{retries + 1} tries, and min-clients is 3"
        )
        with pytest.raises(TrainingError, match=line):
            run.exchange({1: "its node fails", 2: "a loss that is NaN"})

    def test_are_counted_anew_in_every_round(self):
        run = Spoiled(4, **{"min-clients": 4, "max-retries": 1})
        for _ in range(5):
            assert not run.exchange({2: "nothing comes"})
            assert run.exchange()
        assert [line.retries for line in run.server.ledger] == [1] * 5

    def test_are_no_matter_where_fewer_were_drawn(self):
        run = Spoiled(6, **{"min-clients": 6, "fraction": 0.5, "dropout-rate": 0.5})
        for _ in range(12):
            assert run.exchange()
        participants = [line.participants for line in run.server.ledger]
        assert 0 in participants
        assert max(participants) <= 3
        assert sum(line.retries for line in run.server.ledger) == 0

    def test_more_than_there_are_clients_are_refused(self):
        with pytest.raises(ConfigError, match="min-clients: must be at most the 3 clients, got 4"):
            Server(parse({"clients": 3, "min-clients": 4}), tensors(clients=None), RoundSchedule(1))

    def test_stop_a_whole_run_whose_folder_says_why(self, tmp_path, monkeypatch):
        config = parse(SHORT | {"min-clients": 5, "max-retries": 1})
        with pytest.raises(TrainingError, match="round 4: client 3: no reply came; 4 of 5 clients"):
            faulty_run(
                monkeypatch, config, tmp_path / "run", lambda t, c, _: "nothing comes" if (t, c) == (3, 3) else None
            )
        assert '"status": "failed"' in (tmp_path / "run" / "summary.json").read_text()
        assert len(pd.read_csv(tmp_path / "run" / "ledger.csv")) == 3


FATES = ("killed", "killed at work", "lost")


class TestAGridOfNodesThatFail:
    def options(self, case, **more):
        return {k.replace("-", "_"): v for k, v in (CASES[case] | {"client-batching": "loop"} | more).items()}

    @pytest.mark.parametrize(("case", "files"), pairs(CASES, [True, False]))
    def test_and_are_waited_for_gives_the_undisturbed_run_bit_for_bit(self, tmp_path, monkeypatch, case, files):
        if not files:
            monkeypatch.setattr("strategies.over_the_air.SharedMemory.with_room", lambda size: None)
        whole = run_config(tmp_path / "whole", **self.options(case, rounds=6))
        run_on(FakeGrid(3, whole.to_flat()), whole)
        chance = random.Random(case)
        config = run_config(
            tmp_path / "faulty", **self.options(case, rounds=6, **{"min-clients": 5, "max-retries": 1000})
        )
        grid = FaultyGrid(3, config.to_flat(), lambda request, node: chance.choice([*FATES, *[None] * 7]))
        run_on(grid, config)
        assert len({*FATES} & set(grid.log)) > 1
        weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "faulty")]
        assert weights[0] == weights[1]
        down = ["downlink_energy", "downlink_floats", "side_channel_floats", "latency_seconds"]  # count once more
        costs = ["faults", "retries", "left_out", *down]
        for file, more in (("metrics.csv", ["energy", "latency_seconds"]), ("ledger.csv", costs)):
            tables = [pd.read_csv(tmp_path / name / file, keep_default_na=False) for name in ("whole", "faulty")]
            assert tables[0].drop(columns=more).to_csv() == tables[1].drop(columns=more).to_csv()
            assert (tables[0][more[-1]] <= tables[1][more[-1]]).all()
        ledgers = tables
        assert ledgers[1].retries.sum() > 2
        assert ledgers[0].faults.sum() == 0


class TestAGridOfNodesThatAreNotWaitedFor:
    KINDS: ClassVar = {"killed": "raised", "killed at work": "raised", "lost": "late", "garbled": "malformed"}

    @pytest.mark.parametrize(("case", "fate"), pairs(CASES, KINDS))
    def test_goes_on_without_the_clients_of_those_that_fail(self, tmp_path, caplog, case, fate):
        """In every second case where nobody knows yet who they are; and they are back in the next round."""
        request_number = 2 * ((names(CASES).index(case) + names(self.KINDS).index(fate)) // 2 % 2)
        config = run_config(tmp_path / "run", rounds=4, **{k.replace("-", "_"): v for k, v in CASES[case].items()})
        logging.getLogger("flwr").addHandler(caplog.handler)
        try:
            failing = (request_number, 1)
            run_on(FaultyGrid(3, config.to_flat(), lambda *place: fate if place == failing else None), config)
        finally:
            logging.getLogger("flwr").removeHandler(caplog.handler)
        ledger = pd.read_csv(tmp_path / "run" / "ledger.csv", keep_default_na=False)
        (bad,) = (row for row in ledger.index if ledger.left_out[row])
        who = f"2 {self.KINDS[fate]}; 3 {self.KINDS[fate]}"
        assert (ledger.left_out[bad], ledger.faults[bad], ledger.retries.sum()) == (who, 2, 0)
        assert ledger.participants.tolist() == [3 if row == bad else 5 for row in ledger.index]
        (told,) = {message for message in caplog.messages if message.startswith(f"round {bad + 1}: left out ")}
        assert "client 2: " in told
        assert "; client 3: " in told


class TestANodeThatMissedAnUpdate:
    """Where clients' copies of the model follow the server's updates."""

    def run(self, tmp_path, choose, **options):
        config = run_config(
            tmp_path / "run", downlink="update", client_batching="loop", min_clients=1, rounds=6, **options
        )
        run_on(FaultyGrid(3, config.to_flat(), choose), config)
        return pd.read_csv(tmp_path / "run" / "ledger.csv", keep_default_na=False)

    @pytest.mark.parametrize("options", [{}, {"factor_exchange": "two-phase"}], ids=str)
    def test_is_told_the_model_which_the_ledger_counts(self, tmp_path, options):
        phases = 1 + len(options)
        ledger = self.run(tmp_path, lambda t, node: "killed" if (t, node) == (2 * phases, 1) else None, **options)
        assert ledger.participants.tolist() == [5, 5, 3, 5, 5, 5]
        assert ledger.left_out[2] == "2 raised; 3 raised"
        more = ledger.downlink_floats - ledger.downlink_floats.shift(2)
        assert more[3] == 7850
        assert more[2] == more[4] == 0

    def test_follows_the_server_again(self):
        run = Spoiled(4, rounds=12, downlink="update")
        early, late = (ClientGroup(share, run.respond) for share in (range(3), range(3, 4)))
        for t in range(8):
            told = run.server.broadcast()
            replies = [early.answer(told)]
            if t not in (3, 4):
                if t == 5:
                    with pytest.raises(OutOfSyncError, match="round 6: the update before it was missed"):
                        late.answer(told)
                    told = run.server.resync(missed=True)
                replies.append(late.answer(told))
                for n, w in run.server.global_model.weights.items():
                    torch.testing.assert_close(late.client_state.copies[n][0], w)
            run.server.aggregate(replies)
        assert [line.participants for line in run.server.ledger] == [4, 4, 4, 3, 3, 4, 4, 4]

    def test_is_back_when_it_was_started_anew(self, tmp_path):
        def choose(request, node):
            if (request, node) == (3, 1):
                grids[0].contexts[101].state = RecordDict()
            return

        grids = []
        config = run_config(tmp_path / "run", downlink="update", downlink_power=1e5)
        grids.append(FaultyGrid(3, config.to_flat(), choose))
        run_on(grids[0], config)
        assert pd.read_csv(tmp_path / "run" / "ledger.csv").participants.tolist() == [5] * 6
