"""Draws depend on their key and on nothing else."""

import torch

from laser_fl.rng import RandomStreams


def draw(streams, *key):
    return torch.randn(4, generator=streams.generator(*key))


def test_the_same_key_draws_the_same_numbers_in_any_order():
    streams = RandomStreams(1)
    first = draw(streams, "noise", 3)
    draw(streams, "shuffle", 9)
    assert torch.equal(first, draw(RandomStreams(1), "noise", 3))


def test_every_part_of_the_key_matters():
    keys = [("noise", 1), ("noise", 2), ("noise", 1, 2), ("noise", 12), ("shuffle", 1)]
    drawn = {tuple(draw(RandomStreams(seed), *key).tolist()) for seed in (0, 1) for key in keys}
    assert len(drawn) == 2 * len(keys)


def test_torchs_own_generator_is_seeded_and_put_back():
    before = torch.get_rng_state()
    with RandomStreams(1).torch_global("weights"):
        first = torch.randn(3)
    assert torch.equal(before, torch.get_rng_state())
    with RandomStreams(1).torch_global("weights"):
        assert torch.equal(first, torch.randn(3))
