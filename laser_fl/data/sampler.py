"""Samplers: the examples of each client in each round, from shuffled epochs or random windows of a text."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.registry import PARTITIONS
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Int64


@lru_cache(maxsize=4)  # the trainers of one process ask for the same
def deal(labels: Tensor, config: RunConfig) -> Sequence[Tensor]:
    """Deal the examples to the clients, by the config's partition. Raises ConfigError where a client would get none."""
    _refuse_too_many(config, len(labels))
    shards: Sequence[Tensor] = PARTITIONS.build(config.partition, config)(labels.cpu(), config)
    if not isinstance(shards, list | tuple) or [type(s) for s in shards] != [Tensor] * config.clients:
        rule = f"must return {config.clients} tensors of indices, one for each client"
        raise ConfigError(f"partition: {config.partition} {rule}, got {type(shards).__name__}")
    if not all(map(len, shards)):
        raise ConfigError(f"partition: must leave an example to each client, got {config.partition!r}")
    return shards


def _refuse_too_many(config: RunConfig, examples: int) -> None:
    if config.clients > examples:
        raise ConfigError(f"clients: must be at most the {examples} training examples, got {config.clients}")


class Sampler(ABC):
    """The order of data of a range of clients."""

    def __init__(self, config: RunConfig, clients: range) -> None:
        """clients: the part of the run's clients to sample for."""
        self.clients = clients
        self._per_round = config.batch_size * config.accumulation_steps * config.local_steps
        self._streams = RandomStreams(config.seed)

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
        """Return the examples that the clients `participants` (default: all in the range) take in `round`.

        A client that does not participate misses its examples; the round's place in the epoch is the same for all.
        """


class Epochs(Sampler):
    """Disjoint shards, shuffled anew in each epoch.

    An epoch has ceil(largest shard / per round) rounds, the last of which may be short; smaller shards wrap
    around, so that all clients take equally many examples in a round.
    """

    def __init__(self, config: RunConfig, shards: Sequence[Tensor], clients: range) -> None:
        """shards: the examples of each client, of all clients."""
        super().__init__(config, clients)
        self._largest = max(map(len, shards))
        self._even = -(-sum(map(len, shards)) // len(shards))
        self._shards = {client: shards[client] for client in clients}
        self._shuffled: tuple[int, Tensor] | None = None

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
        rows = self._epoch(epoch)[:, start : start + self._per_round]
        if participants is None or len(participants) == len(rows):
            return rows
        return rows[[client - self.clients.start for client in participants]]

    def _epoch(self, epoch: int) -> Int64[Tensor, "clients examples"]:
        """Shuffle each client's shard, wrapped around to the length of the largest."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            rows = [self._shuffle(shard, epoch, client) for client, shard in self._shards.items()]
            self._shuffled = epoch, torch.stack(rows)
        return self._shuffled[1]

    def _shuffle(self, shard: Tensor, epoch: int, client: int) -> Int64[Tensor, " examples"]:
        generator = self._streams.generator("shuffle", epoch, client)
        shuffled = shard[torch.randperm(len(shard), generator=generator)]
        return shuffled[torch.arange(self._largest) % len(shard)]


class Windows(Sampler):
    """Windows of a text at random places, each client in a stretch of its own; an epoch is as many as fill it."""

    def __init__(self, config: RunConfig, tokens: int, window: int, clients: range) -> None:
        """tokens: length of the text. window: tokens that one example takes.

        Raises:
            ConfigError: a client's stretch is shorter than a window.
        """
        super().__init__(config, clients)
        _refuse_too_many(config, tokens // window)
        self._window = window
        self._stretch = tokens // config.clients

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
