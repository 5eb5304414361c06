"""Approximate message passing finds sparse means that no linear receiver can."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from laser_fl.rng import RandomStreams
from laser_fl.schemes.a_dsgd import amp, lmmse
from laser_fl.schemes.indices import topk_indices
from laser_fl.schemes.projection import Projection, cosine_transform, inverse_cosine_transform

pytestmark = pytest.mark.shapes


def sparse_clients(clients, size, count, shared):
    """Sparse vectors of which `shared` of `count` places are the same at all clients."""
    generator = RandomStreams(3).generator("sparse", clients, size, count)
    common = torch.randperm(size, generator=generator)[:shared]
    rows = torch.zeros(clients, size)
    for row in rows:
        own = torch.randperm(size, generator=generator)[: count - shared]
        indices = torch.cat([common, own])
        row[indices] = torch.randn(len(indices), generator=generator)
    return rows


def relative_error(estimate, wanted):
    return ((estimate - wanted).norm() / wanted.norm()).item()


@pytest.mark.parametrize(("noise", "amp_error"), [(0.0, 0.01), (0.01, 0.25)])
def test_amp_recovers_overlapping_sparse_clients_and_the_linear_receiver_does_not(noise, amp_error):
    clients, size, measurements = 5, 4000, 1000
    mean = sparse_clients(clients, size, count=40, shared=20).mean(dim=0)
    projection = Projection.drawn(RandomStreams(0), 0, size, measurements)
    received = projection.project(mean) + noise * torch.randn(
        measurements, generator=RandomStreams(1).generator("noise")
    )
    std = torch.tensor(noise)
    assert relative_error(amp(received, std, projection), mean) < amp_error
    assert relative_error(lmmse(received, std, projection), mean) > 0.8


def test_amp_beats_the_linear_receiver_nowhere_when_the_mean_is_dense():
    size, measurements = 2000, 200
    mean = torch.randn(size, generator=RandomStreams(0).generator("dense"))
    projection = Projection.drawn(RandomStreams(0), 0, size, measurements)
    received, silence = projection.project(mean), torch.tensor(0.0)
    assert relative_error(lmmse(received, silence, projection), mean) < relative_error(
        amp(received, silence, projection), mean
    )


@pytest.mark.parametrize("receiver", [amp, lmmse])
def test_nothing_comes_of_nothing(receiver):
    projection = Projection.drawn(RandomStreams(0), 0, 100, 20)
    assert torch.equal(receiver(torch.zeros(20), torch.tensor(0.0), projection), torch.zeros(100))


def test_the_linear_receiver_is_the_pseudo_inverse_without_noise_and_shrinks_with_it():
    projection = Projection.drawn(RandomStreams(0), 0, 100, 20)
    matrix = projection.project(torch.eye(100, dtype=torch.float64)).mT
    y = torch.randn(20, dtype=torch.float64, generator=RandomStreams(0).generator("y"))
    quiet = lmmse(y, torch.tensor(0.0), projection)
    torch.testing.assert_close(quiet, torch.linalg.pinv(matrix) @ y)
    torch.testing.assert_close(lmmse(y, torch.tensor(5.0**0.5), projection), quiet / 2)


@given(size=st.integers(1, 65), part=st.floats(0.05, 1))
def test_the_projection_is_a_matrix_with_orthogonal_rows(size, part):
    measurements = max(1, int(part * size))
    projection = Projection.drawn(RandomStreams(size), 0, size, measurements)
    matrix = projection.project(torch.eye(size, dtype=torch.float64)).mT
    identity = torch.eye(measurements, dtype=torch.float64)
    torch.testing.assert_close(matrix @ matrix.mT, projection.gain * identity)
    y = torch.randn(3, measurements, dtype=torch.float64, generator=RandomStreams(0).generator("y"))
    torch.testing.assert_close(projection.transpose(y), y @ matrix)


@given(size=st.integers(1, 40))
def test_the_cosine_transform_is_scipys_in_another_order(size):
    from scipy.fft import dct

    x = torch.randn(2, size, dtype=torch.float64, generator=RandomStreams(size).generator("x"))
    ordered = torch.empty_like(x)
    half = (size + 1) // 2
    ordered[:, ::2], ordered[:, 1::2] = x[:, :half], x[:, half:].flip(-1)
    torch.testing.assert_close(cosine_transform(x), torch.from_numpy(dct(ordered.numpy(), norm="ortho")))
    torch.testing.assert_close(inverse_cosine_transform(cosine_transform(x)), x)


@pytest.mark.thorough
@pytest.mark.paper
def test_a_block_of_ten_million_values_is_projected_and_heard():
    size, measurements = 10_000_000, 1_000_000
    projection = Projection.drawn(RandomStreams(0), 0, size, measurements)
    sparse = torch.zeros(size)
    sparse[torch.arange(0, size, 100_000)] = 1.0
    estimate = lmmse(projection.project(sparse), torch.tensor(0.0), projection)
    assert relative_error(estimate, sparse) == pytest.approx((1 - measurements / size) ** 0.5, rel=0.01)


def test_the_largest_values_are_found_per_client():
    rows = torch.tensor([[1.0, -5.0, 3.0, 0.0], [4.0, 0.5, -0.1, 2.0]])
    assert [set(found) for found in topk_indices(rows, 2).tolist()] == [{2, 0}, {0, 3}]


@pytest.mark.parametrize("count", [1, 500, 60_000, 199_999, 200_000])
@pytest.mark.parametrize("shape", ["normal", "constant", "few large", "sorted", "sample"])
def test_the_largest_values_of_a_long_row_are_the_largest(shape, count):
    """Whatever a sample of the row says of it: in some of these it misleads."""
    row = torch.randn(200_000, generator=torch.Generator().manual_seed(0))
    row = {
        "normal": row,
        "constant": torch.ones_like(row),
        "few large": torch.zeros_like(row).index_fill_(0, torch.arange(1, 700), 5.0),
        "sorted": row.sort().values,
        "sample": torch.zeros_like(row).index_fill_(0, torch.arange(0, 200_000, 64), 5.0),
    }[shape]
    (indices,) = topk_indices(row.unsqueeze(0), count)
    assert len(set(indices.tolist())) == count
    assert torch.equal(row[indices].sort(descending=True).values, row.topk(count).values)
