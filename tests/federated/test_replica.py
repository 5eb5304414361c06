"""Nodes that hear what the server heard make the same model of it, bit for bit."""

import pandas as pd
import pytest
import torch

from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.federated.client import ClientState
from laser_fl.federated.optimizer import OptimizerConfig
from laser_fl.federated.replica import OutOfSyncError, Replica, ReplicaState, ReplicaUpdate
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.registry import UPDATE_FILTERS
from simulations.engines import in_process
from tests.effort import pairs
from tests.grids import run_on_grid
from tests.helpers import BECOMES_LASER, SHAPES, VARIANTS, answer, names, tensors, zero_losses

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
    assert ledger.downlink_floats.tolist() == [start, *(num_values + 2 for num_values in ([*sent] * 3)[:-1])]


@pytest.mark.parametrize("optimizer_config", names(STEPPINGS))
@pytest.mark.parametrize("receiver", names(UPDATE_FILTERS))
@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_replica_goes_on_from_its_state_as_if_it_had_never_stopped(optimizer_config, receiver, steps):
    config = parse(STEPPINGS[optimizer_config])
    noise = dict.fromkeys(SHAPES, torch.tensor(20.0, dtype=torch.float64))
    replica = Replica.new(tensors(clients=None), OptimizerConfig.of(config, 10, ["hidden bias"], receiver))
    for t in range(steps):
        replica.step(tensors(clients=None, seed=t), noise)
    state = replica.state(steps, {"basis": torch.ones(2)}).copied()
    parsed = ReplicaState.parse(state.numbers, state.model, state.shared)
    assert (parsed.exchange, parsed.optimizer_config, parsed.steps, parsed.rates) == (
        state.exchange, state.optimizer_config, state.steps, state.rates,
    )  # fmt: skip
    other = Replica(parsed)
    for t in range(steps, 9):
        for one in (replica, other):
            one.step(tensors(clients=None, seed=t), noise)
        assert replica.rates == other.rates
        assert all(torch.equal(replica.weights[n], other.weights[n]) for n in replica.weights)


class TestFollowing:
    def gradients(self, broadcast, memory):
        return encode_update(broadcast, tensors(seed=broadcast.context.round), zero_losses(), memory)

    def run(self, server, client_state, rounds):
        for _ in range(rounds):
            told = server.broadcast()
            reply, client_state = answer(told, client_state, range(4), self.gradients)
            server.aggregate([reply])
        return client_state

    def server(self):
        return Server(
            parse({"downlink": "compressed", "clients": 4, "momentum": 0.9}), tensors(clients=None), RoundSchedule(20)
        )

    def test_news_that_is_heard_twice_changes_nothing(self):
        server = self.server()
        client_state = self.run(server, ClientState(), 3)
        told = server.broadcast()
        for _ in range(2):
            _, client_state = answer(
                told, client_state, range(4), lambda broadcast, memory: self.gradients(broadcast, {})
            )
            assert all(torch.equal(w, server.global_model.weights[n]) for n, w in client_state.follower.weights.items())

    def test_who_missed_an_exchange_says_so_and_begins_again_with_everything(self):
        server = self.server()
        early = self.run(server, ClientState(), 2)
        weights = {n: w.clone() for n, w in early.follower.weights.items()}
        late = self.run(server, self.copy(early), 2)
        assert late.follower is not early.follower
        with pytest.raises(OutOfSyncError, match="exchange 3 was sent to a node that has followed 1"):
            answer(server.broadcast(), early, range(4), self.gradients)
        assert all(torch.equal(w, weights[n]) for n, w in early.follower.weights.items())
        again = server.resync(missed=True)
        assert isinstance(again.sync, ReplicaState)
        _, caught_up = answer(again, early, range(4), self.gradients)
        assert all(torch.equal(w, server.global_model.weights[n]) for n, w in caught_up.follower.weights.items())
        self.run(server, caught_up, 3)

    def test_what_is_told_again_is_counted(self):
        num_values = []
        for again in (False, True):
            server = self.server()
            client_state = self.run(server, ClientState(), 2)
            state = (server.resync(missed=True) if again else server.broadcast()).sync
            self.run(server, client_state, 1)
            num_values.append(server.ledger[-1].downlink_floats)
        assert isinstance(state, ReplicaState)
        assert state.num_values == 2 * server.parameters + sum(
            t.numel() for t in state.shared.values()
        )  # with momentum
        assert num_values[1] == num_values[0] + state.num_values

    def test_news_without_a_replica_is_refused(self):
        server = self.server()
        self.run(server, ClientState(), 1)
        assert isinstance(server.broadcast().sync, ReplicaUpdate)
        with pytest.raises(OutOfSyncError, match="exchange 0 was sent to a node that follows nobody"):
            answer(server.broadcast(), ClientState(), range(4), self.gradients)

    def copy(self, client_state):
        from laser_fl.federated.replica import ReplicaFollower

        memory = {name: m.clone() for name, m in client_state.memory.items()}
        return ClientState(memory, {}, ReplicaFollower(client_state.follower.state.copied()))


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
    assert (ledger.transmitters == 0).any()
    assert (ledger.faults == 0).all()
    for file in ("weights.safetensors", "metrics.csv"):
        assert (tmp_path / "model" / file).read_bytes() == (tmp_path / "compressed" / file).read_bytes()
