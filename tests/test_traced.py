"""A traced function is the function, without its Python."""

import pytest
import torch

from laser_fl.traced import CALLS, KEPT, Traced


class Counted:
    calls = 0

    def __call__(self, weights, inputs):
        self.calls += 1
        return {name: w * inputs.sum() for name, w in weights.items()}, inputs.exp()


def arguments(size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {"a": torch.randn(size, generator=generator), "b": torch.randn(2, generator=generator)}, torch.randn(
        size, 3, generator=generator
    )


def test_gives_what_the_function_gives_and_calls_it_no_more():
    function = Counted()
    traced = Traced(function)
    for t in range(CALLS + 5):
        weights, inputs = arguments(4, t)
        products, powers = traced(weights, inputs)
        assert torch.equal(powers, inputs.exp())
        assert all(torch.equal(products[name], w * inputs.sum()) for name, w in weights.items())
    assert function.calls == CALLS


@pytest.mark.parametrize("sizes", [3, KEPT + 4])
def test_other_shapes_are_other_traces_of_which_the_last_are_kept(sizes):
    traced = Traced(Counted())
    for _ in range(CALLS + 1):
        for size in range(1, sizes + 1):
            weights, inputs = arguments(size)
            assert torch.equal(traced(weights, inputs)[1], inputs.exp())
    assert len(traced._traces) == min(sizes, KEPT)


def test_what_lies_otherwise_in_memory_is_another_trace():
    traced = Traced(lambda weights, inputs: inputs.reshape(-1) * weights["a"])
    weights = {"a": torch.tensor(2.0)}
    for _ in range(CALLS + 1):
        traced(weights, torch.ones(2, 3))
    inputs = torch.arange(6.0).view(3, 2).mT
    assert torch.equal(traced(weights, inputs), 2 * inputs.flatten())
