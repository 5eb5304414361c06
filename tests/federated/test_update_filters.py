"""The receivers between the air and the optimizer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.federated.optimizer import OptimizerConfig
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.update_filters import gain, wiener
from laser_fl.pipeline import aggregate_updates, encode_update
from laser_fl.registry import UPDATE_FILTERS
from laser_fl.schemes.base import Received
from simulations.engines import in_process
from tests.effort import draws
from tests.helpers import SHAPES, VARIANTS, aggregate, context, exact, names, scheme, shared_of, tensors, zero_losses

pytestmark = pytest.mark.shapes

LINEAR = [name for name in VARIANTS if scheme(name).traits.linear]


def scalar(value):
    return torch.tensor(value, dtype=torch.float64)


@pytest.mark.parametrize(("strategy", "own"), [("laser-adaptive", "paced"), ("laser", "plain"), ("random-k", "plain")])
def test_auto_is_the_receiver_that_the_scheme_promises(strategy, own):
    weights = {}
    for receiver in ("auto", *names(UPDATE_FILTERS)):
        server = Server(
            parse({"strategy": strategy, "clients": 4, "receiver": receiver, "power": 0.1, "learning-rate": 10}),
            tensors(clients=None),
            RoundSchedule(3),
        )
        memory = {}
        while not server.finished:
            client_update, memory = encode_update(server.broadcast(), tensors(seed=server.round), zero_losses(), memory)
            aggregate(server, client_update)
        weights[receiver] = server.global_model.weights
    for receiver in names(UPDATE_FILTERS):
        assert (receiver == own) == all(torch.equal(weights["auto"][n], weights[receiver][n]) for n in SHAPES)


@pytest.mark.parametrize("receiver", names(UPDATE_FILTERS))
def test_without_noise_every_receiver_takes_the_update_as_it_is(receiver):
    known, silence = {}, dict.fromkeys(SHAPES, scalar(0.0))
    for t in range(4):
        update = tensors(clients=None, seed=t)
        weighed, known = UPDATE_FILTERS.load(receiver)(update, silence, known)
        assert all(torch.equal(weighed[n], update[n]) for n in SHAPES)


@given(energies=st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_the_gain_is_that_of_the_sum_so_far(energies):
    known, total, spent = {}, torch.zeros(3, 5, dtype=torch.float64), 0.0
    for t, energy in enumerate(energies):
        update = tensors({"w": (3, 5)}, clients=None, seed=t)
        before = update["w"].clone()
        weighed, known = wiener(update, {"w": scalar(energy)}, known)
        total, spent = total + before, spent + energy
        expected = max(0.0, 1 - spent / total.square().sum().item())
        torch.testing.assert_close(weighed["w"], expected * before)
        assert torch.equal(update["w"], before)


@given(energies=st.lists(st.floats(0.01, 100), min_size=1, max_size=6), step=st.floats(0, 1))
def test_gains_add_up_to_what_is_due_or_are_those_of_the_sum(energies, step):
    waiting, known, given = {}, {}, 0.0
    for t, energy in enumerate(energies):
        noise, update = {"w": scalar(energy)}, tensors({"w": (3, 5)}, clients=None, seed=t)
        reliable, waiting = wiener(update, noise, waiting, due=step * (t + 1))
        weighed, known = UPDATE_FILTERS.load("paced")(update, noise, known, due=step * (t + 1))
        least, weight = ((one["w"] / update["w"]).mean().item() for one in (reliable, weighed))
        given += weight
        assert weight == pytest.approx(least) or given == pytest.approx(step * (t + 1))
        assert given >= step * (t + 1) - 1e-9
        assert least - 1e-9 <= weight <= 1 + 1e-9


@given(rate=st.floats(1e-4, 10), momentum=st.floats(0, 0.99), rounds=st.integers(1, 1000))
def test_what_is_due_falls_with_the_square_of_a_runs_length_and_rises_over_it(rate, momentum, rounds):
    options = {"learning-rate": rate, "momentum": momentum, "rounds": rounds}
    optimizer_config = OptimizerConfig.of(parse(options), rounds, receiver="paced")
    due = torch.tensor([optimizer_config.due(t) for t in range(rounds + 1)], dtype=torch.float64)
    gains = due.diff()
    assert due[0] == 0
    assert ((gains >= 0) & (gains <= 1 + 1e-9)).all()
    assert (gains.diff() >= -1e-9).all()
    reach = rate * rounds / (1 - momentum)
    assert float(due[-1]) == pytest.approx(rounds * min(1, (10 / reach) ** 2))


def test_a_run_as_short_as_the_default_takes_what_it_hears_as_it_is():
    config, rounds = parse({"strategy": "laser-adaptive"}), 60 * 8  # 4,000 digits are 8 rounds of 16 clients x 32
    optimizer_config = OptimizerConfig.of(config, rounds, receiver="paced")
    assert [optimizer_config.due(t) for t in (1, 100, rounds)] == [1, 100, rounds]
    assert OptimizerConfig.of(parse({"learning-rate": 1e-300}), 10, receiver="paced").due(10) == 10


def test_a_constant_gain_means_nothing_to_adamw():
    assert OptimizerConfig.of(parse({"optimizer": "adamw"}), 10, receiver="paced").due(10) == 0


def test_nothing_heard_gives_nothing():
    assert gain(torch.zeros(3), scalar(0.0)) == 1
    assert gain(torch.zeros(3), scalar(1.0)) == 0


def test_what_is_not_to_be_weighed_counts_all_the_same():
    update, noise = tensors(clients=None), dict.fromkeys(SHAPES, scalar(30.0))
    first, known = wiener({n: u.clone() for n, u in update.items()}, noise, {}, weighs=False)
    assert all(torch.equal(first[n], update[n]) for n in SHAPES)
    second, _ = wiener(update, noise, known)
    for n in SHAPES:
        torch.testing.assert_close(second[n], update[n] * max(0.0, 1 - 60 / (4 * update[n].square().sum().item())))


def test_a_run_steps_on_what_its_receiver_makes(monkeypatch):
    """Two rounds of Random-K on the server, once plain and once weighed."""
    receptions, weights = [], {}

    def record(*arguments):
        receptions.append(aggregate_updates(*arguments))
        return receptions[-1]

    monkeypatch.setattr("laser_fl.federated.air_interface.aggregate_updates", record)
    for receiver in ("plain", "wiener"):
        config = parse({"strategy": "random-k", "clients": 4, "receiver": receiver, "power": 300, "learning-rate": 1})
        server, memory = Server(config, tensors(clients=None), RoundSchedule(2)), {}
        for _ in range(2):
            told = server.broadcast()
            client_update, memory = encode_update(told, tensors(seed=told.context.round), zero_losses(), memory)
            aggregate(server, client_update)
        weights[receiver] = server.global_model.weights
    (first, second, again, _), start = receptions, tensors(clients=None)
    for n in SHAPES:
        assert torch.equal(first.update[n], again.update[n])
        total = first.update[n] + second.update[n]
        one, two = gain(first.update[n], first.noise[n]), gain(total, first.noise[n] + second.noise[n])
        torch.testing.assert_close(weights["plain"][n], start[n] - total)
        torch.testing.assert_close(weights["wiener"][n], start[n] - one * first.update[n] - two * second.update[n])
        assert 0 < two < 1


@pytest.mark.parametrize(
    ("power", "rank", "other"), [(1e3, 2, "laser"), (math.inf, 2, "laser"), (math.inf, 0, "sgd"), (0.1, 2, "")]
)
def test_a_run_of_laser_adaptive_is_the_other_run_to_the_bit(tmp_path, power, rank, other):
    config = {"model": "linear", "clients": 5, "batch-size": 16, "rounds": 6, "momentum": 0.9, "power": power}
    runs = {"ours": {"strategy": "laser-adaptive", "rank": rank}, "other": {"strategy": other or "laser"}}
    for name, keys in runs.items():
        in_process.run(parse(config | keys), tmp_path / name)
    same = [(tmp_path / name / "weights.safetensors").read_bytes() for name in runs]
    assert (same[0] == same[1]) == bool(other)


@pytest.mark.parametrize("rounds", [1, 30])
def test_the_gain_is_the_one_with_the_least_error_of_the_sum(rounds):
    """Monte Carlo, against a search: weighing the sum by it brings the sum of the signals back best."""
    generator = torch.Generator().manual_seed(0)
    signal, std, size = torch.randn(2000, generator=generator), 3.0, 2000
    gains, errors = [], []
    search = torch.linspace(0, 1, 201)
    for _ in range(40):
        total = rounds * signal + std * math.sqrt(rounds) * torch.randn(size, generator=generator)
        gains.append(gain(total, scalar(rounds * size * std**2)).item())
        errors.append([(w * total - rounds * signal).square().mean() for w in search])
    best = search[torch.tensor(errors).mean(dim=0).argmin()].item()
    assert sum(gains) / len(gains) == pytest.approx(best, abs=0.02)


@pytest.mark.parametrize("name", LINEAR)
def test_the_noise_of_an_update_is_what_its_scheme_says(name):
    """Monte Carlo: the energy of what comes of pure noise."""
    chosen = scheme(name)
    phases = len(chosen.traits.phase_shares)
    ctx = context(phase=phases - 1)
    shared = shared_of(chosen)
    if phases > 1:
        signals, _ = chosen.encode(tensors(), shared, context())
        _, shared = chosen.decode(exact(signals), shared, context())
    signals, _ = chosen.encode(tensors(), shared, ctx)
    generator, rounds, energies = torch.Generator().manual_seed(0), draws(400, 150), dict.fromkeys(SHAPES, 0.0)
    stds = {n: scalar(0.5 + index) for index, n in enumerate(signals)}
    for _ in range(rounds):
        noise = {n: stds[n] * torch.randn(s.shape[1:], generator=generator, dtype=s.dtype) for n, s in signals.items()}
        update, _ = chosen.decode(Received(noise, stds), shared, ctx)
        energies = {n: energies[n] + update[n].square().sum().item() / rounds for n in SHAPES}
    said = chosen.noise_energies(Received(noise, stds), ctx)
    for n in SHAPES:
        assert energies[n] == pytest.approx(said[n].item(), rel=0.15)


@pytest.mark.parametrize("keys", [{"strategy": "signum"}, {"strategy": "laser", "factor-exchange": "one-shot"}])
def test_what_is_not_linear_is_not_weighed(keys):
    with pytest.raises(ConfigError, match="receiver: must be plain or auto for strategy"):
        Server(parse(keys | {"receiver": "wiener"}), tensors(clients=None), RoundSchedule(2))
