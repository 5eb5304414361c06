"""Shards, epochs and batches."""

import pytest
import torch

from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.order import Order


def order(examples=23, clients=4, batch=4, hosted=None, seed=0):
    config = parse({"clients": clients, "batch-size": batch, "seed": seed})
    return Order(config, examples, hosted or range(clients))


def epoch(order, number):
    rounds = order.rounds_per_epoch
    return torch.cat([order.batch(number * rounds + place) for place in range(rounds)], dim=1)


def test_shards_are_disjoint_cover_everything_and_stay():
    for number in (0, 1, 5):
        seen = [set(row.tolist()) for row in epoch(order(), number)]
        assert [len(s) for s in seen] == [6, 6, 6, 5]
        assert set.union(*seen) == set(range(23))
        assert seen == [set(row.tolist()) for row in epoch(order(), 0)]


def test_an_epoch_has_the_largest_shards_rounds_and_a_short_last_batch():
    assert order().rounds_per_epoch == 2
    assert [order().batch(t).shape[1] for t in range(4)] == [4, 2, 4, 2]


def test_a_smaller_shard_wraps_around():
    row = epoch(order(), 0)[3].tolist()
    assert row[5] == row[0]


def test_epochs_shuffle_inside_the_shards():
    assert not torch.equal(epoch(order(), 0), epoch(order(), 1))


def test_a_client_draws_the_same_batches_wherever_it_is_hosted():
    everybody = epoch(order(), 3)
    assert torch.equal(epoch(order(hosted=range(2, 4)), 3), everybody[2:])


def test_another_seed_deals_other_shards():
    assert not torch.equal(epoch(order(), 0), epoch(order(seed=1), 0))


def test_more_clients_than_examples_are_refused():
    with pytest.raises(ConfigError, match="clients: must be at most the 3 training examples, got 4"):
        order(examples=3)
