"""Partitions of the training examples over clients: one function per way to deal them.

A partition is fixed by the seed, and every engine and node makes the same. The uneven ones come from the package
flwr-datasets.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, packages_for
from laser_fl.registry import Option
from laser_fl.rng import RandomStreams

EXTRA = "laser-fl[partitions]"


def iid(labels: Tensor, config: RunConfig) -> Sequence[Tensor]:
    """Deal equally many examples to each client, but for one."""
    dealt = torch.randperm(len(labels), generator=RandomStreams(config.seed).generator("shards"))
    return dealt.tensor_split(config.clients)


def dirichlet(
    labels: Tensor,
    config: RunConfig,
    dirichlet_alpha: Annotated[float, Option("concentration of the draw; small: uneven", gt=0, le=1e30)] = 0.5,
) -> Sequence[Tensor]:
    """Deal each label by a Dirichlet draw over clients: the smaller dirichlet-alpha, the fewer have most of it.

    Args:
        labels: of the training examples.
        config: of the run.
        dirichlet_alpha: concentration of the draw.

    Raises:
        ConfigError: in none of the partitioner's tries did every client get an example; or there is no flwr-datasets.
    """
    with packages_for("partition=dirichlet", EXTRA):
        from flwr_datasets.partitioner import DirichletPartitioner

    seed = _seed(config)
    partitioner = DirichletPartitioner(config.clients, "label", dirichlet_alpha, min_partition_size=1, seed=seed)
    try:
        return _deal(partitioner, labels, config)
    except ValueError:
        rule = f"must be large enough to leave each of {config.clients} clients one of {len(labels)} examples"
        raise ConfigError(f"dirichlet-alpha: {rule}, or clients fewer, got {dirichlet_alpha:g}") from None


def shards(
    labels: Tensor,
    config: RunConfig,
    shards_per_client: Annotated[int, Option("pieces per client", ge=1, lt=2**31)] = 2,
) -> Sequence[Tensor]:
    """Deal each client shards-per-client pieces of one size of the examples sorted by label.

    The pieces are as large as can be. Pieces that nobody draws are left out, at most as many examples as a piece for
    each client would take.

    Args:
        labels: of the training examples.
        config: of the run.
        shards_per_client: pieces per client.

    Raises:
        ConfigError: there are fewer examples than pieces; or there is no flwr-datasets.
    """
    with packages_for("partition=shards", EXTRA):
        from flwr_datasets.partitioner import ShardPartitioner

    if (pieces := config.clients * shards_per_client) > len(labels):
        rule = f"must make at most {len(labels)} pieces, one per training example, for {config.clients} clients"
        raise ConfigError(f"shards-per-client: {rule}, got {shards_per_client} ({pieces} pieces)")
    return _deal(ShardPartitioner(config.clients, "label", shards_per_client, seed=_seed(config)), labels, config)


def _deal(partitioner: Any, labels: Tensor, config: RunConfig) -> Sequence[Tensor]:
    from datasets import Dataset

    partitioner.dataset = Dataset.from_dict({"label": labels.tolist(), "index": list(range(len(labels)))})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # every attempt warns before the partitioner gives up
        parts = [partitioner.load_partition(client)["index"] for client in range(config.clients)]
    return [torch.tensor(part[:], dtype=torch.int64) for part in parts]


def _seed(config: RunConfig) -> int:
    """Return 32 bits of a key, as numpy wants them."""
    return RandomStreams(config.seed).key("partition") % 2**32
