"""Signals that clients of one process add up as they compute them."""

import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated import in_process
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import prepare

KEYS = {"model": "linear", "clients": 6, "batch-size": 8, "rounds": 4, "client-batching": "loop", "power": 10}
PARTS = ["z-sgd", "sgd", "signum", "sketch"]


def run(spoil=None, **options):
    engine = InProcess(prepare(parse(KEYS | {name.replace("_", "-"): value for name, value in options.items()})))
    compute = engine._trainer._trainer.compute
    if spoil is not None:
        client, factor = spoil

        def spoiled(broadcast, together=()):
            computed = compute(broadcast, together)
            for gradient in computed.gradients.values() if client in broadcast.context.participants else ():
                gradient.mul_(factor)
            return computed

        engine._trainer._trainer.compute = spoiled
    while not engine.server.finished:
        engine.advance()
    return engine.server


def both(monkeypatch, **options):
    aside = run(**options)
    monkeypatch.setattr(in_process, "SIDE_BY_SIDE", 0)
    return aside, run(**options)


def assert_close(aside, summed):
    for name, weight in aside.global_model.weights.items():
        torch.testing.assert_close(summed.global_model.weights[name], weight, rtol=1e-5, atol=1e-6)
    for one, other in zip(aside.ledger, summed.ledger, strict=True):
        assert one.figures == pytest.approx(other.figures, rel=1e-5)
        assert one.left_out == other.left_out


@pytest.mark.parametrize("strategy", PARTS)
def test_a_sum_made_at_the_clients_is_the_sum_of_the_air(strategy, monkeypatch):
    assert_close(*both(monkeypatch, strategy=strategy, channel="fading", fraction=0.8))


def test_gains_that_are_not_in_phase_are_in_the_sum(monkeypatch):
    assert_close(*both(monkeypatch, strategy="z-sgd", channel="blind", antennas=2))


@pytest.mark.parametrize(("factor", "kind"), [(torch.nan, "not-finite"), (torch.inf, "not-finite"), (1e8, "norm")])
def test_a_client_that_is_left_out_is_not_in_the_sum(factor, kind, monkeypatch):
    aside, summed = both(monkeypatch, strategy="z-sgd", spoil=(2, factor), norm_cap=100)
    assert [record.left_out for record in summed.ledger] == [f"2 {kind}"] * 4
    assert_close(aside, summed)


def test_memories_and_weighted_means_are_computed_side_by_side(monkeypatch):
    monkeypatch.setattr(in_process, "SIDE_BY_SIDE", 0)
    for keys in ({"strategy": "laser"}, {"strategy": "d-dsgd"}, {"strategy": "z-sgd", "client-weighting": "examples"}):
        assert not in_process.superposes(InProcess(prepare(parse(KEYS | keys))).server)
