"""The estimate's mean and noise follow the theory."""

import math

import pytest
import torch

from laser_fl.channels import CHANNELS
from laser_fl.channels.awgn import Awgn
from laser_fl.channels.base import Channel
from laser_fl.norms import norms
from laser_fl.schemes.base import Context
from laser_fl.streams import Streams
from tests.helpers import names

CLIENTS, SIGMA2 = 3, 0.7
SHARES = torch.tensor([0.2, 0.8], dtype=torch.float64)


def signals():
    generator = Streams(5).generator("signals")
    return {
        "a": 4 * torch.randn(CLIENTS, 30, 40, generator=generator),
        "b": torch.randn(CLIENTS, 50, generator=generator),
    }


def transmit(sent, power, round=0, variance=SIGMA2, seed=0):
    noise_std = 0.0 if math.isinf(power) else variance**0.5
    ctx = Context((), round, 0, power, noise_std, CLIENTS, Streams(seed))
    budget = torch.where(torch.tensor(math.isinf(power)), torch.inf, power * SHARES)
    return Awgn(variance).transmit(sent, norms(sent, CLIENTS), budget, ctx)


@pytest.mark.parametrize("name", names(CHANNELS))
def test_is_a_channel(name):
    assert isinstance(CHANNELS.load(name)(1.0), Channel)


@pytest.mark.parametrize("power", [0.1, 20.0])
def test_the_estimate_has_the_mean_and_variance_of_theory(power):
    """ŝ = mean + (c σ / (k √P_l)) z: over 400 rounds, for both signals."""
    sent, rounds = signals(), 400
    heard = [transmit(sent, power, round)[0] for round in range(rounds)]
    for index, (name, signal) in enumerate(sent.items()):
        errors = torch.stack([h.values[name] - signal.mean(dim=0) for h in heard]).double()
        c = max(float(s.double().norm()) for s in signal)
        std = c * math.sqrt(SIGMA2) / (CLIENTS * math.sqrt(power * float(SHARES[index])))
        count = errors.numel()
        assert abs(errors.mean()) < 4 * std / math.sqrt(count)
        assert errors.std().item() == pytest.approx(std, rel=4 / math.sqrt(2 * count))
        kurtosis = ((errors / std) ** 4).mean().item()
        assert kurtosis == pytest.approx(3, abs=4 * math.sqrt(96 / count))
        assert heard[0].noise_std[name].item() == pytest.approx(std)


def test_noise_is_independent_between_rounds_and_seeds():
    sent = signals()
    first = transmit(sent, 1.0, round=0)[0].values["a"] - sent["a"].mean(dim=0)
    for other in (transmit(sent, 1.0, round=1)[0], transmit(sent, 1.0, seed=1)[0]):
        second = other.values["a"] - sent["a"].mean(dim=0)
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert abs(correlation) < 4 / math.sqrt(first.numel())


def test_the_same_round_draws_the_same_noise():
    assert torch.equal(transmit(signals(), 1.0)[0].values["a"], transmit(signals(), 1.0)[0].values["a"])


def test_infinite_power_gives_the_exact_mean():
    sent = signals()
    heard, usage = transmit(sent, math.inf)
    for name in sent:
        torch.testing.assert_close(heard.values[name], sent[name].mean(dim=0))
        assert heard.noise_std[name] == 0
    assert usage.noise_energy == 0


def test_a_signal_that_is_zero_everywhere_is_heard_as_exactly_zero():
    sent = signals() | {"b": torch.zeros(CLIENTS, 50)}
    for power in (1.0, math.inf):
        heard, _ = transmit(sent, power)
        assert torch.equal(heard.values["b"], torch.zeros(50))
        assert heard.noise_std["b"] == 0


def test_the_usage_tells_the_effective_noise():
    sent = signals()
    heard, usage = transmit(sent, 2.0)
    assert usage.channel_uses == 1250
    signal = sum(float(s.mean(dim=0).double().square().sum()) for s in sent.values())
    assert usage.signal_energy == pytest.approx(signal, rel=1e-5)
    assert usage.noise_energy == pytest.approx(sum(float(heard.noise_std[n]) ** 2 * sent[n][0].numel() for n in sent))
