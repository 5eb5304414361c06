"""Which examples each client takes in each round."""

from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.streams import Streams


@dataclass(frozen=True)
class Order:
    """The order of data of a range of clients.

    The examples are dealt into disjoint shards, fixed by the seed. An epoch shuffles inside each
    shard and has ceil(largest shard / per_round) rounds, the last of which may be short; smaller
    shards wrap around, so that all clients take equally many examples in a round.

    examples: size of the data set. total: number of clients of the run.
    clients: the range of them that this order is asked for.
    per_round: examples per client and round.
    """

    examples: int
    total: int
    clients: range
    per_round: int
    streams: Streams

    def __post_init__(self) -> None:
        if self.total > self.examples:
            raise ConfigError(f"clients: must be at most the {self.examples} training examples, got {self.total}")
        object.__setattr__(self, "_cache", {})

    @classmethod
    def of(cls, config: RunConfig, examples: int, clients: range) -> "Order":
        """The order of `clients` in the run of `config` on `examples` examples."""
        per_round = config.batch_size * config.accumulation_steps
        return cls(examples, config.clients, clients, per_round, Streams(config.seed))

    @property
    def rounds_per_epoch(self) -> int:
        """Rounds of one pass over the largest shard."""
        return -(-self._largest // self.per_round)

    @property
    def _largest(self) -> int:
        return -(-self.examples // self.total)

    def batch(self, round: int) -> Int64[Tensor, "clients batch"]:
        """Indices of the examples that each client takes in `round`."""
        epoch, place = divmod(round, self.rounds_per_epoch)
        start = place * self.per_round
        return self._epoch(epoch)[:, start : start + self.per_round]

    def _shards(self) -> tuple[Tensor, ...]:
        dealt = torch.randperm(self.examples, generator=self.streams.generator("shards"))
        return dealt.tensor_split(self.total)

    def _epoch(self, epoch: int) -> Int64[Tensor, "clients examples"]:
        """Each client's shuffled shard, wrapped around to the length of the largest."""
        cache: dict[int, Tensor] = self.__dict__["_cache"]
        if epoch not in cache:
            shards = self._shards()
            cache.clear()
            cache[epoch] = torch.stack([self._shuffled(shards[client], epoch, client) for client in self.clients])
        return cache[epoch]

    def _shuffled(self, shard: Tensor, epoch: int, client: int) -> Tensor:
        shuffled = shard[torch.randperm(len(shard), generator=self.streams.generator("shuffle", epoch, client))]
        return shuffled[torch.arange(self._largest) % len(shard)]
