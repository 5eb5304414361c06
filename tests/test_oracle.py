"""The package equals the slow float64 twin over ten rounds, noise and warm start included."""

import pytest
import torch

from laser_fl.allocations import ALLOCATIONS
from laser_fl.channels.awgn import Awgn, draw_noise
from laser_fl.pipeline import Broadcast, receive, send
from tests import oracle
from tests.helpers import SHAPES, context, names, scheme, shared_of, tensors

ROUNDS, CLIENTS, POWER, VARIANCE = 10, 4, 3.0, 0.5
ZEROS = torch.zeros(CLIENTS, dtype=torch.float64)


def walk(chosen, allocation):
    """Ten rounds through send and receive; returns (updates, noises, final memory)."""
    shared = shared_of(chosen)
    memory, updates, noises = {}, [], []
    for t in range(ROUNDS):
        ctx = context(round=t, power=POWER, noise_variance=VARIANCE)
        uplink, memory = send(Broadcast({}, shared, chosen, ctx), tensors(seed=t), ZEROS, memory)
        noises.append([z.numpy() for z in draw_noise(uplink.signals, ctx)])
        reception = receive(uplink, shared, chosen, Awgn(VARIANCE), ALLOCATIONS.load(allocation), ctx)
        shared = reception.shared
        updates.append([reception.update[name] for name in SHAPES])
    return updates, noises, memory


def as_matrices(gradients):
    """gradients[client][block] as the oracle wants them: matrices and vectors."""
    return [
        [g[i].numpy() if g[i].ndim == 1 else g[i].flatten(1).numpy() for g in gradients.values()]
        for i in range(CLIENTS)
    ]


def matrix_noise(noises, signals_are_matrices):
    return [[z.reshape(z.shape[0], -1) if signals_are_matrices and z.ndim > 1 else z for z in row] for row in noises]


def assert_equal(updates, expected):
    for update, wanted in zip(updates, expected, strict=True):
        for got, want in zip(update, wanted, strict=True):
            torch.testing.assert_close(got.flatten(), torch.from_numpy(want).flatten(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("allocation", names(ALLOCATIONS))
def test_z_sgd_equals_its_oracle(allocation):
    updates, noises, memory = walk(scheme("z-sgd"), allocation)
    gradients = [as_matrices(tensors(seed=t)) for t in range(ROUNDS)]
    expected = oracle.z_sgd(gradients, matrix_noise(noises, True), POWER, VARIANCE**0.5, allocation)
    assert_equal(updates, expected)
    assert memory == {}


@pytest.mark.parametrize("allocation", names(ALLOCATIONS))
@pytest.mark.parametrize("rank", [1, 2, 3])
def test_laser_equals_its_oracle(allocation, rank):
    chosen = scheme("laser", rank=rank)
    shared = shared_of(chosen)
    updates, noises, memory = walk(chosen, allocation)
    bases = [shared[name].numpy() if name in shared else None for name in SHAPES]
    assert sum(basis is not None for basis in bases) >= 2
    gradients = [as_matrices(tensors(seed=t)) for t in range(ROUNDS)]
    expected, remembered = oracle.laser(gradients, bases, matrix_noise(noises, True), POWER, VARIANCE**0.5, allocation)
    assert_equal(updates, expected)
    for i in range(CLIENTS):
        assert_equal([[memory[name][i] for name in SHAPES]], [remembered[i]])
