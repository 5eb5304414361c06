"""Nobody ever exceeds the power budget, and the shares are what they should be."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_fl.allocations import ALLOCATIONS
from laser_fl.blocks import blocks_of
from laser_fl.channels import CHANNELS
from laser_fl.channels.base import Usage
from laser_fl.config import parse
from laser_fl.errors import PowerError
from laser_fl.ledger import POWER_TOLERANCE, entry
from laser_fl.norms import norms
from laser_fl.pipeline import SMALLEST_SHARE, Uplink, receive, shares
from laser_fl.policies import POLICIES
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context
from laser_fl.streams import Streams
from laser_fl.tables import from_fields
from tests.helpers import names, scheme

SCALES = st.sampled_from([0.0, 1e-36, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e30])
SIZES = st.lists(st.sampled_from([(1,), (7,), (3, 5), (20, 30), (6, 2, 3, 3)]), min_size=1, max_size=5)


@st.composite
def gradients(draw):
    """Float32 gradients of any scale per block and client."""
    clients = draw(st.integers(1, 5))
    streams = Streams(draw(st.integers(0, 1000)))
    result = {}
    for index, shape in enumerate(draw(SIZES)):
        scale = torch.tensor([draw(SCALES) for _ in range(clients)]).view(-1, *[1] * len(shape))
        result[str(index)] = scale * torch.randn((clients, *shape), generator=streams.generator("g", index))
    return result


@pytest.mark.parametrize("strategy", names(SCHEMES))
@pytest.mark.parametrize("allocation", names(ALLOCATIONS))
@pytest.mark.parametrize("channel", names(CHANNELS))
@given(gradients=gradients(), power=st.sampled_from([1e-6, 0.1, 1.0, 1e4, math.inf]))
def test_no_client_exceeds_the_budget_whatever_it_has_to_say(strategy, allocation, channel, gradients, power):
    chosen, air = scheme(strategy), from_fields(CHANNELS.load(channel), parse({}))
    clients = len(next(iter(gradients.values())))
    blocks = blocks_of({name: g[0] for name, g in gradients.items()})
    budget = math.inf if chosen.noiseless else power
    ctx = Context(blocks, 0, 0, budget, 1.0, clients, Streams(0))
    shared = chosen.init(blocks, ctx.streams)
    signals, _ = chosen.encode(gradients, shared, ctx)
    uplink = Uplink(signals, norms(signals), norms(gradients), torch.zeros(clients, dtype=torch.float64))
    reception = receive(uplink, shared, chosen, air, ALLOCATIONS.load(allocation), ctx)
    assert reception.usage.client_power.max() <= budget * (1 + POWER_TOLERANCE)
    assert all(u.isfinite().all() for u in reception.update.values())


@pytest.mark.parametrize("allocation", names(ALLOCATIONS))
@given(gradients=gradients())
def test_shares_sum_to_one_and_everybody_who_speaks_gets_some(allocation, gradients):
    reported = norms(gradients)
    uplink = Uplink(gradients, reported, reported, reported[:, 0])
    share = shares(uplink, ALLOCATIONS.load(allocation))
    assert share.sum().item() == pytest.approx(1)
    assert (share >= 0).all()
    speaks = reported.amax(dim=0) > 0
    assert (share[speaks] >= SMALLEST_SHARE / len(share)).all()


def test_the_whole_budget_is_used_by_a_client_that_is_strongest_everywhere():
    reported = torch.tensor([[1.0, 2.0], [0.5, 1.0]], dtype=torch.float64)
    signals = {"a": reported[:, :1].clone(), "b": reported[:, 1:].clone()}
    ctx = Context((), 0, 0, 5.0, 1.0, 2, Streams(0))
    uplink = Uplink(signals, reported, reported, reported[:, 0])
    usage = receive(
        uplink, {}, scheme("z-sgd"), from_fields(CHANNELS.load("awgn"), parse({})), ALLOCATIONS.load("signal-norm"), ctx
    ).usage
    torch.testing.assert_close(usage.client_power, torch.tensor([5.0, 1.25], dtype=torch.float64))


def test_an_allocation_by_hand():
    signal = torch.tensor([[3.0, 1.0], [0.0, 0.0]], dtype=torch.float64)
    gradient = torch.tensor([[1.0, 3.0], [0.0, 0.0]], dtype=torch.float64)
    sizes = torch.tensor([4.0, 9.0], dtype=torch.float64)
    expected = {  # the silent second client proposes uniform
        "signal-norm": (0.75 + 0.5) / 2,
        "uniform": 0.5,
        "gradient-norm": (0.25 + 0.5) / 2,
        "gradient-norm-squared": (0.1 + 0.5) / 2,
        "min-mse": 6 / (6 + 3),
    }
    assert set(expected) == set(ALLOCATIONS)
    for name, share in expected.items():
        assert ALLOCATIONS.load(name)(signal, gradient, sizes)[0].item() == pytest.approx(share)


@pytest.mark.parametrize("policy", names(POLICIES))
@given(power=st.floats(1e-3, 1e6), steps=st.integers(1, 40))
def test_a_policy_spends_the_mean_power_exactly(policy, power, steps):
    levels = [POLICIES.load(policy)(power, step, steps) for step in range(steps)]
    assert sum(levels) / steps == pytest.approx(power)
    assert min(levels) > 0


def test_the_ledger_refuses_a_client_that_cheated():
    usage = Usage(torch.tensor([1.0, 1.1], dtype=torch.float64), 10, 1.0, 1.0)
    with pytest.raises(PowerError, match=r"round 7: a client transmitted with power 1\.1.* budget of 1\.0"):
        entry(round=7, power=1.0, usages=[usage], downlink_floats=0, side_channel_floats=0)
