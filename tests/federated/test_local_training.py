"""Gradients of many clients at once are each client's own."""

import math
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from laser_fl.config import parse
from laser_fl.data.examples import Examples, stratified
from laser_fl.data.mnist import MODELS
from laser_fl.data.task import Task
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.evaluation import evaluate
from laser_fl.federated.local_training import GroupTrainer, LocalTrainer
from laser_fl.rng import RandomStreams
from tests.helpers import assert_alike, context, scheme

pytestmark = pytest.mark.shapes

EXAMPLES, CLIENTS = 50, 4


@pytest.fixture(scope="module")
def task():
    generator = RandomStreams(0).generator("toy")
    data = Examples(
        torch.randn(EXAMPLES, 1, 28, 28, generator=generator), torch.randint(10, (EXAMPLES,), generator=generator)
    )
    return Task(data, data, MODELS)


def weights_of(model):
    return {name: p.detach() for name, p in model.named_parameters()}


def naive(task, model, indices):
    loss = cross_entropy(model(task.train.inputs[indices]), task.train.targets[indices])
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    return dict(zip(weights_of(model), gradients, strict=True)), loss.item()


@pytest.mark.parametrize("name", ["linear", "mlp"])
@pytest.mark.parametrize("accumulation", [1, 3])
@pytest.mark.parametrize("round", [0, 1])
def test_gradients_are_those_of_each_clients_own_examples(task, name, accumulation, round):
    """With accumulation, and in a short last batch, the mean over all of the round's examples."""
    config = parse({"clients": CLIENTS, "batch-size": 3, "accumulation-steps": accumulation, "model": name})
    network = task.network(config)
    model, weights = network.module, network.weights
    told = Broadcast(
        scheme("z-sgd"), {}, context({n: tuple(w.shape) for n, w in weights.items()}, round=round), weights=weights
    )
    computed = GroupTrainer(task, network, config, range(CLIENTS)).compute(told)
    gradients, losses = computed.gradients, computed.losses
    batch = task.train.sampler(config, range(CLIENTS)).batch(round)
    for client in range(CLIENTS):
        expected, loss = naive(task, model, batch[client])
        assert losses[client].item() == pytest.approx(loss, rel=1e-5)
        for block, gradient in expected.items():
            torch.testing.assert_close(gradients[block][client], gradient)


@pytest.mark.parametrize("strategy", ["z-sgd", "laser"])
def test_one_by_one_or_all_at_once_say_the_same(task, strategy):
    network = task.network(parse({}))
    model = network.module
    blocks_context = context({n: tuple(w.shape) for n, w in weights_of(model).items()}, clients=CLIENTS)
    chosen = scheme(strategy)
    shared = chosen.init(blocks_context.blocks, blocks_context.streams)
    broadcast = Broadcast(chosen, shared, blocks_context, weights=weights_of(model))
    answers = {}
    for batching in ("vmap", "loop"):
        config = parse({"clients": CLIENTS, "batch-size": 4, "client-batching": batching})
        trainer = LocalTrainer(task, network, config, range(CLIENTS))
        _, memory = trainer.answer(broadcast, {})
        answers[batching] = trainer.answer(broadcast, memory)
    (together, memory), (apart, memory_apart) = answers["vmap"], answers["loop"]
    rounding = torch.finfo(torch.float32).eps * math.sqrt(784)  # of sums over as many inputs, in another order
    cancelled = float((apart.gradient_norms / apart.signal_norms).max())  # what is projected loses most of its norm
    torch.testing.assert_close(together.signal_norms, apart.signal_norms, rtol=rounding * cancelled, atol=0)
    assert_alike(together.signals, apart.signals, rounding, cancelled)
    assert_alike(memory, memory_apart, rounding)


def test_evaluation_is_the_mean_over_all_examples(task):
    config = parse({"model": "linear"})
    model = task.network(config).module
    metrics = evaluate(replace(task, evaluation_batch=16), model, weights_of(model), config)
    outputs = model(task.test.inputs)
    assert metrics["loss"] == pytest.approx(cross_entropy(outputs, task.test.targets).item(), rel=1e-5)
    assert metrics["accuracy"] == pytest.approx((outputs.argmax(1) == task.test.targets).float().mean().item())
    few = evaluate(task, model, weights_of(model), parse({"model": "linear", "evaluate-examples": 10}))
    some = stratified(task.test.targets, 10)
    assert few["loss"] == pytest.approx(cross_entropy(outputs[some], task.test.targets[some]).item(), rel=1e-5)


def test_the_same_seed_gives_the_same_initial_weights(task):
    first, second, other = (task.network(parse({"seed": seed})).weights for seed in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])
