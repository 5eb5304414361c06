"""App. C against a numeric minimiser, and against Monte Carlo through the real schemes and channel."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from laser_fl.config import parse
from laser_fl.schemes.laser import orthonormal
from laser_fl.theory import (
    best_share,
    influence_laser_bound,
    influence_z_sgd,
    rank_one_split,
    rank_r_split,
    sampling_error,
    signal_share,
)
from simulations.influence import influences
from tests.effort import draws
from tests.helpers import scheme, tensors, walk_round

SIDES = st.integers(1, 300)
POWERS = st.floats(1e-2, 1e5)


def noise(alpha, beta, rows, columns):
    """f_P of Lemma 7."""
    return (1 + rows / alpha) * (1 + columns / beta)


def double(value):
    return torch.tensor(value, dtype=torch.float64)


@given(rows=SIDES, columns=SIDES, power=POWERS)
def test_lemma_7_is_the_numeric_minimum_and_keeps_its_bound(rows, columns, power):
    alpha = rank_one_split(double(power), rows, columns).item()
    found = minimize_scalar(lambda a: math.log(noise(a, power - a, rows, columns)), bounds=(0, power), method="bounded")
    assert 0 < alpha < power
    assert math.log(noise(alpha, power - alpha, rows, columns)) <= found.fun + 1e-9
    assert alpha == pytest.approx(found.x, rel=2e-3)
    bound = 1 + influence_laser_bound(power, rows, columns, rank=1)
    assert noise(alpha, power - alpha, rows, columns) <= bound * (1 + 1e-9)


def test_lemma_7_as_printed():
    m, n, power = 20, 50, 7.0
    left, right = math.sqrt(1 + power / n), math.sqrt(1 + power / m)
    printed = left * (right - left) / (1 / m - 1 / n)
    assert rank_one_split(double(power), m, n).item() == pytest.approx(printed)
    assert rank_one_split(double(power), m, m).item() == pytest.approx(power / 2)


@given(rows=SIDES, columns=SIDES, power=POWERS, kappa=st.lists(st.floats(1e-3, 1), min_size=1, max_size=5))
def test_lemma_8_spends_the_power_and_keeps_its_bound(rows, columns, power, kappa):
    kappa = double(kappa) / sum(kappa)
    alpha, beta = rank_r_split(double(power), kappa, rows, columns)
    assert (alpha.sum() + beta.sum()).item() == pytest.approx(power)
    reached = (kappa * noise(alpha, beta, rows, columns)).sum().item()
    assert reached <= 1 + influence_laser_bound(power, rows, columns, len(kappa)) * (1 + 1e-9)


@pytest.mark.parametrize("power", [0.5, 20.0, 5000.0])
def test_lemma_8_is_close_to_the_numeric_minimum(power):
    """Its division of the power among pairs is optimal for large power, and an upper bound for small."""
    m, n, kappa = 20, 50, double([0.7, 0.2, 0.1])
    alpha, beta = rank_r_split(double(power), kappa, m, n)
    reached = (kappa * noise(alpha, beta, m, n)).sum().item()

    def over_pairs(logits):
        powers = power * torch.softmax(double(logits), dim=0)
        a = rank_one_split(powers, m, n)
        return (kappa * noise(a, powers - a, m, n)).sum().item()

    least = minimize(over_pairs, [0.0, 0.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-8}).fun
    assert least <= reached * (1 + 1e-6)
    assert reached - 1 <= (least - 1) * (1.01 if power == 5000 else 1.3)


INFLUENCES = draws(600, 200)


def measured_influence(chosen, gradient, power, basis=None, rounds=INFLUENCES):
    """E‖y − M‖² / ‖M‖² of one client's gradient M through send, channel and receive."""
    shapes, shared = {"w": tuple(gradient.shape)}, {} if basis is None else {"w": basis}
    errors = []
    for t in range(rounds):
        receptions, *_ = walk_round(chosen, shared, {}, {"w": gradient[None]}, t, power, 1.0, shapes=shapes)
        errors.append((receptions[-1].update["w"] - gradient).square().sum())
    return (torch.stack(errors).mean() / gradient.square().sum()).item()


@pytest.mark.parametrize("power", [3.0, 300.0])
def test_z_sgds_influence_is_what_the_channel_does(power):
    gradient = tensors({"w": (12, 20)}, clients=None)["w"]
    assert measured_influence(scheme("z-sgd"), gradient, power) == pytest.approx(
        influence_z_sgd(power, 12, 20), rel=4 * math.sqrt(2 / (INFLUENCES * 240))
    )


@pytest.mark.parametrize("power", [30.0, 300.0])
@pytest.mark.parametrize("rank", [1, 2])
def test_lasers_influence_is_what_the_channel_does_and_keeps_its_bound(power, rank):
    """A gradient of rank r, and a warm start that spans its rows: nothing is lost but to the noise."""
    parts = tensors({"left": (12, rank), "right": (20, rank)}, clients=None)
    gradient = orthonormal(parts["left"]) @ torch.diag(double([2.0, 1.0][:rank])) @ orthonormal(parts["right"]).mT
    basis = orthonormal(parts["right"])
    p = orthonormal(gradient @ basis)
    kappa = (gradient.mT @ p).square().sum(dim=0)
    alpha, beta = rank_r_split(double(power), kappa, 12, 20)
    expected = (kappa / kappa.sum() * noise(alpha, beta, 12, 20)).sum().item() - 1
    measured = measured_influence(scheme("laser one-shot", rank=rank), gradient, power, basis)
    assert measured == pytest.approx(expected, rel=0.1)
    assert measured <= influence_laser_bound(power, 12, 20, rank)


def test_the_table_of_a_model_says_where_laser_wins():
    config = parse({"power": 1.0, "clients": 16, "rank": 2})
    lines = {line.block: line for line in influences(config, "linear")}
    weight, bias = lines["1.weight"], lines["1.bias"]
    assert weight.z_sgd == pytest.approx(7840 / 128)
    assert weight.laser_bound == pytest.approx(influence_laser_bound(128.0, 10, 784, 2))
    assert (weight.less_noise, bias.less_noise) == ("LASER", "")
    small = influences(parse({"power": 0.001, "clients": 16, "rank": 2}), "linear")
    assert small[0].less_noise == "Z-SGD"


@given(
    power=st.floats(1e-4, 1e6),
    variance=st.floats(1e-2, 1e2),
    clients=st.integers(1, 1000),
    size=st.integers(1, 10**9),
)
def test_the_best_share_has_the_least_error(power, variance, clients, size):
    best = best_share(power, variance, clients, size)
    least = sampling_error(best, power, variance, clients, size)
    assert 0 < best <= 1
    for other in (0.9 * best, 0.999 * best, min(1.0, 1.001 * best), min(1.0, 1.1 * best), 1.0):
        assert least <= sampling_error(other, power, variance, clients, size) * (1 + 1e-9)


def test_all_is_sent_where_the_power_carries_it():
    assert best_share(1.0, 0.0, 16, 7850) == 1
    assert best_share(math.inf, 1.0, 16, 7850) == 1
    assert best_share(1e30, 1.0, 16, 7850) == 1
    assert best_share(1e-310, 1.0, 1, 7850) == 1
    assert best_share(1e-310, 1.0, 16, 7850) == 0
    assert best_share(1e-30, 1.0, 16, 7850) == pytest.approx((4 * 16e-30 / (7850 * 15 / 16)) ** (1 / 3), rel=1e-6)


@pytest.mark.parametrize("share", [0.1, 0.4, 1.0])
def test_the_sampling_error_is_what_memories_and_channel_do(share):
    """Random-K through the air, on gradients as they are assumed to be: a part that stays, and fresh noise."""
    clients, size, power, noise_per_value = 8, 20_000, 500.0, 1.0  # V
    mean = math.sqrt(noise_per_value / clients) * tensors({"w": (size,)}, clients=None, seed=1)["w"]
    chosen, memory = scheme("random-k", compression_factor=share), {}
    remembered, received, warm, rounds = 0.0, 0.0, round(8 / share), round(30 / share)
    for t in range(rounds):
        gradients = {"w": mean + math.sqrt(noise_per_value) * tensors({"w": (size,)}, clients, seed=t + 2)["w"]}
        receptions, _, _, memory = walk_round(chosen, {}, memory, gradients, t, power, shapes={"w": (size,)})
        if t >= warm:
            remembered += memory["w"].mean(dim=0).square().sum().item() / (rounds - warm)
            received += receptions[-1].noise["w"].item() / (rounds - warm)
    unit = size * noise_per_value / clients
    silent = sampling_error(share, math.inf, 1.0, clients, size)
    assert remembered / unit == pytest.approx(silent, rel=0.06, abs=1e-12)
    assert received / unit == pytest.approx(sampling_error(share, power, 1.0, clients, size) - silent, rel=0.06)


@pytest.mark.parametrize("power", [1.0, 10.0, 100.0])
def test_a_factor_that_is_heard_lies_along_what_was_sent_as_far_as_is_said(power):
    clients, size, draws = 32, 400, 60
    chosen, overlap = scheme("z-sgd"), 0.0
    for t in range(draws):
        shape = {"w": (size,)}
        mean = math.sqrt(1 / clients) * tensors(shape, clients=None, seed=2 * t)["w"]
        gradients = {"w": mean + tensors(shape, clients, seed=2 * t + 1)["w"]}
        receptions, *_ = walk_round(chosen, {}, {}, gradients, t, power, shapes=shape)
        sent, received = gradients["w"].mean(dim=0), receptions[-1].update["w"]
        overlap += (torch.dot(sent, received) / (sent.norm() * received.norm())).square().item() / draws
    assert overlap == pytest.approx(signal_share(power, 1.0, clients, size), rel=0.15)


def test_all_of_a_factor_is_heard_where_there_is_no_noise_and_nothing_of_it_in_nothing_but_noise():
    without_noise = ((math.inf, 1.0), (1e30, 1e-300), (1.0, 0.0))
    assert [signal_share(power, variance, 4, 100) for power, variance in without_noise] == [1, 1, 1]
    assert signal_share(1e-300, 1e300, 4, 100) == 0
