"""Matrix views turn tensors into matrices and back."""

from math import prod

import pytest
import torch

from laser_fl.blocks import Block, blocks_of


@pytest.mark.parametrize(
    ("shape", "transposed", "matrix"),
    [
        ((5,), False, (1, 5)),
        ((), False, (1, 1)),
        ((4, 6), False, (4, 6)),
        ((4, 6), True, (6, 4)),
        ((4, 2, 3, 3), False, (4, 18)),
    ],
)
@pytest.mark.parametrize("leading", [(), (3,)])
def test_a_matrix_view_goes_there_and_back(shape, transposed, matrix, leading):
    block = Block("x", shape, transposed)
    tensor = torch.arange(block.size * prod(leading), dtype=torch.float32).reshape((*leading, *shape))
    view = block.to_matrix(tensor)
    assert view.shape == (*leading, *matrix)
    assert torch.equal(block.from_matrix(view), tensor)
    if transposed:
        assert torch.equal(view, tensor.mT)


def test_blocks_follow_the_models_order():
    blocks = blocks_of({"w": torch.zeros(2, 3), "b": torch.zeros(2)}, transposed=["w"])
    assert [(b.name, b.size, b.is_vector, b.transposed) for b in blocks] == [
        ("w", 6, False, True),
        ("b", 2, True, False),
    ]
