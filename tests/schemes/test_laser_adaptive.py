"""laser-adaptive: LASER where its factors are heard, else a factor and as many columns as the power carries."""

import math

import pytest
import torch

from laser_fl.config import parse
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from tests.helpers import (
    SHAPES,
    VARIANTS,
    aggregate,
    context,
    exact,
    names,
    scheme,
    shared_of,
    tensors,
    walk_round,
    zero_losses,
)
from tests.schemes.test_schemes import CLIENTS, dense


def test_every_variant_of_it_sends_columns_in_the_shared_tests():
    for name in names(VARIANTS):
        if name.startswith("laser-adaptive"):
            config = parse({"power": 5e3, "clients": 6} | VARIANTS[name])
            told = Server(config, tensors(clients=None), RoundSchedule(1)).broadcast()
            sent = told.scheme.shapes(told.context.blocks[0], told.context)
            assert sent.keys() == {"hidden#factor", "hidden#columns"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [0, 1, 2, 3, 4, 8])
def test_is_laser_on_a_noiseless_channel_or_sgd_without_a_rank_to_the_bit(rank, dtype):
    other, shapes, walks = "laser" if rank else "sgd", SHAPES | {"w": (10, 784), "tall": (64, 10)}, {}
    for name, options in (("laser-adaptive", {"rank": rank}), (other, {"rank": rank or 2})):
        chosen = scheme(name, **options)
        shared, memory, updates = shared_of(chosen, shapes, dtype), {}, []
        for t in range(6):
            gradients = tensors(shapes, seed=t, dtype=dtype)
            receptions, client_updates, _, memory = walk_round(
                chosen, shared, memory, gradients, t, math.inf, shapes=shapes
            )
            shared = receptions[-1].shared
            updates.append((receptions[-1].update, client_updates[-1].signals))
        walks[name] = updates
    for ours, theirs in zip(*walks.values(), strict=True):
        for one, two in zip(ours, theirs, strict=True):
            assert one.keys() == two.keys()
            assert all(torch.equal(one[n], two[n]) for n in one)


@pytest.mark.parametrize("shape", [(12, 30), (30, 12), (20, 20), (3, 4, 10)])
def test_power_that_rises_and_falls_loses_nothing(shape):
    """LASER where the power carries everything, factors and columns elsewhere: one state serves both."""
    shapes, given, taken = {"w": shape}, 0.0, 0.0
    chosen = scheme("laser-adaptive", rank=2)
    shared, memory = shared_of(chosen, shapes), {}
    for t, power in enumerate([0.1, math.inf, math.inf, 0.3, math.inf, 0.1, 0.2, math.inf]):
        ctx, gradients = context(shapes, round=t, power=power), tensors(shapes, seed=t)
        assert chosen.fits(shared, ctx)
        assert chosen.weighs(ctx) == math.isfinite(power) == ("w#columns" in chosen.shapes(ctx.blocks[0], ctx))
        client_update, memory = encode_update(Broadcast(chosen, shared, ctx), gradients, zero_losses(), memory)
        update, shared = chosen.decode(exact(client_update.signals), shared, ctx)
        if not chosen.weighs(ctx):  # LASER's update is all that was heard lately
            lately = shared["w#short"] @ shared["w#core"] @ shared["w#long"].mT
            torch.testing.assert_close(lately, ctx.blocks[0].wide(ctx.blocks[0].to_matrix(update["w"])))
        given, taken = given + gradients["w"].mean(dim=0), taken + update["w"]
        torch.testing.assert_close(taken + memory["w"].mean(dim=0), given)


def test_delivers_everything_in_the_end():
    """One gradient, then silence, heard exactly: the columns bring what the factor leaves."""
    chosen, gradients, memory = scheme("laser-adaptive", rank=2), tensors(), {}
    shared, total = shared_of(chosen), {n: torch.zeros(shape, dtype=torch.float64) for n, shape in SHAPES.items()}
    for t in range(400):
        ctx = context(round=t, power=1e-3)
        sent = gradients if t == 0 else {n: torch.zeros_like(g) for n, g in gradients.items()}
        client_update, memory = encode_update(Broadcast(chosen, shared, ctx), sent, zero_losses(), memory)
        assert "kernel#columns" in client_update.signals
        update, shared = chosen.decode(exact(client_update.signals), shared, ctx)
        total = {n: total[n] + u for n, u in update.items()}
    for n in SHAPES:
        torch.testing.assert_close(total[n], gradients[n].mean(dim=0), rtol=0, atol=1e-6)


def test_at_its_columns_nothing_is_remembered():
    chosen, ctx = scheme("laser-adaptive", rank=2), context()
    corrected = tensors()
    _, kept = chosen.encode(corrected, shared_of(chosen, round=3), ctx)
    for block, wide in (("kernel", (CLIENTS, 8, 18)), ("hidden", (CLIENTS, 12, 10))):
        rest = (corrected[block] - dense(kept, corrected)[block]).reshape(wide)
        rest = rest if wide[1] <= wide[2] else rest.mT
        silent = (rest.abs().amax(dim=(0, 1)) == 0).sum().item()
        assert silent == chosen.columns(next(b for b in ctx.blocks if b.name == block), ctx)


def test_follows_what_it_hears():
    """Of a gradient in a plane it finds the plane, however few columns it sees at once: the rest waits."""
    left, right = (torch.linalg.qr(tensors({"q": (n, 2)}, clients=None, seed=n)["q"]).Q for n in (20, 60))
    gradient = left @ torch.diag(torch.tensor([2.0, 1.0], dtype=torch.float64)) @ right.mT
    shapes, chosen = {"w": (20, 60)}, scheme("laser-adaptive", rank=2)
    shared, memory = shared_of(chosen, shapes), {}
    for t in range(900):
        ctx = context(shapes, round=t, power=0.3)
        told = Broadcast(chosen, shared, ctx)
        client_update, memory = encode_update(told, {"w": gradient.expand(4, 20, 60)}, zero_losses(), memory)
        update, shared = chosen.decode(exact(client_update.signals), shared, ctx)
    assert chosen.shapes(ctx.blocks[0], ctx)["w#columns"] == (20, 4)
    long, short = shared["w#long"], shared["w#short"]
    torch.testing.assert_close(long @ (long.mT @ right), right, rtol=0, atol=1e-2)
    torch.testing.assert_close(short @ (short.mT @ left), left, rtol=0, atol=1e-2)
    torch.testing.assert_close(update["w"], gradient, rtol=0, atol=1e-2)


@pytest.mark.parametrize(
    ("power", "rank", "columns"),
    [
        (1e-6, 2, 1),
        (0.1, 2, 72),
        (1.0, 2, 154),
        (2.0, 2, 154),  # with the factor 1,560 values, LASER's are 1,568
        (0.1, 1, 73),
        (0.5, 1, 77),
        (0.1, 0, 72),
        (1.0, 0, 154),
        (10.0, 0, 320),
    ],
)
def test_sends_what_the_power_carries(power, rank, columns):
    shapes = {"w": (10, 784), "b": (10,)}
    chosen, ctx = scheme("laser-adaptive", rank=rank), context(shapes, clients=16, power=power)
    assert chosen.columns(ctx.blocks[0], ctx) == columns
    assert chosen.num_values(ctx) == 10 * (rank or 2) + 10 * columns + 10
    assert chosen.weighs(ctx)


@pytest.mark.parametrize(("power", "rank"), [(2.0, 3), (3.0, 2), (1e9, 2), (1.0, 1)])
def test_is_laser_where_its_factors_are_heard(power, rank):
    shapes = {"w": (10, 784), "b": (10,)}
    ctx = context(shapes, clients=16, power=power)
    received = power >= {3: 5.0, 2: 2.83, 1: 0.67}[rank]  # 2kP/(dσ²) = p / (1 - p), p = d / N, but for the biases
    assert scheme("laser-adaptive", rank=rank).weighs(ctx) != received
    if received:
        assert scheme("laser-adaptive", rank=rank).num_values(ctx) == scheme("laser", rank=rank).num_values(ctx)


@pytest.mark.parametrize("power", [1e-6, 0.3, 10.0])
def test_of_a_square_matrix_it_sends_one_column_beside_the_factor(power):
    """LASER's longer factor has no more values than the small one; without a rank the power alone decides."""
    shapes = {"w": (64, 64)}
    ctx = context(shapes, power=power)
    assert scheme("laser-adaptive", rank=8).columns(ctx.blocks[0], ctx) == 1
    assert scheme("laser-adaptive", rank=0).columns(ctx.blocks[0], ctx) == max(1, round(64 * ctx.best_share) - 2)


def test_one_client_sends_everything_where_factors_drown():
    """Its signal has the same noise whatever the share, and there is nothing else to gain."""
    shapes = {"w": (10, 784), "b": (10,)}
    ctx = context(shapes, clients=1, power=0.1)
    assert scheme("laser-adaptive", rank=0).num_values(ctx) == 7850
    assert scheme("laser-adaptive", rank=2).num_values(ctx) == 20 + 1540 + 10
    assert all(scheme("laser-adaptive", rank=rank).weighs(ctx) for rank in (0, 2))


def test_without_matrices_it_is_z_sgd_that_is_weighed():
    ctx = context({"b": (5,), "scale": (1,)}, power=1e3)
    assert scheme("laser-adaptive").num_values(ctx) == 6
    assert scheme("laser-adaptive").weighs(ctx)


def test_random_k_sends_what_the_power_carries_where_no_factor_is_given():
    shapes = {"w": (10, 784), "b": (10,)}
    for power, values in ((0.1, 736), (1.0, 1560), (math.inf, 7840)):
        ctx = context(shapes, clients=16, power=power)
        assert scheme("random-k", compression_factor=0).values(ctx.blocks[0], ctx) == pytest.approx(values, abs=8)


@pytest.mark.parametrize("keys", [{"strategy": "laser-adaptive"}, {"strategy": "random-k", "compression-factor": 0}])
def test_what_the_power_carries_is_known_before_the_channel_is(keys):
    """On a blind channel the noise of a round is drawn with its gains, which no client knows."""
    config = parse({"channel": "blind", "antennas": 2, "clients": 4, "power": 0.3} | keys)
    server, memory, noises = Server(config, tensors(clients=None), RoundSchedule(8)), {}, set()
    while not server.finished:
        noises.add(server.air.participation.channel_state.noise_scale)
        client_update, memory = encode_update(server.broadcast(), tensors(seed=server.round), zero_losses(), memory)
        aggregate(server, client_update)
    assert len(noises) == 8
    assert len({line.uplink_floats for line in server.ledger}) == 1
