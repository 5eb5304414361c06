"""The examples of each client, as indices that are made on demand: there may be a hundred thousand clients."""

from collections.abc import Sequence
from itertools import accumulate
from typing import overload

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Int64


class Shards(Sequence[Tensor]):
    """The examples of each client: views of one tensor, since a tensor of its own takes more than a small shard.

    sizes: number of examples of each client.
    """

    def __init__(self, examples: Tensor, sizes: Sequence[int]) -> None:
        """examples: indices, client by client."""
        self.sizes = tuple(sizes)
        self._examples = examples
        self._ends = tuple(accumulate(self.sizes))

    @classmethod
    def of(cls, parts: Sequence[Tensor]) -> "Shards":
        """Join the clients' own tensors; what is joined stays as it is."""
        if isinstance(parts, Shards):
            return parts
        some = [part for part in parts if len(part)]
        return cls(torch.cat(some) if some else torch.zeros(0, dtype=torch.int64), [len(part) for part in parts])

    @classmethod
    def even(cls, examples: Tensor, clients: int) -> "Shards":
        """Give equally many examples to each client, but for one: the first ones get more."""
        each, more = divmod(len(examples), clients)
        return cls(examples, [each + (client < more) for client in range(clients)])

    def __len__(self) -> int:
        return len(self.sizes)

    @overload
    def __getitem__(self, client: int) -> Tensor: ...

    @overload
    def __getitem__(self, client: slice) -> list[Tensor]: ...

    def __getitem__(self, client: int | slice) -> Tensor | list[Tensor]:
        if isinstance(client, slice):
            return [self._of(one) for one in range(len(self))[client]]
        return self._of(range(len(self))[client])

    def at(
        self, clients: Sequence[int], places: Int64[Tensor, "clients examples"]
    ) -> Int64[Tensor, "clients examples"]:
        """Return the examples at some places of the clients' shards, row by row."""
        starts = torch.tensor([self._ends[client] - self.sizes[client] for client in clients])
        return self._examples[places + starts.unsqueeze(1)]

    def _of(self, client: int) -> Tensor:
        return self._examples[self._ends[client] - self.sizes[client] : self._ends[client]]


class Part(Shards):
    """A part of each client's examples, drawn at random: those to train on, or those held out."""

    def __init__(self, shards: Shards, config: RunConfig, held_out: bool) -> None:
        """Divide the shards of a run by its share ``evaluate-clients``; each keeps one example to train on."""
        self._whole, self._seed, self._held_out = shards, config.seed, held_out
        self._held = tuple(max(0, min(int(config.evaluate_clients * n + 0.5), n - 1)) for n in shards.sizes)
        self.sizes = self._held
        if not held_out:
            self.sizes = tuple(size - held for size, held in zip(shards.sizes, self._held, strict=True))

    def at(
        self, clients: Sequence[int], places: Int64[Tensor, "clients examples"]
    ) -> Int64[Tensor, "clients examples"]:
        """Return the examples at some places of the clients' shards, row by row."""
        return torch.stack([self[client][row] for client, row in zip(clients, places, strict=True)])

    def _of(self, client: int) -> Tensor:
        shard, held = self._whole[client], self._held[client]
        drawn = torch.randperm(len(shard), generator=RandomStreams(self._seed).generator("held-out examples", client))
        return shard[drawn[:held] if self._held_out else drawn[held:]]
