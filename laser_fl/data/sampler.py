"""Which examples each client takes in each round: where shuffled epochs begin, or random windows of a text."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.registry import PARTITIONS
from laser_fl.rng import Streams


@lru_cache(maxsize=4)  # the workers of one process ask for the same
def deal(labels: Tensor, config: RunConfig) -> Sequence[Tensor]:
    """The examples that each client holds, by the config's partition. Raises ConfigError where one would hold none."""
    _refuse_too_many(config, len(labels))
    shards: Sequence[Tensor] = PARTITIONS.load(config.partition)(labels.cpu(), config)
    if not all(map(len, shards)):
        raise ConfigError(f"partition: must leave an example to each client, got {config.partition!r}")
    return shards


def _refuse_too_many(config: RunConfig, examples: int) -> None:
    if config.clients > examples:
        raise ConfigError(f"clients: must be at most the {examples} training examples, got {config.clients}")


class Order(ABC):
    """The order of data of a range of clients."""

    def __init__(self, config: RunConfig, clients: range) -> None:
        """clients: the part of the run's clients asked for."""
        self.clients = clients
        self._per_round = config.batch_size * config.accumulation_steps * config.local_steps
        self._streams = Streams(config.seed)

    @property
    @abstractmethod
    def rounds_per_epoch(self) -> int:
        """Rounds of one pass over the largest shard."""

    @property
    def rounds_per_even_epoch(self) -> int:
        """The same, if the examples were dealt equally."""
        return self.rounds_per_epoch

    @abstractmethod
    def batch(self, round: int, present: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """The examples that the clients `present` (default: all in the range) take in `round`.

        Who is absent misses its examples; the round's place in the epoch is the same for all.
        """


class Epochs(Order):
    """Disjoint shards, shuffled anew in each epoch.

    An epoch has ceil(largest shard / per round) rounds, the last of which may be short; smaller shards wrap
    around, so that all clients take equally many examples in a round.
    """

    def __init__(self, config: RunConfig, shards: Sequence[Tensor], clients: range) -> None:
        """shards: of all clients, the examples that each holds."""
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

    def batch(self, round: int, present: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """Indices of examples."""
        epoch, place = divmod(round, self.rounds_per_epoch)
        start = place * self._per_round
        rows = self._epoch(epoch)[:, start : start + self._per_round]
        if present is None or len(present) == len(rows):
            return rows
        return rows[[client - self.clients.start for client in present]]

    def _epoch(self, epoch: int) -> Int64[Tensor, "clients examples"]:
        """Each client's shuffled shard, wrapped around to the length of the largest."""
        if self._shuffled is None or self._shuffled[0] != epoch:
            rows = [self._shuffle(shard, epoch, client) for client, shard in self._shards.items()]
            self._shuffled = epoch, torch.stack(rows)
        return self._shuffled[1]

    def _shuffle(self, shard: Tensor, epoch: int, client: int) -> Int64[Tensor, " examples"]:
        generator = self._streams.generator("shuffle", epoch, client)
        shuffled = shard[torch.randperm(len(shard), generator=generator)]
        return shuffled[torch.arange(self._largest) % len(shard)]


class Windows(Order):
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

    def batch(self, round: int, present: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """Where the windows begin in the text."""
        return torch.stack([self._starts(round, client) for client in (self.clients if present is None else present)])

    def _starts(self, round: int, client: int) -> Int64[Tensor, " batch"]:
        generator = self._streams.generator("windows", round, client)
        places = self._stretch - self._window + 1
        return client * self._stretch + torch.randint(places, (self._per_round,), generator=generator)
