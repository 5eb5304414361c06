"""Clients of unequal size: each weighs by its examples, those without any never take part, and nothing else changes."""

import copy
import math

import numpy as np
import pandas as pd
import pytest
import torch

from laser_fl import OverTheAir
from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.participation import Population
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.setup import prepare, setup_of
from laser_fl.pipeline import encode_update
from laser_fl.rng import RandomStreams
from laser_fl.transport.arrays import read_tensors
from simulations.engines import in_process
from tests.federated.test_participation import FILES, assert_is_the_twins_run
from tests.grids import run_on_grid
from tests.helpers import aggregate, tensors
from tests.strategies.test_own_app import named, started, towards_one

SIZES = (1, 40, 0, 7, 1000, 3)
WEIGHED = {"client-weighting": "examples"}


@pytest.mark.parametrize(
    ("name", "channel", "allocation"),
    [
        ("z-sgd", "fading", "min-mse"),
        ("laser", "blind", "signal-norm"),
        ("laser two-phase", "fading", "min-mse"),
        ("laser one-shot", "blind", "gradient-norm"),
        ("signum", "fading", "signal-norm"),
        ("a-dsgd", "blind", "min-mse"),
        ("random-k", "fading", "uniform"),
    ],
)
def test_whole_runs_of_unequal_clients_equal_the_float64_twin(name, channel, allocation):
    """Over links that fade, with clients absent, in outage and without examples; whoever is there makes the mean."""
    assert_is_the_twins_run(name, channel, SIZES, **WEIGHED, **{"power-allocation": allocation})


class TestWeights:
    def population(self, sizes, **options):
        return Population.of(parse({"clients": len(sizes)} | WEIGHED | options), sizes)

    def test_are_the_clients_shares_of_the_examples_times_their_number(self):
        weights = self.population((1, 3, 0, 4)).weights([1, 3], [0, 1, 3])
        assert weights.tolist() == [3 * 3 / 8, 3 * 4 / 8]

    def test_are_not_there_where_all_clients_weigh_the_same(self):
        assert self.population((1, 3), **{"client-weighting": "equal"}).weights([0, 1], [0, 1]) is None

    @pytest.mark.parametrize(
        ("sizes", "line"),
        [
            ((), "sizes: must be each client's number of examples for client-weighting examples, got none"),
            ((1, 2), "sizes: must be of the 3 clients, got 2"),
            ((1, 2, -1), "sizes: must be numbers of examples, at least 0, got -1"),
            ((1, 2, 0.5), "sizes: must be numbers of examples, at least 0, got 0.5"),
            ((0, 0, 0), "sizes: must leave a client with examples, got none"),
        ],
    )
    def test_need_a_number_of_examples_of_each_client(self, sizes, line):
        with pytest.raises(ConfigError) as refusal:
            OverTheAir(tensors(clients=None), clients=3, client_weighting="examples", sizes=sizes)
        assert str(refusal.value) == line

    def test_are_those_of_the_clients_that_are_left_in_a_round(self):
        """A client that is left out gives its weight to the others."""
        server = Server(parse({"strategy": "sgd", "clients": 3} | WEIGHED), WEIGHTS, RoundSchedule(1), sizes=(1, 2, 5))
        before, gradients = server.global_model.weights["w"].clone(), {"w": torch.tensor([[1.0], [math.nan], [4.0]])}
        update, _ = encode_update(server.broadcast(), gradients, torch.tensor([3.0, math.nan, 9.0]), {})
        aggregate(server, update)
        assert server.ledger[0].left_out == "1 not-finite"
        moved = (before - server.global_model.weights["w"]) / server.config.learning_rate
        assert moved.item() == pytest.approx((1 * 1 + 5 * 4) / 6)
        assert server.train_loss == pytest.approx((1 * 3 + 5 * 9) / 6)


WEIGHTS = {"w": torch.zeros(1)}


class TestBuffersAndLosses:
    @pytest.mark.parametrize(("weighting", "mean"), [("equal", 4.0), ("examples", 1.6)])
    def test_have_the_same_weights_as_the_gradients(self, weighting, mean):
        """Participants in outage count, since both take the side channel."""
        options = {"clients": 2, "channel": "fading", "gain-threshold": 1.5, "strategy": "z-sgd", "power": 1e6}
        config = parse(options | {"client-weighting": weighting})
        buffers = {"running": torch.zeros(1)}
        server = Server(config, WEIGHTS, RoundSchedule(30), buffers=buffers, sizes=(9, 1))
        while True:
            told = server.broadcast()
            few = len(told.context.transmitters)
            rows = {"running": torch.tensor([[1.0], [7.0]])}
            update, _ = encode_update(told, {"w": torch.ones(2, 1)}, torch.tensor([1.0, 7.0]), {}, rows)
            aggregate(server, update)
            assert server.train_loss == pytest.approx(mean)
            if few == 1:
                break
        assert server.global_model.buffers["running"].item() == pytest.approx(mean)


def unequal(sizes, features=3, seed=0):
    """A task whose client i is group i, with so many examples."""
    generator = RandomStreams(seed).generator("unequal")
    count = sum(sizes)
    inputs = torch.randn(count, features, generator=generator, dtype=torch.float64)
    targets = inputs @ torch.arange(1.0, features + 1, dtype=torch.float64) + 0.1 * torch.randn(
        count, generator=generator, dtype=torch.float64
    )
    groups = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    data = Examples(inputs, targets.unsqueeze(1), groups)
    return Task(
        data, data, {"linear": lambda: torch.nn.Linear(features, 1).double()}, "loss", loss=torch.nn.functional.mse_loss
    )


def server_after(task, **options):
    keys = {name.replace("_", "-"): value for name, value in options.items()}
    config = parse({"task": "own", "model": "linear", "partition": "by-column", "batch-size": 4} | keys)
    run = InProcess(setup_of(config, task))
    while not run.server.finished:
        run.advance()
    return run.server


FEDAVG = {"clients": 4, "local_steps": 5, "learning_rate": 0.05, "rounds": 3, "client_batching": "loop"}


@pytest.mark.parametrize("options", [{"strategy": "sgd"}, {"strategy": "z-sgd", "power": math.inf}])
def test_local_steps_without_noise_are_federated_averaging_by_examples(options):
    """θ ← Σ_i n_i/n θ_i, the clients' own models after their steps, computed by hand."""
    sizes = (1, 5, 80, 300)
    task = unequal(sizes)
    server = server_after(task, **FEDAVG, **WEIGHED_KEY, **options)
    config = server.config
    sampler = task.train.sampler(config, range(4))
    module = task.network(config).module
    weight, bias = (p.detach().numpy().copy() for p in module.parameters())
    x, y = task.train.inputs.numpy(), task.train.targets.numpy()
    for t in range(3):
        models = []
        for rows in sampler.batch(t):
            w, b = weight.copy(), bias.copy()
            for step in rows.split(4):
                error = x[step] @ w.T + b - y[step]
                w, b = w - 0.05 * 2 * error.T @ x[step] / len(step), b - 0.05 * 2 * error.mean(axis=0)
            models.append((w, b))
        weight, bias = (sum(n / sum(sizes) * m[part] for n, m in zip(sizes, models, strict=True)) for part in (0, 1))
    got = server.global_model.weights
    np.testing.assert_allclose(got["weight"].numpy(), weight, rtol=1e-6)
    np.testing.assert_allclose(got["bias"].numpy(), bias, rtol=1e-6)


WEIGHED_KEY = {"client_weighting": "examples"}


class TestEmptyClients:
    SIZES = (0, 1, 1000, 0, 60)

    def run(self, **options):
        given = {"clients": 5, "rounds": 8, "power": 100.0, "learning_rate": 0.01, "empty_clients": "skip"}
        return server_after(unequal(self.SIZES), **given | options)

    def test_are_refused_in_a_line_that_names_the_remedy(self):
        line = (
            "partition: must leave an example to each client, or take empty-clients=skip; 2 have none, got 'by-column'"
        )
        with pytest.raises(ConfigError) as refusal:
            self.run(empty_clients="refuse")
        assert str(refusal.value) == line

    @pytest.mark.parametrize("weighting", ["equal", "examples"])
    def test_never_take_part(self, weighting):
        server = self.run(client_weighting=weighting)
        assert [record.participants for record in server.ledger] == [3] * 8
        assert [record.faults for record in server.ledger] == [0] * 8
        assert max(record.max_power_used for record in server.ledger) == pytest.approx(100)
        assert server.train_loss < 14 / 2  # the variance of the targets is 14

    def test_do_not_count_for_the_fraction_that_is_asked(self):
        server = self.run(fraction=0.34, rounds=30)
        assert [record.participants for record in server.ledger] == [1] * 30

    def test_do_not_count_for_the_transmissions_that_are_expected(self):
        fading = {"channel": "fading", "gain-threshold": 2.0, "clients": 10, "rounds": 5}
        weights = tensors(clients=None)
        for holders, refused in ((8, False), (1, True)):  # 5 rounds of e^-2 = 0.135 each
            sizes = [1] * holders + [0] * (10 - holders)
            if not refused:
                Server(parse(fading), weights, RoundSchedule(5), sizes=sizes)
                continue
            with pytest.raises(ConfigError, match="gain-threshold: must let at least one client transmit"):
                Server(parse(fading), weights, RoundSchedule(5), sizes=sizes)

    @pytest.mark.parametrize("scheme", ["z-sgd", "laser"])
    def test_do_not_change_what_the_others_do(self, scheme):
        """Three clients with and without empty ones after them, bit by bit: a client's draws go by its number."""
        options = {
            "power": 50.0,
            "client_weighting": "examples",
            "dropout_rate": 0.3,
            "fraction": 0.7,
            "scheme": scheme,
        }
        alone = OverTheAir(tensors(clients=None), clients=3, sizes=(1, 40, 7), **options)
        among = OverTheAir(tensors(clients=None), clients=5, sizes=(1, 40, 7, 0, 0), **options)
        for t in range(6):
            assert alone.participants == among.participants
            gradients = tensors(clients=len(alone.participants), seed=t)
            one, other = alone.aggregate(gradients), among.aggregate(gradients)
            assert (one is None) == (other is None)
            assert one is None or all(torch.equal(other[name], update) for name, update in one.items())

    def test_are_no_hindrance_to_norm_bounds_and_replicas(self):
        """Both runs below see the same three clients; nodes that compute the model follow it bit by bit."""
        options = {"norm_cap": 1.5, "client_weighting": "examples", "rounds": 15, "strategy": "laser"}
        plain, followed = self.run(**options), self.run(downlink="compressed", **options)
        for name, weight in plain.global_model.weights.items():
            assert torch.equal(weight, followed.global_model.weights[name])


SHORT = {
    "model": "linear", "clients": 12, "batch-size": 16, "rounds": 4, "evaluate-every": 2, "partition": "dirichlet",
    "dirichlet-alpha": 0.01, "empty-clients": "skip", "client-batching": "loop", "power": 50.0, **WEIGHED,
}  # fmt: skip


class TestInEveryEngine:
    def test_nodes_without_any_holder_answer_and_the_results_are_the_same_bit_by_bit(self, tmp_path):
        config = parse(SHORT)
        assert 0 in prepare(config).sizes
        run_on_grid(parse(SHORT | {"out-dir": str(tmp_path / "grid")}), 12)  # a node is a client: some have none
        in_process.run(config, tmp_path / "direct")
        for file in FILES:
            assert (tmp_path / "grid" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()

    def test_a_run_goes_on_bit_by_bit_where_it_stopped(self, tmp_path):
        in_process.run(parse(SHORT), tmp_path / "whole")
        in_process.run(parse(SHORT | {"rounds": 2}), tmp_path / "half")
        in_process.run(parse(SHORT | {"resume": str(tmp_path / "half")}), tmp_path / "half")
        whole, half = (pd.read_csv(tmp_path / name / "ledger.csv") for name in ("whole", "half"))
        pd.testing.assert_frame_equal(whole, half)


class TestInALoopOfOnesOwn:
    @pytest.mark.parametrize("scheme", ["z-sgd", "laser", "signum", "d-dsgd"])
    def test_sizes_do_what_a_run_does_bit_by_bit(self, scheme):
        sizes, rounds = (3, 0, 50, 8), 5
        options = {"power": 400.0, "clients": 4, "client_weighting": "examples", "seed": 3}
        keys = {name.replace("_", "-"): value for name, value in options.items()}
        start = tensors(clients=None, dtype=torch.float32)
        server = Server(parse(keys | {"strategy": scheme, "rounds": rounds}), start, RoundSchedule(rounds), sizes=sizes)
        air, memory = OverTheAir(start, scheme=scheme, rounds=rounds, sizes=sizes, **options), {}
        weights = {name: w.clone() for name, w in start.items()}
        for t in range(rounds):
            told = server.broadcast()
            assert told.context.participants == air.participants == (0, 2, 3)
            gradients = tensors(clients=3, seed=t, dtype=torch.float32)
            update, memory = encode_update(told, gradients, torch.zeros(3, dtype=torch.float64), memory)
            aggregate(server, update)
            step = air.aggregate(gradients)
            if step is not None:
                weights = {name: torch.sub(w, step[name], alpha=0.02) for name, w in weights.items()}
        assert air.ledger[-1].transmitters == 3
        for name, weight in server.global_model.weights.items():
            assert torch.equal(weights[name], weight)

    def test_sizes_weigh_the_clients_of_somebodys_own_app(self):
        """Client i descends to 1 - i/100; the first node has no client with examples."""
        strategy = named("Sgd", learning_rate=1.0, client_weighting="examples", sizes=(0, 0, 0, 1, 3))
        weights = read_tensors(started(strategy, towards_one).arrays)
        assert strategy.server.ledger[0].participants == 2
        for weight in weights.values():
            torch.testing.assert_close(weight, torch.full_like(weight, 1 - 0.0375))

    def test_a_state_is_that_of_the_same_sizes(self):
        one, other = (OverTheAir(WEIGHTS, clients=2, sizes=sizes) for sizes in ((1, 2), (2, 1)))
        one.load_state_dict(copy.deepcopy(one.state_dict()))
        with pytest.raises(ConfigError, match=r"^state: must be of an object with the same sizes, got \(1, 2\)$"):
            other.load_state_dict(one.state_dict())


def test_equal_clients_weigh_the_same_either_way():
    """With as many examples each, weights are 1."""
    sizes = (12,) * 4
    results = [
        server_after(unequal(sizes), clients=4, rounds=4, client_weighting=weighting)
        for weighting in ("equal", "examples")
    ]
    for key, weight in results[0].global_model.weights.items():
        torch.testing.assert_close(results[1].global_model.weights[key], weight, rtol=1e-12, atol=1e-12)
