"""Nobody ever exceeds the power budget, and the shares are what they should be."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from laser_fl.blocks import norms
from laser_fl.channels.base import ChannelUsage
from laser_fl.config import parse
from laser_fl.errors import PowerError, TrainingError
from laser_fl.federated.ledger import POWER_TOLERANCE, RoundAccounting
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.power.split import SMALLEST_SHARE, shares
from laser_fl.registry import ALLOCATIONS, POLICIES
from laser_fl.rng import RandomStreams
from tests.effort import draws, pairs
from tests.helpers import SHAPES, VARIANTS, aggregate, names, scheme, shared_of, tensors, walk_round, zero_losses

pytestmark = pytest.mark.shapes

SCALES = st.sampled_from([0.0, 1e-36, 1e-12, 1e-3, 1.0, 1e3, 1e12, 1e30])
SIZES = st.lists(st.sampled_from([(1,), (7,), (3, 5), (20, 30), (6, 2, 3, 3)]), min_size=1, max_size=5)


@st.composite
def gradients(draw):
    """Float32 gradients of any scale per block and client."""
    clients = draw(st.integers(1, 5))
    streams = RandomStreams(draw(st.integers(0, 1000)))
    result = {}
    for index, shape in enumerate(draw(SIZES)):
        scale = torch.tensor([draw(SCALES) for _ in range(clients)]).view(-1, *[1] * len(shape))
        result[str(index)] = scale * torch.randn((clients, *shape), generator=streams.generator("g", index))
    return result


@pytest.mark.parametrize(("variant", "allocation"), pairs(VARIANTS, ALLOCATIONS))
@settings(max_examples=draws(40, 20))
@given(gradients=gradients(), power=st.sampled_from([1e-6, 0.1, 1.0, 1e4, math.inf]))
def test_no_client_exceeds_the_budget_whatever_it_has_to_say(variant, allocation, gradients, power):
    chosen = scheme(variant, compression_factor=0.3)
    if variant == "laser one-shot":  # its update holds a product of two noises, which may be no number: refused, below
        assume(all(g.abs().max() < 1e18 for g in gradients.values()))
    budget = math.inf if chosen.traits.noiseless else power
    shapes = {name: tuple(g.shape[1:]) for name, g in gradients.items()}
    shared = shared_of(chosen, shapes, torch.float32)
    receptions, *_ = walk_round(
        chosen, shared, {}, gradients, power=budget, allocation=ALLOCATIONS.load(allocation), shapes=shapes
    )
    used = sum(result.usage.client_power for result in receptions)
    assert used.max() <= budget * (1 + POWER_TOLERANCE)
    assert all(u.isfinite().all() for u in receptions[-1].update.values())


@pytest.mark.parametrize("variant", names(VARIANTS))
@settings(max_examples=2)
@given(power=st.integers(-30, 30), scale=st.integers(-30, 30))
@example(power=18, scale=-12)
@example(power=30, scale=-30)
@example(power=-30, scale=30)
def test_any_power_carries_gradients_of_any_size(variant, power, scale):
    """In float32: without noise no power changes the update, and with noise it is a number."""
    chosen, gradients = scheme(variant, compression_factor=0.3), tensors(dtype=torch.float32, scale=10.0**scale)
    shared = shared_of(chosen, dtype=torch.float32)
    budget = math.inf if chosen.traits.noiseless else 10.0**power

    def update_of(budget, variance):
        receptions, *_ = walk_round(chosen, shared, {}, gradients, power=budget, noise_variance=variance)
        assert sum(r.usage.client_power for r in receptions).max() <= budget * (1 + POWER_TOLERANCE)
        return receptions[-1].update

    silent, ideal = update_of(budget, 0.0), update_of(math.inf, 0.0)
    for name in SHAPES:
        torch.testing.assert_close(silent[name], ideal[name], rtol=1e-4, atol=1e-4 * float(ideal[name].abs().max()))
    if scale - min(power, power / 2) < 28 or math.isinf(budget):  # also a product of two noises is a number
        assert all(u.isfinite().all() for u in update_of(budget, 1.0).values())


@pytest.mark.parametrize(("variant", "scale"), [("z-sgd", 1e30), ("laser", 1e30), ("laser one-shot", 1e10)])
def test_a_round_of_which_no_number_can_hold_the_noise_is_refused(variant, scale):
    """Of one-shot it is the product of two noises."""
    chosen, gradients = scheme(variant), tensors(dtype=torch.float32, scale=scale)
    line = r"round 1: the received estimate of hidden.* is too large .* more power may help"
    with pytest.raises(TrainingError, match=line):
        walk_round(chosen, shared_of(chosen, dtype=torch.float32), {}, gradients, power=1e-30)


@pytest.mark.parametrize(("variant", "policy"), pairs(VARIANTS, POLICIES))
def test_the_ledger_never_shows_more_than_the_budget(variant, policy):
    """A short run of every scheme under every policy, and of both under every allocation."""
    allocation = names(ALLOCATIONS)[(names(VARIANTS).index(variant) + names(POLICIES).index(policy)) % len(ALLOCATIONS)]
    values = {"clients": 4, "power": 2.0, "power-policy": policy, "power-allocation": allocation}
    values["noise-variance"] = 1e-3  # so that digital messages fit, too
    server = Server(parse(values | VARIANTS[variant]), tensors(clients=None), RoundSchedule(6))
    memory = {}
    while not server.finished:
        told = server.broadcast()
        drawn = tensors(seed=server.round) if told.context.phase == 0 else None
        client_update, memory = encode_update(told, drawn, zero_losses(), memory)
        aggregate(server, client_update)
    budgets = [POLICIES.load(policy)(2.0, t, 6) for t in range(6)]
    for line, budget in zip(server.ledger, budgets, strict=True):
        assert line.power_budget == (math.inf if variant == "sgd" else pytest.approx(budget))
        assert 0 < line.max_power_used <= line.power_budget * (1 + POWER_TOLERANCE)


@pytest.mark.parametrize("allocation", names(ALLOCATIONS))
@given(gradients=gradients())
def test_shares_sum_to_one_and_everybody_who_speaks_gets_some(allocation, gradients):
    reported = norms(gradients, len(next(iter(gradients.values()))))
    sizes = torch.tensor([float(g[0].numel()) for g in gradients.values()], dtype=torch.float64)
    share = shares(reported, reported, sizes, ALLOCATIONS.load(allocation))
    assert share.sum().item() == pytest.approx(1)
    assert (share >= 0).all()
    transmits = reported.amax(dim=0) > 0
    assert (share[transmits] >= SMALLEST_SHARE / len(share)).all()


def test_the_whole_budget_is_used_by_a_client_that_is_strongest_everywhere():
    gradients = {"a": torch.tensor([[1.0], [0.5]]), "b": torch.tensor([[2.0], [1.0]])}
    shapes = {"a": (1,), "b": (1,)}
    receptions, *_ = walk_round(scheme("z-sgd"), {}, {}, gradients, power=5.0, shapes=shapes)
    torch.testing.assert_close(receptions[0].usage.client_power, torch.tensor([5.0, 1.25], dtype=torch.float64))


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


@given(
    norms_and_sizes=st.integers(1, 8).flatmap(
        lambda blocks: st.tuples(
            st.lists(st.floats(1e-3, 1e3), min_size=blocks, max_size=blocks),
            st.lists(st.integers(1, 10**6), min_size=blocks, max_size=blocks),
            st.lists(st.floats(1e-3, 1), min_size=blocks, max_size=blocks),
        )
    )
)
def test_min_mse_has_the_least_summed_noise_of_all_allocations_and_of_random_shares(norms_and_sizes):
    """Σ_l c_l² d_l / P_l, the energy of all noise together but for σ²/k²."""
    c, sizes, random = (torch.tensor(values, dtype=torch.float64) for values in norms_and_sizes)

    def noise(share):
        return (c.square() * sizes / share).sum().item()

    least = noise(ALLOCATIONS.load("min-mse")(c.unsqueeze(0), c.unsqueeze(0), sizes))
    assert least <= noise(random / random.sum()) * (1 + 1e-9)
    for name in ALLOCATIONS:
        assert least <= noise(ALLOCATIONS.load(name)(c.unsqueeze(0), c.unsqueeze(0), sizes)) * (1 + 1e-9)


def test_policies_by_hand():
    third = 1 / 3
    expected = {
        "constant": [1, 1, 1, 1, 1],
        "linear-up": [third, 2 * third, 1, 4 * third, 5 * third],
        "linear-down": [5 * third, 4 * third, 1, 2 * third, third],
        "steps-up": [third, 2 * third, 1, 4 * third, 5 * third],
        "steps-down": [5 * third, 4 * third, 1, 2 * third, third],
    }
    assert set(expected) == set(POLICIES)
    for name, levels in expected.items():
        assert [POLICIES.load(name)(1.0, step, 5) for step in range(5)] == pytest.approx(levels)
    assert [POLICIES.load("steps-up")(1.0, s, 10) for s in (0, 1, 2, 9)] == pytest.approx(
        [third, third, 2 * third, 5 * third]
    )
    assert POLICIES.load("linear-up")(1.0, 1, 3) == pytest.approx(1)


ONLY_VECTORS, ONLY_MATRICES = {"bias": (7,), "small": (3, 3)}, {"hidden": (12, 10), "out": (6, 40)}


@pytest.mark.parametrize(("shapes", "first"), [(ONLY_VECTORS, 0.0), (ONLY_MATRICES, 0.3), (SHAPES, 0.3)])
def test_a_phase_without_anything_to_send_cedes_its_power(shapes, first):
    """Nothing is compressed, everything is, or some; with one client every phase spends all that it gets."""
    options = {"strategy": "laser", "factor-exchange": "two-phase", "phase-split": 0.3, "clients": 1, "power": 4.0}
    server = Server(parse(options), tensors(shapes, clients=None), RoundSchedule(2))
    memory, spent = {}, []
    for phase in (0, 1):
        drawn = tensors(shapes, clients=1) if phase == 0 else None
        client_update, memory = encode_update(server.broadcast(), drawn, zero_losses(1), memory)
        aggregate(server, client_update)
        spent.append(server.ledger[0].max_power_used if phase else float(server.air.accounting.client_energy.max()))
    assert spent == pytest.approx([4 * first, 4.0])


class TestACheatingClient:
    """Power is measured on what is transmitted, not on what clients say of it."""

    def aggregate(self, change, cheats=(0,)):
        server = Server(
            parse({"strategy": "z-sgd", "clients": 4, "max-retries": 0}), tensors(clients=None), RoundSchedule(1)
        )
        told = server.broadcast()
        strongest = torch.tensor([10.0, 1.0, 1.0, 1.0], dtype=torch.float64)  # the first client uses all of the budget
        gradients = {name: g.transpose(0, -1).mul(strongest).transpose(0, -1) for name, g in tensors().items()}
        client_update, _ = encode_update(told, gradients, zero_losses(), {})
        signals = {name: signal.clone() for name, signal in client_update.signals.items()}
        for signal in signals.values():
            for client in cheats:
                signal[client] = change(signal[client])
        aggregate(server, replace(client_update, signals=signals))
        return server.ledger[0]

    @pytest.mark.parametrize("change", [lambda s: 1.00001 * s, lambda s: 3 * s, lambda s: 0.5 * s])
    def test_that_sends_something_else_than_it_reports_is_left_out(self, change):
        line = self.aggregate(change)
        assert (line.faults, line.left_out, line.participants) == (1, "0 norm", 3)
        assert 0 < line.max_power_used <= 1 + POWER_TOLERANCE

    def test_that_sends_nan_under_finite_norms_is_left_out(self):
        assert self.aggregate(lambda signal: signal * float("nan")).left_out == "0 not-finite"

    def test_leaves_nothing_where_all_are_like_it(self):
        with pytest.raises(TrainingError, match=r"round 1: client 0: the signal .* norm .*; 0 of 4 clients"):
            self.aggregate(lambda signal: 3 * signal, range(4))


def test_the_ledger_refuses_a_client_above_the_budget():
    usage = ChannelUsage(torch.tensor([1.0, 1.1], dtype=torch.float64), 10, 10, 1.0, 1.0)
    accounting = RoundAccounting(torch.zeros(3, dtype=torch.float64))
    accounting.take(usage, (0, 2), 0)
    with pytest.raises(PowerError, match=r"round 7: a client transmitted with power 1\.1.* budget of 1\.0"):
        accounting.record(7, 2, 2, 1.0, bandwidth=1.0)
