"""What every scheme of the table promises, held to it through all phases of a round."""

import math
from dataclasses import replace

import pytest
import torch

from laser_fl.channels.mac import draw_noise
from laser_fl.federated.broadcast import Broadcast
from laser_fl.pipeline import encode_update
from laser_fl.rng import RandomStreams
from laser_fl.schemes import sketch
from laser_fl.schemes.indices import draw_indices
from laser_fl.schemes.laser import orthonormal
from laser_fl.schemes.laser_variants import OneShot
from laser_fl.schemes.projection import Projection
from laser_fl.testing import check_scheme
from tests.effort import draws
from tests.helpers import (
    SHAPES,
    VARIANTS,
    context,
    exact,
    names,
    scheme,
    shared_of,
    tensors,
    walk_round,
    zero_losses,
)

pytestmark = pytest.mark.shapes

CLIENTS = 4
LINEAR = [name for name in VARIANTS if scheme(name).traits.linear]
REMEMBERING = [name for name in VARIANTS if scheme(name).traits.error_feedback]


def copies(tree):
    return {name: tensor.clone() for name, tensor in tree.items()}


def dense(approximations, corrected):
    """What is kept, as tensors like the corrected gradients, which stay as they are."""
    rest = copies(corrected)
    for name, part in approximations.items():
        part.subtract_from_(rest[name])
    return {name: corrected[name] - rest[name] for name in approximations}


def code(chosen, corrected, round, dtype=torch.float64):
    """A round of encode and exact decode: (signals per phase, all that was kept, update, next shared state)."""
    shared, sent, everything_kept, update = shared_of(chosen, dtype=dtype, round=round), [], {}, None
    speaking = range(len(next(iter(corrected.values()))))
    for phase in range(len(chosen.traits.phase_shares)):  # a run of CLIENTS, of which some speak
        ctx = replace(context(round=round, phase=phase, clients=CLIENTS).of(speaking), averaged=len(speaking))
        signals, approximations = chosen.encode(corrected, shared, ctx)
        assert not everything_kept.keys() & approximations.keys()
        everything_kept |= dense(approximations, corrected)
        update, shared = chosen.decode(exact(signals), shared, ctx)
        sent.append(signals)
    return sent, everything_kept, update, shared


@pytest.mark.parametrize("name", names(VARIANTS))
def test_every_scheme_keeps_the_promises_of_schemes(name):
    check_scheme(scheme(name))


@pytest.mark.parametrize("name", names(VARIANTS))
@pytest.mark.parametrize("round", [0, 1])
class TestEveryScheme:
    def test_in_place_it_is_the_same_without_more_memory(self, name, round):
        chosen = scheme(name)
        memory = tensors(seed=1) if chosen.traits.error_feedback else {}
        shared = shared_of(chosen, round=round)
        broadcast = Broadcast(chosen, shared, context(round=round))
        pure, apart = encode_update(broadcast, tensors(seed=2), zero_losses(), memory)
        given, gradients = copies(memory), tensors(seed=2)
        client_update, after = encode_update(broadcast, gradients, zero_losses(), given, in_place=True)
        assert all(torch.equal(client_update.signals[n], pure.signals[n]) for n in pure.signals)
        assert after.keys() == apart.keys()
        assert all(torch.equal(after[n], apart[n]) and after[n] is gradients[n] for n in after)
        assert all(torch.equal(given[n], memory[n]) for n in given)
        assert all(torch.equal(memory[n], m) for n, m in tensors(seed=1).items() if memory)

    def test_zero_gradients_give_zero_updates_and_finite_state(self, name, round):
        chosen = scheme(name)
        zeros = {n: torch.zeros_like(g) for n, g in tensors().items()}
        receptions, _, _, memory = walk_round(chosen, shared_of(chosen, round=round), {}, zeros, round)
        assert all(torch.equal(u, torch.zeros_like(u)) for u in receptions[-1].update.values())
        for tree in (memory, receptions[-1].shared):
            assert all(tensor.isfinite().all() for tensor in tree.values())


@pytest.mark.parametrize("round", [0, 1])
class TestEverySchemeWithErrorFeedback:
    @pytest.mark.parametrize("name", [name for name in REMEMBERING if name not in LINEAR and "a-dsgd" not in name])
    def test_one_client_hears_what_it_kept(self, name, round):
        """Without noise and alone, what arrives is what the memory thinks has arrived; also where nothing is linear.

        A-DSGD's receivers only estimate what was sent.
        """
        chosen = scheme(name)
        _, approximations, update, _ = code(chosen, tensors(clients=1), round)
        for n in SHAPES:
            torch.testing.assert_close(update[n], approximations[n][0])


@pytest.mark.parametrize("name", [name for name in REMEMBERING if name in LINEAR])
def test_without_noise_error_feedback_delivers_everything_in_the_end(name):
    """One gradient, then silence: the sum of the updates approaches it."""
    chosen = scheme(name, rank=1, compression_factor=0.3)
    shared, gradients, memory = shared_of(chosen), tensors(), {}
    silence = {n: torch.zeros_like(g) for n, g in gradients.items()}
    total = {n: torch.zeros(shape, dtype=torch.float64) for n, shape in SHAPES.items()}
    for t in range(120):
        sent = gradients if t == 0 else silence
        receptions, _, _, memory = walk_round(chosen, shared, memory, sent, t, power=math.inf)
        shared = receptions[-1].shared
        total = {n: total[n] + u for n, u in receptions[-1].update.items()}
    for n in SHAPES:
        torch.testing.assert_close(total[n], gradients[n].mean(dim=0), rtol=0, atol=1e-6)


class TestLaser:
    def test_compresses_matrices_that_are_worth_it_and_nothing_else(self):
        ctx, chosen = context(), scheme("laser", rank=2)
        sent = {block.name: chosen.compresses(block) for block in ctx.blocks}
        # 120 > 2·22, a vector, 8 x 18: 144 > 2·26, 3 x 20: 60 > 2·23
        assert sent == {"hidden": True, "hidden bias": False, "kernel": True, "out": True}
        assert not scheme("laser", rank=6).compresses(ctx.blocks[0])  # 120 < 6·22

    def test_alternates_the_factors(self):
        chosen = scheme("laser", rank=2)
        even, _ = chosen.encode(tensors(), shared_of(chosen), context())
        assert even["hidden"].shape == (CLIENTS, 10, 2)
        odd, _ = chosen.encode(tensors(), shared_of(chosen, round=1), context(round=1))
        assert odd["hidden"].shape == (CLIENTS, 12, 2)
        assert odd["kernel"].shape == (CLIENTS, 8, 2)

    @pytest.mark.parametrize("exchange", ["alternating", "two-phase", "one-shot"])
    @pytest.mark.parametrize("rank", [1, 2])
    def test_is_exact_on_low_rank_gradients_from_the_second_round_on(self, exchange, rank):
        """Each matrix by itself: a norm over all of them is a bug seen elsewhere at rank 1."""
        shapes = {"one": (12, 10), "two": (12, 10), "three": (12, 10)}
        left = tensors(dict.fromkeys(shapes, (12, rank)), clients=None, seed=1)
        right = tensors(dict.fromkeys(shapes, (CLIENTS, rank, 10)), clients=None, seed=2)
        gradients = {n: (10.0**i) * left[n] @ right[n] for i, n in enumerate(shapes)}
        if exchange == "one-shot":  # its product of means is the mean of products for one client
            gradients = {n: g[:1] for n, g in gradients.items()}
        chosen = scheme("laser", factor_exchange=exchange, rank=rank)
        shared = shared_of(chosen, shapes)
        for t in range(4):
            receptions, *_ = walk_round(chosen, shared, {}, gradients, t, power=math.inf, shapes=shapes)
            shared = receptions[-1].shared
            for n in shapes if t > 0 else ():
                torch.testing.assert_close(receptions[-1].update[n], gradients[n].mean(dim=0))

    @pytest.mark.parametrize("exchange", ["alternating", "two-phase", "one-shot"])
    def test_a_block_that_was_silent_once_is_heard_again(self, exchange):
        """Even where the completion of a zero factor is orthogonal to everything that follows."""
        shapes = {"w": (30, 40)}
        gradient = {"w": torch.zeros(1, 30, 40, dtype=torch.float64)}
        later = {"w": torch.zeros(1, 30, 40, dtype=torch.float64)}
        later["w"][:, 10:, 10:] = 1.0
        chosen = scheme("laser", factor_exchange=exchange, rank=2)
        shared, memory = shared_of(chosen, shapes), {}
        for t in range(6):
            sent = gradient if t == 0 else later
            receptions, _, _, memory = walk_round(chosen, shared, memory, sent, t, power=math.inf, shapes=shapes)
            shared = receptions[-1].shared
        assert receptions[-1].update["w"].norm() > 1
        assert memory["w"].norm() < 10 * later["w"].norm()

    def test_orthonormal_columns_point_the_way_of_gram_schmidt(self):
        columns = torch.tensor([[-2.0, 1.0], [0.0, -3.0], [0.0, 0.0]])
        torch.testing.assert_close(orthonormal(columns), torch.tensor([[-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]))

    def test_orthonormal_completes_columns_that_carry_nothing(self):
        basis = orthonormal(torch.zeros(5, 2))
        torch.testing.assert_close(basis.mT @ basis, torch.eye(2))

    def test_one_shot_splits_a_blocks_power_by_the_energy_of_its_columns(self):
        ctx = context()
        norms = torch.tensor([[1.0, 1.0, 4.0, 1.0]], dtype=torch.float64)  # p0 p1 q0 q1
        power = torch.tensor(5.0, dtype=torch.float64)
        split = OneShot(2).split(ctx.blocks[0], norms, power, ctx)
        assert split.sum().item() == pytest.approx(1)
        assert ((split[0] + split[2]) / (split[1] + split[3])).item() == pytest.approx(4)  # √κ: 4 to 1
        silent = OneShot(2).split(ctx.blocks[0], torch.zeros(1, 4, dtype=torch.float64), power, ctx)
        assert silent.tolist() == [0.25] * 4


class TestDraws:
    """What the oracle is given cannot be checked by it."""

    def test_random_k_draws_without_replacement(self):
        (drawn,) = draw_indices(RandomStreams(0), "random-k", 0, ((1000, 400),))
        assert len(set(drawn.tolist())) == 400
        assert drawn.min() >= 0
        assert drawn.max() < 1000

    def test_a_sketchs_buckets_and_signs_are_fair_and_new_each_round(self):
        ((buckets, signs),), ((later, other),) = (sketch.draw(RandomStreams(0), t, ((20000, 10),)) for t in (0, 1))
        assert buckets.bincount(minlength=10).float().div(2000).sub(1).abs().max() < 4 / 2000**0.5
        assert abs(signs.mean()) < 4 / 20000**0.5
        assert set(signs.tolist()) == {-1.0, 1.0}
        assert (buckets == later).float().mean() < 0.15
        assert (signs == other).float().mean() < 0.6

    def test_a_sketch_is_right_on_average(self):
        """E[decode(encode(g))] = g: what shares a bucket cancels over rounds."""
        gradients, rounds = tensors(clients=1), draws(2000, 400)
        chosen, total = scheme("sketch", compression_factor=0.5), dict.fromkeys(SHAPES, 0.0)
        for t in range(rounds):
            ctx = context(round=t)
            signals, _ = chosen.encode(gradients, {}, ctx)
            update, _ = chosen.decode(exact(signals), {}, ctx)
            total = {n: total[n] + update[n] / rounds for n in SHAPES}
        for n in SHAPES:
            error = (total[n] - gradients[n][0]).square().mean().sqrt()
            assert error < 3 * gradients[n].square().mean().sqrt() * (2 / rounds) ** 0.5

    def test_projections_differ_by_seed_and_block_and_flip_signs(self):
        drawn = [Projection.drawn(RandomStreams(s), i, 500, 100) for s, i in ((0, 0), (1, 0), (0, 1))]
        assert len({tuple(p.rows.tolist()) for p in drawn}) == 3
        assert len({tuple(p.signs.tolist()) for p in drawn}) == 3
        assert all(abs(p.signs.mean()) < 4 / 500**0.5 for p in drawn)

    def test_the_noise_of_phases_is_independent(self):
        signals = {"w": torch.zeros(1, 2000)}
        noises = [draw_noise(signals, context(phase=phase)) for phase in (0, 1)]
        assert abs(torch.corrcoef(torch.stack(noises))[0, 1]) < 4 / 2000**0.5


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "a-dsgd"])
def test_the_gradients_unit_does_not_matter(name):
    """Everything in another unit: the same update in that unit, noise included (Signum: the same signs).

    Not so for the linear receiver, whose prior has a unit: a variance of 1.
    """
    chosen, updates = scheme(name, compression_factor=0.3), []
    for unit in (1.0, 2.0**-10):
        gradients = {n: unit * g for n, g in tensors().items()}
        receptions, *_ = walk_round(chosen, shared_of(chosen), {}, gradients, power=2.0)
        updates.append(receptions[-1].update)
    scale = 1.0 if name == "signum" else 2.0**-10
    for n in SHAPES:
        torch.testing.assert_close(updates[1][n], scale * updates[0][n])


def test_random_k_and_sketch_draw_anew_each_round_and_the_same_everywhere():
    for name in ("random-k", "sketch"):
        chosen, corrected = scheme(name), tensors(clients=1)
        first, again, next_round = (chosen.encode(corrected, {}, context(round=t))[0] for t in (0, 0, 1))
        assert torch.equal(first["hidden"], again["hidden"])
        assert not torch.equal(first["hidden"], next_round["hidden"])
        two = chosen.encode({n: torch.cat([g, g]) for n, g in corrected.items()}, {}, context())[0]
        assert torch.equal(two["hidden"][0], two["hidden"][1])


def test_a_dsgds_projection_stays_the_same_over_rounds():
    chosen, corrected = scheme("a-dsgd"), tensors(clients=1)
    first, second = (chosen.encode(corrected, {}, context(round=t))[0] for t in (0, 1))
    assert torch.equal(first["hidden"], second["hidden"])
