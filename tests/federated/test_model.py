"""The server's optimizer is torch's, and its average is bias-corrected."""

import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated.model import GlobalModel
from tests.helpers import tensors

pytestmark = pytest.mark.shapes

SHAPES = {"w": (3, 2), "b": (3,)}


def walk(options, steps=5):
    initial = tensors(SHAPES, clients=None)
    model = GlobalModel(initial, parse(options), rounds=steps)
    twin = [torch.nn.Parameter(w.clone()) for w in initial.values()]
    return model, twin, [tensors(SHAPES, clients=None, seed=t + 1) for t in range(steps)]


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        ({"momentum": 0.9, "weight-decay": 0.01}, lambda p: torch.optim.SGD(p, 0.02, 0.9, weight_decay=0.01)),
        ({"optimizer": "adamw"}, lambda p: torch.optim.AdamW(p, 0.02, (0.9, 0.95), weight_decay=0.0)),
    ],
)
def test_steps_are_those_of_torchs_optimizer(options, optimizer):
    model, twin, updates = walk(options)
    reference = optimizer(twin)
    for update in updates:
        model.step(update, {})
        for parameter, gradient in zip(twin, update.values(), strict=True):
            parameter.grad = gradient.clone()
        reference.step()
    for got, wanted in zip(model.weights.values(), twin, strict=True):
        torch.testing.assert_close(got, wanted.detach())


def test_a_cosine_schedule_ends_at_zero():
    model, _, updates = walk({"lr-schedule": "cosine"}, steps=5)
    moved = []
    for update in [*updates, updates[0]]:
        before = model.weights["w"].clone()
        model.step(update, {})
        moved.append(((model.weights["w"] - before) / update["w"]).abs().mean().item())
    assert moved[0] == pytest.approx(0.02)
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] == pytest.approx(0, abs=1e-12)


def test_the_average_is_the_weighted_mean_of_all_weights():
    model, _, updates = walk({"ema-decay": 0.8}, steps=4)
    assert torch.equal(model.averaged["w"], model.weights["w"])
    history = []
    for update in updates:
        model.step(update, {})
        history.append(model.weights["w"].clone())
    factors = [0.8 ** (3 - t) for t in range(4)]
    expected = sum(f * w for f, w in zip(factors, history, strict=True)) / sum(factors)
    torch.testing.assert_close(model.averaged["w"], expected)


def test_the_initial_weights_are_copied():
    initial = tensors(SHAPES, clients=None)
    before = initial["w"].clone()
    GlobalModel(initial, parse({}), rounds=1).step(tensors(SHAPES, clients=None, seed=3), {})
    assert torch.equal(initial["w"], before)
