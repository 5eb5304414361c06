"""What every scheme of the table promises."""

import math

import pytest
import torch

from laser_fl.allocations.paper import signal_norm
from laser_fl.channels.awgn import Awgn
from laser_fl.pipeline import Broadcast, receive, send
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Scheme
from laser_fl.schemes.laser import orthonormal
from tests.helpers import SHAPES, context, exact, names, scheme, shared_of, tensors

CLIENTS = 4


def copies(tree):
    return {name: tensor.clone() for name, tensor in tree.items()}


@pytest.mark.parametrize("name", names(SCHEMES))
@pytest.mark.parametrize("round", [0, 1])
class TestEveryScheme:
    def test_is_a_scheme(self, name, round):
        assert isinstance(scheme(name), Scheme)

    def test_what_is_kept_and_what_is_remembered_make_up_the_gradient(self, name, round):
        chosen, ctx = scheme(name), context(round=round)
        shared, memory, gradients = shared_of(chosen, round=round), tensors(seed=1), tensors(seed=2)
        if not chosen.error_feedback:
            memory = {}
        broadcast = Broadcast({}, shared, chosen, ctx)
        _, remembered = send(broadcast, gradients, torch.zeros(CLIENTS, dtype=torch.float64), memory)
        corrected = {n: gradients[n] + memory.get(n, 0) for n in SHAPES}
        _, kept = chosen.encode(corrected, shared, ctx)
        if chosen.error_feedback:
            for n in SHAPES:
                torch.testing.assert_close(kept[n] + remembered[n], corrected[n])
        else:
            assert remembered == {}

    def test_a_linear_scheme_decodes_the_mean_of_signals_to_the_mean_of_kept(self, name, round):
        chosen, ctx = scheme(name), context(round=round)
        if not chosen.linear:
            pytest.skip("the scheme does not promise linearity")
        shared, corrected = shared_of(chosen, round=round), tensors()
        signals, kept = chosen.encode(corrected, shared, ctx)
        update, _ = chosen.decode(exact(signals), shared, ctx)
        for n in SHAPES:
            torch.testing.assert_close(update[n], kept[n].mean(dim=0))

    def test_the_signal_of_the_mean_is_the_mean_of_signals(self, name, round):
        chosen, ctx = scheme(name), context(round=round)
        if not chosen.linear:
            pytest.skip("the scheme does not promise linearity")
        shared, corrected = shared_of(chosen, round=round), tensors()
        means = {n: m.mean(dim=0, keepdim=True) for n, m in corrected.items()}
        signals, _ = chosen.encode(corrected, shared, ctx)
        of_mean, _ = chosen.encode(means, shared, ctx)
        for n in signals:
            torch.testing.assert_close(of_mean[n][0], signals[n].mean(dim=0))

    def test_inputs_are_left_alone(self, name, round):
        chosen, ctx = scheme(name), context(round=round)
        shared, corrected = shared_of(chosen, round=round), tensors()
        before_shared, before = copies(shared), copies(corrected)
        signals, _ = chosen.encode(corrected, shared, ctx)
        chosen.decode(exact(signals), shared, ctx)
        for n in SHAPES:
            assert torch.equal(corrected[n], before[n])
        for n in shared:
            assert torch.equal(shared[n], before_shared[n])

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_the_dtype_is_kept(self, name, round, dtype):
        chosen, ctx = scheme(name), context(round=round)
        shared, corrected = shared_of(chosen, dtype=dtype, round=round), tensors(dtype=dtype)
        signals, kept = chosen.encode(corrected, shared, ctx)
        update, shared = chosen.decode(exact(signals), shared, ctx)
        for tree in (signals, kept, update, shared):
            assert all(tensor.dtype == dtype for tensor in tree.values())

    def test_zero_gradients_give_zero_updates_and_finite_state(self, name, round):
        chosen, ctx = scheme(name), context(round=round)
        shared = shared_of(chosen, round=round)
        broadcast = Broadcast({}, shared, chosen, ctx)
        zeros = {n: torch.zeros_like(g) for n, g in tensors().items()}
        uplink, memory = send(broadcast, zeros, torch.zeros(CLIENTS, dtype=torch.float64), {})
        reception = receive(uplink, shared, chosen, Awgn(1.0), signal_norm, ctx)
        assert all(torch.equal(u, torch.zeros_like(u)) for u in reception.update.values())
        for tree in (memory, reception.shared):
            assert all(tensor.isfinite().all() for tensor in tree.values())

    def test_a_client_in_a_batch_is_the_client_alone(self, name, round):
        chosen, ctx = scheme(name), context(round=round)
        shared, corrected = shared_of(chosen, dtype=torch.float32, round=round), tensors(dtype=torch.float32)
        signals, kept = chosen.encode(corrected, shared, ctx)
        for client in range(CLIENTS):
            own = {n: m[client : client + 1] for n, m in corrected.items()}
            alone, kept_alone = chosen.encode(own, shared, ctx)
            for n in signals:
                torch.testing.assert_close(alone[n][0], signals[n][client])
                torch.testing.assert_close(kept_alone[n][0], kept[n][client])

    def test_without_noise_error_feedback_delivers_everything_in_the_end(self, name, round):
        """One gradient, then silence: the sum of updates approaches it."""
        chosen = scheme(name, rank=1)
        shared = shared_of(chosen, round=round)
        gradients, memory = tensors(), {}
        total = {n: torch.zeros(shape, dtype=torch.float64) for n, shape in SHAPES.items()}
        for t in range(round, 300):
            ctx = context(round=t, power=math.inf)
            sent = gradients if t == round else {n: torch.zeros_like(g) for n, g in gradients.items()}
            uplink, memory = send(
                Broadcast({}, shared, chosen, ctx), sent, torch.zeros(CLIENTS, dtype=torch.float64), memory
            )
            reception = receive(uplink, shared, chosen, Awgn(1.0), signal_norm, ctx)
            shared = reception.shared
            total = {n: total[n] + u for n, u in reception.update.items()}
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
        ctx = context()
        even, _ = chosen.encode(tensors(), shared_of(chosen), ctx)
        assert even["hidden"].shape == (CLIENTS, 10, 2)
        odd, _ = chosen.encode(tensors(), shared_of(chosen, round=1), context(round=1))
        assert odd["hidden"].shape == (CLIENTS, 12, 2)
        assert odd["kernel"].shape == (CLIENTS, 8, 2)

    @pytest.mark.parametrize("rank", [1, 2])
    def test_is_exact_on_low_rank_gradients_from_the_second_round_on(self, rank):
        """Each matrix by itself: a norm over all of them is a bug seen elsewhere at rank 1."""
        shapes = {"one": (12, 10), "two": (12, 10), "three": (12, 10)}
        left = tensors(dict.fromkeys(shapes, (12, rank)), clients=None, seed=1)
        right = tensors(dict.fromkeys(shapes, (CLIENTS, rank, 10)), clients=None, seed=2)
        gradients = {n: (10.0**i) * left[n] @ right[n] for i, n in enumerate(shapes)}
        chosen = scheme("laser", rank=rank)
        shared, memory = shared_of(chosen, shapes), {}
        for t in range(4):
            ctx = context(shapes, round=t, power=math.inf)
            uplink, _ = send(Broadcast({}, shared, chosen, ctx), gradients, torch.zeros(CLIENTS).double(), memory)
            reception = receive(uplink, shared, chosen, Awgn(1.0), signal_norm, ctx)
            shared = reception.shared
            for n in shapes if t > 1 else ():
                torch.testing.assert_close(reception.update[n], gradients[n].mean(dim=0))

    def test_orthonormal_columns_point_the_way_of_gram_schmidt(self):
        columns = torch.tensor([[-2.0, 1.0], [0.0, -3.0], [0.0, 0.0]])
        torch.testing.assert_close(orthonormal(columns), torch.tensor([[-1.0, 0.0], [0.0, -1.0], [0.0, 0.0]]))

    def test_orthonormal_completes_columns_that_carry_nothing(self):
        basis = orthonormal(torch.zeros(5, 2))
        torch.testing.assert_close(basis.mT @ basis, torch.eye(2))
