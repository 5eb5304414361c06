"""Data sets that are read while a run goes on: examples of different shapes, drawn anew, or too many for memory.

A batch is read in this process, or ahead of time by the workers of a `torch.utils.data.DataLoader`. What a data set
draws at random depends on seed, round, client and step, so that a run does not depend on who reads.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from laser_fl.config import RunConfig
from laser_fl.data.examples import Batch
from laser_fl.data.sampler import Epochs, Sampler, deal, held_out
from laser_fl.data.trees import as_targets, as_tensors, with_clients_axis
from laser_fl.errors import DataError, brief, reason_of
from laser_fl.rng import Device
from laser_fl.shapes import Int64

Collate = Callable[[list[Any]], Any]

AHEAD = 2  # batches that each worker reads ahead


@dataclass(frozen=True)
class Request:
    """A batch to be read: its examples, and the key of its random draws."""

    rows: tuple[int, ...]
    key: int = 0


@dataclass(frozen=True)
class Failed:
    """The reason why a batch cannot be read; an exception would lose its type on its way from a worker."""

    reason: str


def collated(examples: list[Any]) -> Batch:
    """Stack examples (inputs, target), whose types become those of examples in memory."""
    inputs, targets = default_collate(
        [(as_tensors(given), as_targets(as_tensors(target))) for given, target in examples]
    )
    return inputs, targets


@dataclass(frozen=True)
class Streamed:
    """A map-style data set whose examples are read batch by batch.

    dataset: gives an example for an index. collate: makes (inputs, targets) of a list of examples.
    labels: of the examples, for partitions by label; None where they are not known without reading.
    groups: the natural client of each example, counted from 0; for partition=by-column.
    name: of the data, for messages.
    """

    dataset: Any
    collate: Collate = collated
    labels: Int64[Tensor, " examples"] | None = None
    groups: Int64[Tensor, " examples"] | None = None
    name: str = "train"

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def stacked(self) -> bool:
        """False: batches may differ in shape, so that clients are computed one by one."""
        return False

    def to(self, device: Device) -> "Streamed":
        """Return the same data; batches go to a device one by one."""
        return self

    def batches(self, count: int, size: int, workers: int = 0) -> Iterator[Batch]:
        """Yield `count` examples, evenly spread, `size` at a time.

        Args:
            count: number of examples; 0: all.
            size: of a batch.
            workers: processes that read; 0: this one.

        Raises:
            DataError: an example cannot be read.
        """
        some = 0 < count < len(self)
        places = torch.arange(count) * len(self) // count if some else torch.arange(len(self))
        return self.select(places, size, workers)

    def select(self, rows: Int64[Tensor, " rows"], size: int, workers: int = 0) -> Iterator[Batch]:
        """Yield the examples at `rows`, likewise."""
        requests = [Request(tuple(some.tolist())) for some in torch.split(rows, size)]
        for _, batch in self.loader(requests, workers):
            yield self.taken(batch)

    def loader(self, requests: Iterable[Request], workers: int) -> "DataLoader[tuple[Request, Batch | Failed]]":
        """Return a loader of batches, which reads ahead where it has workers."""
        return DataLoader(
            _Reading(self),
            batch_size=None,
            sampler=requests,
            num_workers=workers,
            prefetch_factor=AHEAD if workers else None,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else it would draw from the global one
        )

    def held_out(self, config: RunConfig) -> Sequence[Tensor]:
        """Return the rows of each client that are held out from training, to evaluate on."""
        return held_out(self._dealt_by, config, self.groups)

    def sampler(self, config: RunConfig, clients: range) -> Sampler:
        """Return shuffled epochs over the config's partition.

        Raises:
            ConfigError: a client would get nothing, or the partition goes by labels, which are not known.
        """
        return Epochs(config, deal(self._dealt_by, config, self.groups), clients)

    @cached_property
    def _dealt_by(self) -> Tensor:
        """The labels, or numbers that are none, of which a partition only needs how many there are."""
        return torch.zeros(len(self)) if self.labels is None else self.labels

    def read(self, request: Request) -> "Batch | Failed":
        """Return a batch, or the reason why it cannot be read."""
        with _drawing(request.key):
            examples = []
            for row in request.rows:
                try:
                    examples.append(self.dataset[row])
                except Exception as error:
                    return Failed(f"example {row} raised {type(error).__name__}: {brief(reason_of(error))}")
            try:
                inputs, targets = self.collate(examples)
            except Exception as error:
                reason = f"{type(error).__name__}: {brief(reason_of(error))}"
                return Failed(f"examples {request.rows[0]}, ... do not make a batch (inputs, targets): {reason}")
        return inputs, targets

    def taken(self, batch: "Batch | Failed") -> Batch:
        """Return a batch that was read. Raises DataError where it was not."""
        if isinstance(batch, Failed):
            raise DataError(f"{self.name} data: {batch.reason}")
        return batch


class Reader:
    """The batches of a run, read when the trainer asks for them, or ahead of time by workers."""

    def __init__(self, data: Streamed, workers: int) -> None:
        """Start without workers; they begin with the first batch.

        Args:
            data: to be read.
            workers: processes that read ahead; 0: none.
        """
        self._data, self._workers = data, workers
        self._ahead: Iterator[tuple[Request, Batch | Failed]] = iter(())

    def read(self, request: Request, upcoming: Iterator[Request]) -> Batch:
        """Return a batch with a clients axis of one client.

        Args:
            request: for the batch.
            upcoming: that request, and those that are likely to follow.

        Raises:
            DataError: it cannot be read.
        """
        found = self._next(request, upcoming) if self._workers else self._data.read(request)
        inputs, targets = self._data.taken(found)
        return with_clients_axis(inputs), with_clients_axis(targets)

    def _next(self, request: Request, upcoming: Iterator[Request]) -> "Batch | Failed":
        try:
            found, batch = next(self._ahead, (None, Failed("")))
            if found != request:  # the first one, or the run took another turn
                self._ahead = iter(self._data.loader(upcoming, self._workers))
                found, batch = next(self._ahead)
        except Exception as error:  # a worker was killed, or cannot be sent the data, for which pickle has many errors
            reason = f"{type(error).__name__}: {brief(reason_of(error))}"
            raise DataError(f"{self._data.name} data: cannot be read by data-workers ({reason})") from None
        return batch if found == request else self._data.read(request)


class _Reading(Dataset[tuple[Request, "Batch | Failed"]]):
    """A data set of batches, by request, as a DataLoader and its workers take it."""

    def __init__(self, data: Streamed) -> None:
        self._data = data

    def __getitem__(self, request: Request) -> tuple[Request, "Batch | Failed"]:
        return request, self._data.read(request)


def generator_states() -> tuple[Any, ...]:
    """Return the states of all global generators, to be compared: who draws moves one."""
    numpy: Any = np.random.get_state()
    _, words, *rest = numpy
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), words.tobytes(), *rest


@contextmanager
def _drawing(key: int) -> Iterator[None]:
    """Let all global generators begin at a key, and go on afterwards where they were."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(key)
        random.seed(key)
        np.random.seed(key % 2**32)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
