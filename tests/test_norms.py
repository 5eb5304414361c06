"""Norms are right for few and many, small and large values."""

import pytest
import torch

from laser_fl.blocks import CHUNK, norm, norms
from laser_fl.rng import RandomStreams

pytestmark = pytest.mark.shapes


@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-3, 1.0, 1e16, 1e30])
@pytest.mark.parametrize("size", [1, CHUNK - 1, CHUNK, 3 * CHUNK + 7, 3_000_000])
def test_a_norm_is_that_of_float64(size, scale):
    values = scale * torch.randn(2, size, generator=RandomStreams(0).generator("values"))
    torch.testing.assert_close(norm(values), values.double().norm(dim=1), rtol=1e-6, atol=0)


@pytest.mark.parametrize("clients", [0, 1, 33])
def test_a_norm_is_the_same_however_many_there_are(clients):
    values = torch.randn(clients, 3, 500, generator=RandomStreams(0).generator("values"))
    assert torch.equal(norm(values), torch.cat([norm(one.unsqueeze(0)) for one in values] or [torch.zeros(0).double()]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_values_of_other_types_have_norms(dtype):
    assert norm(torch.full((2, 3, 3), 2.0, dtype=dtype)).tolist() == [6.0, 6.0]


def test_a_zero_or_broken_row_leaves_the_others_right():
    rows = torch.ones(4, 2 * CHUNK)
    rows[1], rows[2, 5], rows[3, 6] = 0.0, torch.nan, torch.inf
    found = norm(rows)
    assert found[:2].tolist() == pytest.approx([(2 * CHUNK) ** 0.5, 0.0])
    assert found[2].isnan()
    assert found[3].isinf()


def test_norms_stand_side_by_side():
    assert norms({"a": torch.ones(2, 4), "b": 3 * torch.ones(2, 1)}, 2).tolist() == [[2, 3], [2, 3]]
    assert norms({}, 2).shape == (2, 0)
