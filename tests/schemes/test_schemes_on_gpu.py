"""Schemes on stand-ins of a GPU's tensors: no mixed devices, the CPU's values, and few waits."""

from dataclasses import replace

import pytest
import torch

from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import Received
from laser_fl.schemes.householder import householder
from laser_fl.schemes.laser import orthonormal, orthonormal_each
from tests.helpers import VARIANTS, context, names, scheme, tensors
from tests.standins import counting, here, there

pytestmark = pytest.mark.shapes

SHAPES = {"hidden": (12, 10), "bias": (12,), "kernel": (8, 2, 3, 3), "zero": (9, 11), "out": (3, 20), "wide": (7, 40)}
TWO = {name: SHAPES[name] for name in ("hidden", "bias")}
POWER, CLIENTS, ROUNDS = 1.0, 3, 2


def walk(name, shapes, clients, streams, move=lambda tree: tree, count=lambda: 0):
    """Two rounds of encode and decode; returns (updates, shared states, memories; waits of the second round)."""
    chosen, memory, seen, waits = scheme(name), {}, [], 0
    noise_variance = float(VARIANTS[name].get("noise-variance", 1.0))
    first = chosen.init(context(shapes).blocks, RandomStreams(0))
    shared = move({n: t.double() for n, t in first.items()})
    for t in range(ROUNDS):
        drawn = tensors(shapes, clients, seed=t, dtype=torch.float64)
        corrected = move({n: g * (n != "zero") for n, g in drawn.items()})
        corrected = {n: g + memory[n] if n in memory else g for n, g in corrected.items()}
        remaining, before = {n: g.clone() for n, g in corrected.items()}, count()
        for phase in range(len(chosen.traits.phase_shares)):
            ctx = replace(context(shapes, clients, t, POWER, noise_variance, phase=phase), streams=streams)
            signals, approximations = chosen.encode(corrected, shared, ctx)
            for n, approximation in approximations.items():
                approximation.subtract_from_(remaining[n])
            update, shared = chosen.decode(received(signals), shared, ctx)
        waits = count() - before
        memory = remaining if chosen.traits.error_feedback else {}
        seen += [update, shared, memory]
    return seen, waits


def received(signals):
    means = {n: s.mean(dim=0) for n, s in signals.items()}
    return Received(means, {n: torch.zeros_like(s.flatten()[0]).double() for n, s in signals.items()})


def on_stand_ins(monkeypatch, name, shapes, clients, shared="cuda"):
    with counting(monkeypatch) as counts:
        seen, waits = walk(name, shapes, clients, RandomStreams(0, shared=shared), there, lambda: counts.waits)
    return here(seen), waits


@pytest.mark.parametrize("name", names(VARIANTS))
@pytest.mark.parametrize("shared", ["cuda", "cpu"])
def test_a_scheme_is_on_a_gpu_what_it_is_on_the_cpu(name, shared, monkeypatch):
    expected, _ = walk(name, SHAPES, CLIENTS, RandomStreams(0))
    actual, _ = on_stand_ins(monkeypatch, name, SHAPES, CLIENTS, shared)
    for got, wanted in zip(actual, expected, strict=True):
        assert got.keys() == wanted.keys()
        for n, value in wanted.items():
            assert (got[n] - value).norm() <= 1e-10 * value.norm().clamp_min(1.0), n


@pytest.mark.parametrize("name", names(VARIANTS))
def test_waits_grow_neither_with_blocks_nor_with_clients(name, monkeypatch):
    few = on_stand_ins(monkeypatch, name, TWO, 2)[1]
    assert few <= 6
    assert on_stand_ins(monkeypatch, name, SHAPES, 2)[1] == few
    assert on_stand_ins(monkeypatch, name, TWO, 5)[1] == few


@pytest.mark.parametrize("shape", [(5, 1), (3, 3), (600, 2), (4, 30, 3)])
@pytest.mark.parametrize("scale", [1.0, 1e-25, 1e20])
def test_reflections_and_lapack_give_the_same_basis(shape, scale):
    columns = scale * torch.randn(shape, generator=RandomStreams(0).generator("columns"))
    torch.testing.assert_close(householder(columns), orthonormal(columns), rtol=0, atol=1e-6)


def test_reflections_complete_columns_that_carry_nothing():
    one = torch.randn(7, generator=RandomStreams(0).generator("column"))
    columns = torch.stack([torch.zeros(7), one, 2 * one], dim=1)
    basis = householder(torch.cat([columns, torch.zeros(4, 3)]))
    torch.testing.assert_close(basis.mT @ basis, torch.eye(3))
    assert not basis[7:].any()


def test_all_bases_of_a_round_take_as_many_steps_as_the_bases_of_a_few(monkeypatch):
    def launches(count):
        with counting(monkeypatch) as counts:
            orthonormal_each(there([torch.randn(10 + i, 2) for i in range(count)]))
        return counts.launches

    assert launches(40) == launches(2)
