"""Which examples each client takes in each round."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.streams import Streams


class Order:
    """The order of data of a range of clients.

    The examples are dealt into disjoint shards, fixed by the seed. An epoch shuffles inside each
    shard and has ceil(largest shard / per_round) rounds, the last of which may be short; smaller
    shards wrap around, so that all clients take equally many examples in a round.
    """

    def __init__(self, config: RunConfig, examples: int, clients: range) -> None:
        """examples: size of the data set. clients: the part of the run's clients asked for.

        Raises:
            ConfigError: there are more clients than examples.
        """
        if config.clients > examples:
            raise ConfigError(f"clients: must be at most the {examples} training examples, got {config.clients}")
        self.clients = clients
        self._per_round = config.batch_size * config.accumulation_steps
        self._streams = Streams(config.seed)
        dealt = torch.randperm(examples, generator=self._streams.generator("shards"))
        shards = dealt.tensor_split(config.clients)
        self._largest = len(shards[0])
        self._shards = {client: shards[client] for client in clients}
        self._shuffled: tuple[int, Tensor] | None = None

    @property
    def rounds_per_epoch(self) -> int:
        """Rounds of one pass over the largest shard."""
        return -(-self._largest // self._per_round)

    def batch(self, round: int, present: Sequence[int] | None = None) -> Int64[Tensor, "clients batch"]:
        """Indices of the examples that the clients `present` (default: all in the range) take in `round`.

        Who is absent misses its examples; the round's place in the epoch is the same for all.
        """
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
