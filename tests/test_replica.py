"""Nodes that hear what the server heard make the same model of it, bit for bit."""

import pandas as pd
import pytest
import torch

from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.federated.client import Held
from laser_fl.federated.optimizer import Stepping
from laser_fl.federated.replica import News, OutOfStepError, Replica, State
from laser_fl.federated.schedule import Plan
from laser_fl.federated.server import Training
from laser_fl.pipeline import send
from laser_fl.registry import RECEIVERS
from simulations.engines import in_process
from tests.effort import pairs
from tests.grids import run_on_grid
from tests.helpers import BECOMES_LASER, SHAPES, VARIANTS, answer, names, silent_losses, tensors

SHORT = {"model": "linear", "clients": 5, "batch-size": 16, "rounds": 6, "evaluate-every": 3, "downlink": "compressed"}
STEPPINGS = {
    "momentum": {"momentum": 0.9, "weight-decay": 0.01},
    "plain": {},
    "adamw, one cycle": {"optimizer": "adamw", "lr-schedule": "one-cycle"},
    "cosine": {"lr-schedule": "cosine", "momentum": 0.5},
    "step": {"lr-schedule": "step", "lr-decay-at": 0.5},
}
SITUATIONS = {
    "everybody": {},
    "some": {"fraction": 0.4, "dropout-rate": 0.2},
    "silent rounds": {"channel": "fading", "gain-threshold": 2.0, "clients": 3},
}


@pytest.mark.parametrize(("variant", "situation"), pairs(VARIANTS, SITUATIONS))
def test_a_run_is_the_run_with_the_model_broadcast(tmp_path, variant, situation):
    compare_downlinks(tmp_path, VARIANTS[variant] | SITUATIONS[situation])


def test_a_run_that_becomes_laser_is_the_run_with_the_model_broadcast(tmp_path):
    compare_downlinks(tmp_path, BECOMES_LASER)
    sent = pd.read_csv(tmp_path / "compressed" / "ledger.csv").uplink_floats
    assert {2 * 784 + 10, 2 * 10 + 10} & set(sent)
    assert set(sent) - {2 * 784 + 10, 2 * 10 + 10}


def compare_downlinks(tmp_path, options):
    config = SHORT | options | STEPPINGS["momentum"]
    for downlink in ("model", "compressed"):
        in_process.run(parse(config | {"downlink": downlink}), tmp_path / downlink)
    for file in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "compressed" / file).read_bytes()
    a, b = (pd.read_csv(tmp_path / downlink / "ledger.csv") for downlink in ("model", "compressed"))
    pd.testing.assert_frame_equal(a.drop(columns="downlink_floats"), b.drop(columns="downlink_floats"))


def test_the_ledger_counts_what_was_heard_of_each_signal_and_its_noise(tmp_path):
    in_process.run(parse(SHORT | {"rank": 2}), tmp_path / "run")
    ledger = pd.read_csv(tmp_path / "run" / "ledger.csv")
    start = 7850 + 10 * 2  # the model, and the first basis
    sent = [2 * 784 + 10, 2 * 10 + 10]  # a factor and the biases, in turn
    assert ledger.uplink_floats.tolist() == [*sent] * 3
    assert ledger.downlink_floats.tolist() == [start, *(floats + 2 for floats in ([*sent] * 3)[:-1])]


@pytest.mark.parametrize("stepping", names(STEPPINGS))
@pytest.mark.parametrize("receiver", names(RECEIVERS))
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_replica_goes_on_from_its_state_as_if_it_had_never_stopped(stepping, receiver, steps):
    config = parse(STEPPINGS[stepping])
    noise = dict.fromkeys(SHAPES, torch.tensor(20.0, dtype=torch.float64))
    replica = Replica.new(tensors(clients=None), Stepping.of(config, 10, ["hidden bias"], receiver))
    for t in range(steps):
        replica.step(tensors(clients=None, seed=t), noise)
    state = replica.state(steps, {"basis": torch.ones(2)}).copied()
    parsed = State.parse(state.numbers, state.model, state.shared)
    assert (parsed.exchange, parsed.stepping, parsed.steps, parsed.rates) == (
        state.exchange, state.stepping, state.steps, state.rates,
    )  # fmt: skip
    other = Replica(parsed)
    for t in range(steps, 9):
        for one in (replica, other):
            one.step(tensors(clients=None, seed=t), noise)
        assert replica.rates == other.rates
        assert all(torch.equal(replica.weights[n], other.weights[n]) for n in replica.weights)


class TestFollowing:
    def gradients(self, broadcast, memory):
        return send(broadcast, tensors(seed=broadcast.context.round), silent_losses(), memory)

    def run(self, training, held, rounds):
        for _ in range(rounds):
            told = training.broadcast()
            reply, held = answer(told, held, range(4), self.gradients)
            training.absorb([reply])
        return held

    def training(self):
        return Training(
            parse({"downlink": "compressed", "clients": 4, "momentum": 0.9}), tensors(clients=None), Plan(20)
        )

    def test_news_that_is_heard_twice_changes_nothing(self):
        training = self.training()
        held = self.run(training, Held(), 3)
        told = training.broadcast()
        for _ in range(2):
            _, held = answer(told, held, range(4), lambda broadcast, memory: self.gradients(broadcast, {}))
            assert all(torch.equal(w, training.server.weights[n]) for n, w in held.follower.weights.items())

    def test_who_missed_an_exchange_says_so_and_begins_again_with_everything(self):
        training = self.training()
        early = self.run(training, Held(), 2)
        weights = {n: w.clone() for n, w in early.follower.weights.items()}
        late = self.run(training, self.copy(early), 2)
        assert late.follower is not early.follower
        with pytest.raises(OutOfStepError, match="exchange 3 was told to a node that has followed 1"):
            answer(training.broadcast(), early, range(4), self.gradients)
        assert all(torch.equal(w, weights[n]) for n, w in early.follower.weights.items())
        again = training.start_over(missed=True)
        assert isinstance(again.told, State)
        _, caught_up = answer(again, early, range(4), self.gradients)
        assert all(torch.equal(w, training.server.weights[n]) for n, w in caught_up.follower.weights.items())
        self.run(training, caught_up, 3)

    def test_what_is_told_again_is_counted(self):
        floats = []
        for again in (False, True):
            training = self.training()
            held = self.run(training, Held(), 2)
            state = (training.start_over(missed=True) if again else training.broadcast()).told
            self.run(training, held, 1)
            floats.append(training.ledger[-1].downlink_floats)
        assert isinstance(state, State)
        assert state.floats == 2 * training.parameters + sum(t.numel() for t in state.shared.values())  # with momentum
        assert floats[1] == floats[0] + state.floats

    def test_news_without_a_replica_is_refused(self):
        training = self.training()
        self.run(training, Held(), 1)
        assert isinstance(training.broadcast().told, News)
        with pytest.raises(OutOfStepError, match="exchange 0 was told to a node that follows nobody"):
            answer(training.broadcast(), Held(), range(4), self.gradients)

    def copy(self, held):
        from laser_fl.federated.replica import Follower

        memory = {name: m.clone() for name, m in held.memory.items()}
        return Held(memory, {}, Follower(held.follower.state.copied()))


def test_a_noisy_downlink_is_refused():
    with pytest.raises(
        ConfigError, match=r"^downlink-power: must be inf \(no noise\) for downlink compressed, got 3\.0$"
    ):
        parse({"downlink": "compressed", "downlink-power": 3.0})


def test_nodes_follow_rounds_of_two_phases_in_which_nobody_speaks(tmp_path):
    config = SHORT | VARIANTS["laser two-phase"] | SITUATIONS["silent rounds"]
    for downlink in ("model", "compressed"):
        options = config | {"downlink": downlink, "out-dir": str(tmp_path / downlink)}
        run_on_grid(parse(options), 2)
    ledger = pd.read_csv(tmp_path / "model" / "ledger.csv")
    assert (ledger.speakers == 0).any()
    assert (ledger.faults == 0).all()
    for file in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "compressed" / file).read_bytes()
