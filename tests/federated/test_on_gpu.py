"""A round on a GPU: no tensors of mixed devices, the CPU's results, few launches, and hardly ever a wait.

Stand-ins take the GPU's place (`tests.standins`); gradients are the CPU's.
"""

import pytest
import torch

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.task import Task
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import prepare, setup_of
from laser_fl.models.resnet18 import resnet18
from laser_fl.rng import RandomStreams
from tests.helpers import VARIANTS, assert_alike, names
from tests.standins import counting, here, server_and_group, whole_round

ROUNDS = 4
RESNET18 = {
    "task": "cifar10",
    "model": "resnet18",
    "width": 4,
    "batch-size": 2,
    "rounds": 8,
    "power": 500.0,
    "evaluate-every": 8,
}
MLP = {"model": "mlp", "clients": 4, "batch-size": 8, "rounds": ROUNDS, "evaluate-every": ROUNDS, "power": 50.0}
SETTINGS = {
    "one by one": {"client-batching": "loop"},
    "one by one, local steps": {"client-batching": "loop", "local-steps": 2, "local-learning-rate": 0.05},
    "one by one, accumulation": {"client-batching": "loop", "accumulation-steps": 2},
    "fading": {"channel": "fading", "gain-threshold": 0.5},
    "blind": {"channel": "blind"},
    "a fraction": {"fraction": 0.5},
    "local steps": {"local-steps": 2, "local-learning-rate": 0.05},
    "accumulation": {"accumulation-steps": 2},
    "noisy downlink": {"downlink-power": 1e6},
    "updates": {"downlink": "update", "downlink-power": 1e6},
    "compressed downlink": {"downlink": "compressed"},
    "bounded norms": {"norm-cap": 1.01, "rounds": 14},
    "by examples": {"client-weighting": "examples", "partition": "dirichlet", "empty-clients": "skip"},
    "adamw": {"optimizer": "adamw", "learning-rate": 0.01},
}


def first_by_default(table):
    """Return a table's names; all but the first are for a thorough test."""
    first, *others = names(table)
    return [first, *(pytest.param(name, marks=[pytest.mark.thorough, pytest.mark.product]) for name in others)]


@pytest.fixture(scope="module")
def images():
    generator = RandomStreams(0).generator("images")
    data = Examples(
        torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator),
        torch.randint(10, (64,), generator=generator),
    )
    return Task(data, data, {"resnet18": resnet18}, fixed={"classes": 10}, prepare=lambda pictures: pictures / 255)


def counted(task, monkeypatch, **values):
    """Return the launches and waits of a late round."""
    config = parse(RESNET18 | {key.replace("_", "-"): value for key, value in values.items()})
    setup = setup_of(config, task)
    with counting(monkeypatch) as counts:
        server, group = server_and_group(setup)
        for _ in range(2):
            whole_round(server, group)
        launches, waits = counts.launches, counts.waits
        whole_round(server, group)
        return counts.launches - launches, counts.waits - waits


FEW = {  # of a round with 16 clients: launches beyond the gradients', and waits
    "laser": ({}, 1200, 6),
    "z-sgd": ({}, 600, 4),
    "signum": ({}, 900, 5),
    "random-k": ({}, 1300, 5),
    "sketch": ({}, 1400, 5),
    "a-dsgd": ({}, 2400, 5),
    "d-dsgd": ({}, 1300, 6),
    "laser-adaptive": ({"power": 1.0, "noise_variance": 1e4}, 3200, 5),
}


@pytest.mark.parametrize("strategy", first_by_default(FEW))
def test_a_round_launches_little_and_waits_as_often_for_many_clients_as_for_few(images, monkeypatch, strategy):
    values, most_launches, most_waits = FEW[strategy]
    few, waits_of_few = counted(images, monkeypatch, strategy=strategy, clients=4, **values)
    launches, waits = counted(images, monkeypatch, strategy=strategy, clients=16, **values)
    assert launches <= most_launches
    assert waits == waits_of_few <= most_waits
    assert launches - few <= 12 * 20  # a client costs few launches beyond its gradient


def test_a_run_that_goes_on_waits_no_more_than_before(images, monkeypatch):
    """An optimizer's counts of steps stay on the CPU: a GPU would be waited for at each of them."""
    setup = setup_of(parse(RESNET18 | {"clients": 2, "optimizer": "adamw"}), images)
    with counting(monkeypatch) as counts:
        server, group = server_and_group(setup)
        for _ in range(2):
            whole_round(server, group)
        numbers, tensors = server.state()
        waits = counts.waits
        whole_round(server, group)
        before = counts.waits - waits
        again, group = server_and_group(setup)
        again.restore(numbers, here(tensors), server.ledger[:2])
        whole_round(again, group)
        waits = counts.waits
        whole_round(again, group)
        assert counts.waits - waits == before


def weights_on_the_cpu(config):
    run = InProcess(prepare(config))
    for _ in range(config.rounds):
        while not run.advance():
            pass
    return run.server.global_model.weights


@pytest.mark.parametrize("variant", first_by_default(VARIANTS))
def test_a_run_is_the_cpus(monkeypatch, variant):
    assert_same_run(monkeypatch, MLP | VARIANTS[variant])


@pytest.mark.parametrize("setting", first_by_default(SETTINGS))
def test_a_run_is_the_cpus_in_every_setting(monkeypatch, setting):
    assert_same_run(monkeypatch, MLP | SETTINGS[setting])


def assert_same_run(monkeypatch, values):
    config = parse(values)
    with counting(monkeypatch):
        server, group = server_and_group(prepare(config))
        for _ in range(config.rounds):
            whole_round(server, group)
        weights = here(server.global_model.weights)
    assert_alike(weights, weights_on_the_cpu(config), 1e-3 if "dsgd" in str(values) else 1e-5)
