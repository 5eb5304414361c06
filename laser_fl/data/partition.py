"""Partitions of the training examples over clients: one function per way to deal them.

A partition is fixed by the seed, and every engine and node makes the same. It goes by the examples' labels, or, where
its first argument is named `groups`, by the natural clients that the data name. `dirichlet` and `shards` come from the
package flwr-datasets.
"""

import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.shards import Shards
from laser_fl.errors import ConfigError, packages_for
from laser_fl.registry import Option
from laser_fl.rng import RandomStreams

EXTRA = "laser-fl[partitions]"
Alpha = Annotated[float, Option("concentration of the draw; small: uneven", gt=0, le=1e30)]


def iid(labels: Tensor, config: RunConfig) -> Sequence[Tensor]:
    """Deal equally many examples to each client, but for one."""
    dealt = torch.randperm(len(labels), generator=RandomStreams(config.seed).generator("shards"))
    return Shards.even(dealt, config.clients)


def dirichlet(labels: Tensor, config: RunConfig, dirichlet_alpha: Alpha = 0.5) -> Sequence[Tensor]:
    """Deal each label by a Dirichlet draw over clients: the smaller dirichlet-alpha, the fewer have most of it.

    Draws are repeated until every client has an example, except where ``empty-clients=skip``.

    Args:
        labels: of the training examples.
        config: of the run.
        dirichlet_alpha: concentration of the draw.

    Raises:
        ConfigError: in none of the partitioner's tries did every client get an example; the examples have no labels; or
            there is no flwr-datasets.
    """
    _refuse_no_labels(labels, config)
    with packages_for("partition=dirichlet", EXTRA):
        from flwr_datasets.partitioner import DirichletPartitioner

    seed, least = _seed(config), 0 if config.empty_clients == "skip" else 1
    partitioner = DirichletPartitioner(config.clients, "label", dirichlet_alpha, min_partition_size=least, seed=seed)
    try:
        return _deal(partitioner, labels, config)
    except ValueError:
        rule = f"must be large enough to leave each of {config.clients} clients one of {len(labels)} examples"
        remedies = "or clients fewer, or empty-clients=skip"
        raise ConfigError(f"dirichlet-alpha: {rule}, {remedies}, got {dirichlet_alpha:g}") from None


def balanced_dirichlet(labels: Tensor, config: RunConfig, dirichlet_alpha: Alpha = 0.5) -> Sequence[Tensor]:
    """Deal equally many examples to each client, but for one, in label proportions that are Dirichlet draws.

    Client i wants label c in the proportion q_ic f_c, q_i ~ Dir(α, ..., α), f the frequencies of the labels, as it gets
    them from `dirichlet`, where there are many clients. All draw their examples at once and without replacement; those
    who find a label used up draw from the labels that are left.

    Source: Acar, Zhao, Matas, Mattina, Whatmough, Saligrama, "Federated learning based on dynamic regularization", ICLR
    2021, §4 (balanced data). Deviation: the factor f_c, which is 1 for its data sets.

    Args:
        labels: of the training examples.
        config: of the run.
        dirichlet_alpha: concentration α of the draw.

    Raises:
        ConfigError: the examples have no labels.
    """
    _refuse_no_labels(labels, config)
    rng = np.random.default_rng(RandomStreams(config.seed).key("balanced partition"))
    _, label, frequencies = np.unique(labels.numpy(), return_inverse=True, return_counts=True)
    sizes = len(label) // config.clients + (np.arange(config.clients) < len(label) % config.clients)
    wishes = _log_dirichlet(rng, dirichlet_alpha, (config.clients, len(frequencies))) + np.log(frequencies)
    counts = _granted(rng, wishes, sizes, frequencies)
    drawn = rng.permutation(len(label))
    by_label = drawn[np.argsort(label[drawn], kind="stable")]
    owners = np.empty(len(label), dtype=np.int64)
    owners[by_label] = np.repeat(np.tile(np.arange(config.clients), len(frequencies)), counts.T.ravel())
    return _by_owner(torch.from_numpy(owners), config.clients)


def by_column(groups: Tensor, config: RunConfig) -> Sequence[Tensor]:
    """Deal whole groups of examples: the data's natural clients, such as writers or hospitals.

    With as many groups as clients, client i is group i; with more, each client gets equally many, but for one, at
    random. With fewer, the last clients have no examples, where ``empty-clients=skip``.

    Args:
        groups: of the training examples, counted from 0.
        config: of the run.

    Raises:
        ConfigError: there are fewer groups than clients, and clients without examples are refused.
    """
    count = int(groups.max()) + 1
    if count < config.clients and config.empty_clients == "refuse":
        rule = f"must be at most the {count} groups of the data, or take empty-clients=skip"
        raise ConfigError(f"clients: {rule}, got {config.clients}")
    owners = torch.arange(count)
    if count > config.clients:
        dealt = torch.randperm(count, generator=RandomStreams(config.seed).generator("groups"))
        for client, some in enumerate(dealt.tensor_split(config.clients)):
            owners[some] = client
    return _by_owner(owners[groups], config.clients)


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
        ConfigError: there are fewer examples than pieces; the examples have no labels; or there is no flwr-datasets.
    """
    _refuse_no_labels(labels, config)
    with packages_for("partition=shards", EXTRA):
        from flwr_datasets.partitioner import ShardPartitioner

    if (pieces := config.clients * shards_per_client) > len(labels):
        rule = f"must make at most {len(labels)} pieces, one per training example, for {config.clients} clients"
        raise ConfigError(f"shards-per-client: {rule}, got {shards_per_client} ({pieces} pieces)")
    return _deal(ShardPartitioner(config.clients, "label", shards_per_client, seed=_seed(config)), labels, config)


def _log_dirichlet(rng: np.random.Generator, alpha: float, shape: tuple[int, int]) -> np.ndarray:
    """Draw rows ~ Dir(alpha, ..., alpha), as logarithms up to a constant per row: small values do not vanish."""
    smaller = np.log1p(-rng.random(shape)) / max(alpha, 1e-290)  # Γ(α) is Γ(α + 1) U^(1/α), U in (0, 1]
    drawn: np.ndarray = np.log(rng.standard_gamma(alpha + 1, shape)) + smaller
    return drawn


def _granted(rng: np.random.Generator, wishes: np.ndarray, sizes: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Draw how many examples of each label each client gets.

    In every pass the clients draw, by their wishes, all that they lack; of a label with too few examples left the
    draws that it grants are chosen at random. Each pass but the last uses up a label.

    Args:
        rng: draws.
        wishes: logarithms of the proportions, up to a constant per row, (clients, labels).
        sizes: examples of each client, (clients,).
        frequencies: examples of each label, of the same sum, (labels,).

    Returns:
        Numbers of examples, (clients, labels), with these sums of rows and columns.
    """
    counts = np.zeros(wishes.shape, dtype=np.int64)
    while (lacking := sizes - counts.sum(axis=1)).any():
        left = frequencies - counts.sum(axis=0)
        some, open_ = np.flatnonzero(lacking), np.flatnonzero(left)
        here = wishes[np.ix_(some, open_)]
        proportions = np.exp(here - here.max(axis=1, keepdims=True))
        draws = rng.multinomial(lacking[some], proportions / proportions.sum(axis=1, keepdims=True))
        for place in np.flatnonzero(draws.sum(axis=0) > left[open_]):
            draws[:, place] = rng.multivariate_hypergeometric(draws[:, place], left[open_[place]], method="marginals")
        counts[np.ix_(some, open_)] += draws
    return counts


def _by_owner(owners: Tensor, clients: int) -> Sequence[Tensor]:
    """Return the examples of each client, from each example's client."""
    return Shards(owners.argsort(stable=True), owners.bincount(minlength=clients).tolist())


def _refuse_no_labels(labels: Tensor, config: RunConfig) -> None:
    if labels.ndim != 1:
        raise ConfigError(
            f"partition: {config.partition} needs one label per example, got targets {list(labels.shape)}"
        )
    if labels.is_floating_point():
        source = "a Dataset that is read batch by batch names them by an attribute targets"
        got = str(labels.dtype).removeprefix("torch.")
        raise ConfigError(f"partition: {config.partition} needs integer labels ({source}), got {got}")


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
