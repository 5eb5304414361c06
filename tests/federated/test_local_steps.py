"""Clients that take several steps in a round send what their own descent, written plainly, has summed up."""

import copy
import math

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.mnist import MODELS
from laser_fl.data.task import Task
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.setup import Setup
from laser_fl.federated.traced import CALLS
from laser_fl.models.base import Network
from laser_fl.models.resnet18 import resnet18
from laser_fl.rng import RandomStreams
from simulations.engines import in_process
from tests.grids import run_config, run_on_grid
from tests.helpers import context, scheme

EXAMPLES, CLIENTS, RATE = 50, 4, 0.05
BATCHINGS = ["vmap", "loop"]


def toy(shape, models, **options):
    """Float64, so that a wrong step is far outside the rounding."""
    generator = RandomStreams(0).generator("toy")
    inputs = torch.randn(EXAMPLES, *shape, generator=generator, dtype=torch.float64)
    data = Examples(inputs, torch.randint(10, (EXAMPLES,), generator=generator))
    return Task(data, data, models, **options)


@pytest.fixture(scope="module")
def digits():
    return toy((1, 28, 28), MODELS)


@pytest.fixture(scope="module")
def pictures():
    return toy((3, 8, 8), {"resnet18": resnet18}, fixed={"classes": 10, "width": 4})


def config_of(**values):
    keys = {"clients": CLIENTS, "batch-size": 2, "learning-rate": RATE, "strategy": "sgd"}
    return parse(keys | {name.replace("_", "-"): value for name, value in values.items()})


def network_of(task, config):
    network = task.network(config)
    network.module.double()
    return network


def told(network, round=0):
    shapes = {name: tuple(w.shape) for name, w in network.weights.items()}
    return Broadcast(
        scheme("z-sgd"), {}, context(shapes, CLIENTS, round), weights=network.weights, buffers=network.buffers
    )


def answers(task, network, config, broadcast):
    """(gradients, buffers, losses) of all clients."""
    parts = list(LocalTrainer(task, network, config, range(CLIENTS)).compute(broadcast))
    gradients, buffers = (
        {name: torch.cat([getattr(part, kind)[name] for part in parts]) for name in getattr(parts[0], kind)}
        for kind in ("gradients", "buffers")
    )
    return gradients, buffers, torch.cat([part.losses for part in parts])


def descend(module, task, rows, config):
    """A client's model after its steps over the examples `rows`, as anybody would write them, and its mean loss."""
    model = copy.deepcopy(module).train()
    optimizer = SGD(model.parameters(), RATE)
    loss_of_all = 0.0
    rows = rows.tolist()
    while rows:
        size = config.batch_size * config.accumulation_steps
        step, rows = rows[:size], rows[size:]
        optimizer.zero_grad()
        taken = list(step)
        while taken:
            part, taken = taken[: config.batch_size], taken[config.batch_size :]
            loss = cross_entropy(model(task.train.inputs[part]), task.train.targets[part])
            (loss * len(part) / len(step)).backward()
            loss_of_all += loss.item() * len(part)
        optimizer.step()
    return model, loss_of_all


def assert_descends(task, config):
    """In all rounds of an epoch, the last of which may be short."""
    network = network_of(task, config)
    sampler = task.train.sampler(config, range(CLIENTS))
    for round in range(sampler.rounds_per_epoch):
        gradients, buffers, losses = answers(task, network, config, told(network, round))
        batch = sampler.batch(round)
        for client in range(CLIENTS):
            model, loss = descend(network.module, task, batch[client], config)
            assert losses[client].item() == pytest.approx(loss / batch.shape[1], rel=1e-9)
            for name, end in model.named_parameters():
                torch.testing.assert_close(network.weights[name] - RATE * gradients[name][client], end.detach())
                assert gradients[name].is_contiguous()
            state = model.state_dict()
            for name, buffer in buffers.items():
                torch.testing.assert_close(buffer[client], state[name])


@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_a_client_sends_the_sum_of_the_gradients_on_its_way(digits, model, accumulation, batching):
    """Of a largest shard of 13 examples: 6, 6 and 1, or 12 and 1 in a round, the last of one short step."""
    config = config_of(model=model, local_steps=3, accumulation_steps=accumulation, client_batching=batching)
    assert_descends(digits, config)


@pytest.mark.parametrize("accumulation", [3, 5])
def test_a_last_step_may_have_fewer_micro_steps_than_the_others(digits, accumulation):
    """13 examples in one round: steps of 6, 6 and 1, or of 10 and 3, in micro-steps of 2 and at last 1."""
    config = config_of(local_steps=3, accumulation_steps=accumulation, client_batching="vmap")
    assert digits.train.sampler(config, range(CLIENTS)).rounds_per_epoch == 1
    assert_descends(digits, config)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_batch_norms_follow_the_examples_of_all_steps(pictures, batching):
    config = config_of(
        task="cifar10", model="resnet18", batch_size=5, local_steps=2, accumulation_steps=2, client_batching=batching
    )
    assert_descends(pictures, config)


@pytest.mark.parametrize("batching", BATCHINGS)
def test_local_steps_have_a_size_of_their_own_where_one_is_given(digits, batching):
    config = config_of(
        local_steps=3, learning_rate=7, local_learning_rate=RATE, optimizer="adamw", client_batching=batching
    )
    assert_descends(digits, config)


def test_one_step_is_the_gradient_whatever_its_size(digits):
    results = []
    for options in ({}, {"local_steps": 1}, {"local_learning_rate": 3}):
        config = config_of(accumulation_steps=2, **options)
        network = network_of(digits, config)
        results.append(answers(digits, network, config, told(network)))
    (gradients, _, losses), *others = results
    for same, _, same_losses in others:
        assert torch.equal(losses, same_losses)
        assert all(torch.equal(gradients[name], same[name]) for name in gradients)


class Summed(nn.Module):
    """Autograd gives all weights the same tensor, the last one a part of it."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.zeros(rows, 10)) for rows in (64, 64, 60))

    def forward(self, inputs):
        return inputs.flatten(1) @ (self.a + self.b + torch.cat([self.c.new_zeros(4, 10), self.c]))


@pytest.mark.parametrize("batching", BATCHINGS)
def test_gradients_that_are_the_same_lie_apart(batching):
    task, config = toy((1, 8, 8), {"linear": Summed}), config_of(model="linear", client_batching=batching)
    network = network_of(task, config)
    for part in LocalTrainer(task, network, config, range(CLIENTS)).compute(told(network)):
        a, b, c = part.gradients.values()
        assert torch.equal(a, b)
        assert torch.equal(a[:, 4:], c)
        a.zero_()
        assert b.any()
        b.zero_()
        assert c.any()


def test_nothing_that_was_broadcast_changes(digits):
    config = config_of(local_steps=3)
    network = network_of(digits, config)
    before = {name: w.clone() for name, w in network.weights.items()}
    answers(digits, network, config, told(network))
    assert all(torch.equal(network.weights[name], before[name]) for name in before)


@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("batching", BATCHINGS)
@pytest.mark.parametrize("model", ["linear", "mlp"])
def test_the_server_takes_the_mean_of_the_clients_models(digits, model, batching):
    """FedAvg, on the noiseless channel and without momentum; over epochs whose last rounds are short."""
    config = config_of(model=model, local_steps=3, epochs=2, client_batching=batching)
    network = network_of(digits, config)
    engine = InProcess(Setup(config, digits, network, torch.device("cpu")))
    sampler = digits.train.sampler(config, range(CLIENTS))
    twin = copy.deepcopy(network.module)
    assert engine.server.schedule.rounds == 6 > CALLS
    for round in range(6):
        ends = [descend(twin, digits, rows, config)[0] for rows in sampler.batch(round)]
        twin.load_state_dict({n: sum(end.state_dict()[n] for end in ends) / CLIENTS for n in twin.state_dict()})
        engine.advance()
        for name, weight in engine.server.global_model.weights.items():
            torch.testing.assert_close(weight, twin.state_dict()[name])


@pytest.mark.usefixtures("traced")
def test_clients_that_hear_the_model_under_noise_descend_from_what_they_heard(digits):
    """One by one or all at once, whose weights lie otherwise in memory before the first step than after it."""
    ends = []
    for batching in BATCHINGS:
        config = config_of(
            local_steps=3, rounds=5, strategy="laser", power=1e3, downlink_power=100, client_batching=batching
        )
        engine = InProcess(Setup(config, digits, network_of(digits, config), torch.device("cpu")))
        while not engine.server.finished:
            engine.advance()
        ends.append(engine.server.global_model.weights)
    for name, weight in ends[0].items():
        torch.testing.assert_close(weight, ends[1][name], rtol=1e-6, atol=1e-8)


def test_every_micro_step_of_a_round_draws_for_itself(monkeypatch):
    """The same draws whether its micro-steps belong to one step or to several."""
    keys = []
    key_of = RandomStreams.key

    def noted(self, purpose, *index):
        keys.append((purpose, *index))
        return key_of(self, purpose, *index)

    monkeypatch.setattr(RandomStreams, "key", noted)

    def forgetful():
        return Network(nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(784, 10)))

    task = toy((1, 28, 28), {"mlp": forgetful}, augment=lambda inputs, generators: inputs)
    drawn = []
    for config in (config_of(local_steps=3, accumulation_steps=2), config_of(accumulation_steps=6)):
        network = network_of(task, config)
        keys.clear()
        answers(task, network, config, told(network))
        drawn.append([key for key in keys if key[0] in {"augment", "dropout"}])
    assert len(set(drawn[0])) == len(drawn[0]) == 2 * 6 * CLIENTS
    assert drawn[0] == drawn[1]


def test_more_steps_are_fewer_rounds_over_the_same_examples(digits):
    config = config_of(local_steps=3, accumulation_steps=2)
    sampler = digits.train.sampler(config, range(CLIENTS))
    assert sampler.rounds_per_epoch == math.ceil(13 / 12)
    taken = torch.cat([sampler.batch(0), sampler.batch(1)], dim=1)
    assert taken.shape == (CLIENTS, 13)
    assert set(taken.flatten().tolist()) == set(range(EXAMPLES))


@pytest.mark.parametrize("options", [{}, {"downlink": "update", "downlink_power": 1e4}, {"downlink": "compressed"}])
def test_engines_agree(tmp_path, options):
    values = {"local_steps": 2, "local_learning_rate": 0.1, "client_batching": "loop"} | options
    in_process.run(run_config(tmp_path / "direct", **values), tmp_path / "direct")
    run_on_grid(run_config(tmp_path / "grid", **values), 2)
    in_process.run(run_config(tmp_path / "one", **values | {"local_steps": 1}), tmp_path / "one")
    direct, grid, one = (load_file(tmp_path / name / "weights.safetensors") for name in ("direct", "grid", "one"))
    assert all(torch.equal(direct[name], grid[name]) for name in direct)
    assert not all(torch.equal(direct[name], one[name]) for name in direct)
