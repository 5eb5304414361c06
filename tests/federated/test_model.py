"""The server's optimizer is torch's, and its average is bias-corrected."""

import pytest
import torch
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, MultiStepLR, OneCycleLR

from laser_fl.config import parse
from laser_fl.federated.model import GlobalModel
from tests.helpers import tensors

pytestmark = pytest.mark.shapes

SHAPES = {"w": (3, 2), "b": (3,)}


def start(steps=5):
    """Return initial weights, and an update for each step."""
    return tensors(SHAPES, clients=None), [tensors(SHAPES, clients=None, seed=t + 1) for t in range(steps)]


def walk(options, steps=5):
    initial, updates = start(steps)
    return GlobalModel(initial, parse(options), rounds=steps), updates


@pytest.mark.parametrize(
    ("options", "optimizer"),
    [
        ({"weight-decay": 0.01}, lambda groups: torch.optim.SGD(groups, 0.02)),
        ({"momentum": 0.9, "weight-decay": 0.01}, lambda groups: torch.optim.SGD(groups, 0.02, 0.9)),
        ({"optimizer": "adamw", "weight-decay": 0.1}, lambda groups: torch.optim.AdamW(groups, 0.02, (0.9, 0.95))),
    ],
)
def test_steps_are_those_of_torchs_optimizer_to_the_last_bit(options, optimizer):
    initial, updates = start()
    model = GlobalModel(initial, parse(options), len(updates), undecayed=["b"])
    twin = {name: w.clone() for name, w in initial.items()}
    decays = {"w": options["weight-decay"], "b": 0.0}
    reference = optimizer([{"params": [twin[name]], "weight_decay": decay} for name, decay in decays.items()])
    for update in updates:
        model.step(update, {})
        for name, weight in twin.items():
            weight.grad = update[name].clone()
        reference.step()
        assert all(torch.equal(model.weights[name], weight) for name, weight in twin.items())
    known = {
        f"{key}/{name}": tensor
        for name, weight in twin.items()
        for key, tensor in reference.state[weight].items()
        if tensor is not None
    }
    state = model.state(0, {})[0].optimizer
    assert state.keys() == known.keys()
    assert all(torch.equal(state[key], tensor) for key, tensor in known.items())


@pytest.mark.parametrize("rounds", [1, 2, 3, 7, 49, 50, 51, 100])
@pytest.mark.parametrize(
    ("schedule", "reference"),
    [
        ("constant", lambda optimizer, rounds: ConstantLR(optimizer, factor=1.0)),
        ("cosine", lambda optimizer, rounds: CosineAnnealingLR(optimizer, T_max=rounds)),
        ("step", lambda optimizer, rounds: MultiStepLR(optimizer, [round(0.6 * rounds)], gamma=0.1)),
        (
            "one-cycle",  # torch divides by zero where the rise takes exactly one step, as of 49 rounds
            lambda optimizer, rounds: OneCycleLR(
                optimizer,
                0.3,
                total_steps=rounds + 1,
                pct_start=0.02 + 1e-9,
                cycle_momentum=False,
                div_factor=100,
                final_div_factor=0.05,
            ),
        ),
    ],
)
def test_learning_rates_are_those_of_torchs_schedules_to_the_last_bit(schedule, reference, rounds):
    options = {"lr-schedule": schedule, "lr-decay-at": 0.6, "learning-rate": 0.3}
    model = GlobalModel(start()[0], parse(options), rounds)
    optimizer = torch.optim.SGD([torch.zeros(1)], 0.3)
    rates = reference(optimizer, rounds)
    for update in start(rounds)[1]:
        assert model.replica.rates == tuple(rates.get_last_lr())
        model.step(update, {})
        optimizer.step()
        rates.step()


def test_a_cosine_schedule_ends_at_zero():
    model, updates = walk({"lr-schedule": "cosine"}, steps=5)
    moved = []
    for update in [*updates, updates[0]]:
        before = model.weights["w"].clone()
        model.step(update, {})
        moved.append(((model.weights["w"] - before) / update["w"]).abs().mean().item())
    assert moved[0] == pytest.approx(0.02)
    assert moved == sorted(moved, reverse=True)
    assert moved[-1] == pytest.approx(0, abs=1e-12)


def test_the_average_is_the_weighted_mean_of_all_weights():
    model, updates = walk({"ema-decay": 0.8}, steps=4)
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
