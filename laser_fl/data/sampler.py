"""Samplers: the examples of each client in each round, from shuffled epochs or random windows of a text."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property, lru_cache
from inspect import signature

import numpy as np
import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.shards import Part, Shards
from laser_fl.errors import ConfigError
from laser_fl.registry import PARTITIONS
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Int64


def deal(labels: Tensor, config: RunConfig, groups: Tensor | None = None) -> Shards:
    """Deal the examples to the clients, by the config's partition, and return those that each client trains on.

    Args:
        labels: the targets, (examples, ...).
        config: of the run.
        groups: the natural client of each example, counted from 0, (examples,); for partitions that go by groups.

    Returns:
        Indices of examples, for each client; none for a client without examples where ``empty-clients=skip``.

    Raises:
        ConfigError: a client would get no examples, or the partition needs groups and there are none.
    """
    return _dealt(labels, config, groups)[0]


def held_out(labels: Tensor, config: RunConfig, groups: Tensor | None = None) -> Shards:
    """Return the examples of each client that are held out from training: the share ``evaluate-clients`` of its own.

    A client keeps at least one example to train on, so that those with few may have none held out.

    Args:
        labels: as for `deal`.
        config: of the run.
        groups: as for `deal`.

    Returns:
        Indices of examples, for each client.

    Raises:
        ConfigError: as for `deal`.
    """
    return _dealt(labels, config, groups)[1]


@lru_cache(maxsize=4)  # the trainers of one process ask for the same
def _dealt(labels: Tensor, config: RunConfig, groups: Tensor | None) -> tuple[Shards, Shards]:
    """Return the training examples and the held-out examples of each client."""
    _refuse_too_many(config, len(labels))
    partition = PARTITIONS.build(config.partition, config)
    by_groups = next(iter(signature(partition).parameters), "") == "groups"
    parts: Sequence[Tensor] = partition(_known(groups, len(labels), config) if by_groups else labels.cpu(), config)
    if not _is_of_clients(parts, config.clients):
        rule = f"must return {config.clients} tensors of indices, one for each client"
        raise ConfigError(f"partition: {config.partition} {rule}, got {type(parts).__name__}")
    shards = Shards.of(parts)
    if not any(shards.sizes):
        raise ConfigError(f"partition: must leave an example to a client, got {config.partition!r}")
    if not all(shards.sizes) and config.empty_clients == "refuse":
        rule = f"must leave an example to each client, or take empty-clients=skip; {shards.sizes.count(0)} have none"
        raise ConfigError(f"partition: {rule}, got {config.partition!r}")
    if config.evaluate_clients == 0:
        return shards, Shards(shards[0][:0], [0] * config.clients)
    return Part(shards, config, held_out=False), Part(shards, config, held_out=True)


def _is_of_clients(parts: Sequence[Tensor], clients: int) -> bool:
    """Return True for a tensor per client."""
    if isinstance(parts, Shards):
        return len(parts) == clients
    return isinstance(parts, list | tuple) and [type(part) for part in parts] == [Tensor] * clients


def _known(groups: Tensor | None, examples: int, config: RunConfig) -> Tensor:
    """Return the groups. Raises ConfigError where there are none, or others than one number from 0 per example."""
    if groups is None:
        ways = "by client-column, or as a list of data sets, one per client"
        raise ConfigError(
            f"partition: {config.partition} needs data that name each example's client ({ways}), got none"
        )
    if groups.dtype != torch.int64 or groups.shape != (examples,) or bool((groups < 0).any()):
        got = f"{str(groups.dtype).removeprefix('torch.')} {list(groups.shape)}"
        rule = f"needs {examples} groups of type int64 from 0, one per example"
        raise ConfigError(f"partition: {config.partition} {rule}, got {got}")
    return groups.cpu()


def _refuse_too_many(config: RunConfig, examples: int) -> None:
    if config.clients > examples:
        raise ConfigError(f"clients: must be at most the {examples} training examples, got {config.clients}")


MANY = 4096  # clients beyond which their orders are drawn at once; a generator of its own costs 50 µs


class Sampler(ABC):
    """The order of data of a range of clients."""

    def __init__(self, config: RunConfig, clients: range) -> None:
        """clients: the part of the run's clients to sample for."""
        self.clients = clients
        self._per_round = config.batch_size * config.accumulation_steps * config.local_steps
        self._streams = RandomStreams(config.seed)

    @property
    @abstractmethod
    def sizes(self) -> Sequence[int]:
        """The number of examples that each client of the run trains on."""

    @property
    @abstractmethod
    def rounds_per_epoch(self) -> int:
        """Rounds of one pass over the largest shard."""

    @property
    def rounds_per_even_epoch(self) -> int:
        """Rounds of one pass, if the examples were dealt equally."""
        return self.rounds_per_epoch

    @abstractmethod
    def batch(self, round: int, participants: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """Return the examples that the clients `participants` take in `round`.

        By default these are all in the range that hold examples. A client that does not participate misses its
        examples; the round's place in the epoch is the same for all.
        """


class Epochs(Sampler):
    """Disjoint shards, shuffled anew in each epoch.

    An epoch has ceil(largest shard / per round) rounds, the last of which may be short; smaller shards wrap
    around, so that all clients take equally many examples in a round.
    """

    def __init__(self, config: RunConfig, shards: Shards, clients: range) -> None:
        """shards: the examples of each client, of all clients."""
        super().__init__(config, clients)
        self._shards = shards
        self._largest = max(shards.sizes)
        self._even = -(-sum(shards.sizes) // len(shards))
        self._epoch = -1
        self._shuffled: dict[int, Tensor] = {}  # of the epoch, by client: only those that take part are shuffled
        self._stacked: tuple[tuple[int, ...], Tensor] | None = None  # of the clients of the last call

    @property
    def sizes(self) -> Sequence[int]:
        """The lengths of the shards."""
        return self._shards.sizes

    @property
    def rounds_per_epoch(self) -> int:
        """ceil(largest shard / per round)."""
        return -(-self._largest // self._per_round)

    @property
    def rounds_per_even_epoch(self) -> int:
        """ceil(mean shard / per round)."""
        return -(-self._even // self._per_round)

    def batch(self, round: int, participants: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """Return indices of examples."""
        epoch, place = divmod(round, self.rounds_per_epoch)
        start = place * self._per_round
        clients = self._holders if participants is None else tuple(participants)
        return self._orders(epoch, clients)[:, start : start + self._per_round]

    @cached_property
    def _holders(self) -> tuple[int, ...]:
        """The clients in the range that hold examples."""
        return tuple(client for client in self.clients if self.sizes[client])

    def _orders(self, epoch: int, clients: tuple[int, ...]) -> Int64[Tensor, "clients examples"]:
        """Shuffle each client's shard, wrapped around to the length of the largest."""
        if self._epoch != epoch:
            self._epoch, self._shuffled, self._stacked = epoch, {}, None
        if self._stacked is None or self._stacked[0] != clients:
            if new := [client for client in clients if client not in self._shuffled]:
                if len(self._shards) > MANY:
                    places = self._places_of_many(epoch, new)
                else:
                    places = torch.stack([self._places(epoch, client) for client in new])
                self._shuffled |= zip(new, self._shards.at(new, places).unbind(), strict=True)
            self._stacked = clients, torch.stack([self._shuffled[client] for client in clients])
        return self._stacked[1]

    def _places(self, epoch: int, client: int) -> Int64[Tensor, " examples"]:
        """Draw the order of a client's examples, by their places in its shard."""
        size = self.sizes[client]
        drawn = torch.randperm(size, generator=self._streams.generator("shuffle", epoch, client))
        return drawn if size == self._largest else drawn[torch.arange(self._largest) % size]

    def _places_of_many(self, epoch: int, clients: Sequence[int]) -> Int64[Tensor, "clients examples"]:
        """Draw the orders of clients' few examples at once: by the ranks of random keys."""
        sizes = np.array([[self.sizes[client]] for client in clients])
        keys = self._streams.keys("shuffle", epoch, rows=clients, columns=self._largest)
        places = np.arange(self._largest)
        ranked = np.where(places < sizes, keys, np.iinfo(np.uint64).max).argsort(axis=1, kind="stable")
        return torch.from_numpy(np.take_along_axis(ranked, places % sizes, axis=1))


class Windows(Sampler):
    """Windows of a text at random places, each client in a stretch of its own; an epoch is as many as fill it."""

    def __init__(self, config: RunConfig, tokens: int, window: int, clients: range) -> None:
        """tokens: length of the text. window: tokens that one example takes.

        Raises:
            ConfigError: a client's stretch is shorter than a window, or a part of it is to be held out.
        """
        super().__init__(config, clients)
        if config.evaluate_clients > 0:
            raise ConfigError(f"evaluate-clients: must be 0 for a text, got {config.evaluate_clients:g}")
        _refuse_too_many(config, tokens // window)
        self._window = window
        self._stretch = tokens // config.clients
        self._sizes = (self._stretch // window,) * config.clients

    @property
    def sizes(self) -> Sequence[int]:
        """The number of windows that fill a stretch, the same for all."""
        return self._sizes

    @property
    def rounds_per_epoch(self) -> int:
        """ceil(windows that fill a stretch / per round)."""
        return -(-(self._stretch // self._window) // self._per_round)

    def batch(self, round: int, participants: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """Return the places in the text at which the windows begin."""
        return torch.stack(
            [self._starts(round, client) for client in (self.clients if participants is None else participants)]
        )

    def _starts(self, round: int, client: int) -> Int64[Tensor, " batch"]:
        generator = self._streams.generator("windows", round, client)
        places = self._stretch - self._window + 1
        return client * self._stretch + torch.randint(places, (self._per_round,), generator=generator)
