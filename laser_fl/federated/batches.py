"""The batches that a group of clients trains on: in memory, or read ahead of time in the order of the run."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor

from laser_fl.blocks import to_device
from laser_fl.config import RunConfig
from laser_fl.data.sampler import Sampler
from laser_fl.data.streamed import Reader, Request, Streamed
from laser_fl.data.task import Task
from laser_fl.data.trees import Tree, mapped
from laser_fl.federated.participation import draw_participants
from laser_fl.rng import Device, RandomStreams
from laser_fl.schemes.base import RoundContext
from laser_fl.shapes import Int64

EXAMPLES_AHEAD = 2048  # that a GPU is given at once

Place = tuple[int, int, int]  # a batch's round, client and micro-step


@dataclass(frozen=True)
class _Ahead:
    """A micro-step's batches of several clients, rising."""

    round: int
    clients: tuple[int, ...]
    batch: tuple[Tree, Tree]

    def has(self, ctx: RoundContext) -> bool:
        """Return True where the participants of the round follow each other here."""
        first, count = ctx.participants[0], len(ctx.participants)
        if self.round != ctx.round or first not in self.clients:
            return False
        start = self.clients.index(first)
        return self.clients[start : start + count] == ctx.participants

    def of(self, clients: tuple[int, ...]) -> tuple[Tree, Tree]:
        """Return the rows of some clients that follow each other."""
        start = self.clients.index(clients[0])
        inputs, targets = (mapped(lambda t: t[start : start + len(clients)], part) for part in self.batch)
        return inputs, targets


class Batches:
    """The batches of the clients of one process."""

    def __init__(self, task: Task, config: RunConfig, clients: range) -> None:
        """Deal the examples to the clients.

        Args:
            task: of the run.
            config: of the run.
            clients: numbers of the process's clients.

        Raises:
            ConfigError: a client would get nothing.
        """
        self._task, self._config, self._clients = task, config, clients
        self._sampler = task.train.sampler(config, clients)
        self._fetched: Tensor | None = None  # the last inputs; the next ones reuse their memory
        self._ahead: dict[int, _Ahead] = {}
        self._reader = Reader(task.train, config.data_workers) if isinstance(task.train, Streamed) else None

    def rows(self, ctx: RoundContext) -> tuple[Int64[Tensor, "clients batch"], ...]:
        """Return the places of the participants' examples of a round, micro-step by micro-step."""
        return torch.split(self._sampler.batch(ctx.round, ctx.participants), self._config.batch_size, dim=1)

    def at(
        self,
        rows: Int64[Tensor, "clients batch"],
        ctx: RoundContext,
        step: int,
        device: Device,
        together: tuple[int, ...] = (),
    ) -> tuple[Tree, Tree]:
        """Return (inputs, targets), augmented where the task asks for it, as the model reads them.

        Args:
            rows: of a micro-step.
            ctx: of the round.
            step: the micro-step's number.
            device: of the model.
            together: clients that follow each other, whose batches a GPU is given at once; the participants are among
                them.

        Raises:
            DataError: an example cannot be read.
        """
        if self._reader or not together or torch.device(device).type == "cpu":
            return self._prepared(rows, ctx, step, device)
        ahead = self._ahead.pop(step, None)
        if ahead is None or not ahead.has(ctx):
            first, count = together.index(ctx.participants[0]), max(1, EXAMPLES_AHEAD // self._config.batch_size)
            everyone = replace(ctx, participants=together[first : first + max(count, len(ctx.participants))])
            batch = self._prepared(self.rows(everyone)[step], everyone, step, device)
            ahead = _Ahead(ctx.round, everyone.participants, batch)
        if ahead.clients[-1] != ctx.participants[-1]:
            self._ahead[step] = ahead
        return ahead.of(ctx.participants)

    def _prepared(
        self, rows: Int64[Tensor, "clients batch"], ctx: RoundContext, step: int, device: Device
    ) -> tuple[Tree, Tree]:
        batch = self._read(rows, ctx, step) if self._reader else self._fetch(rows)
        inputs, targets = (mapped(lambda tensor: to_device(tensor, device), part) for part in batch)
        if self._task.augment is not None:
            generators = [ctx.streams.generator("augment", ctx.round, client, step) for client in ctx.participants]
            inputs = self._task.augment(inputs, generators)
        return self._task.prepare(inputs) if self._task.prepare else inputs, targets

    def _fetch(self, rows: Int64[Tensor, "clients batch"]) -> tuple[Tree, Tree]:
        data = self._task.train
        inputs, targets = data.at(to_device(rows, data.device), self._fetched)
        # There may be many objects for single clients; a GPU's batches are kept until all their clients are computed.
        reuses = len(rows) > 1 and isinstance(inputs, Tensor) and not inputs.is_cuda
        self._fetched = inputs if reuses else None
        return inputs, targets

    def _read(self, rows: Int64[Tensor, "1 batch"], ctx: RoundContext, step: int) -> tuple[Tree, Tree]:
        """Read the batch of the one client that computes."""
        assert self._reader is not None
        (client,) = ctx.participants
        place = ctx.round, client, step
        return self._reader.read(
            request_of(rows, place, ctx.streams), upcoming(place, self._sampler, self._config, self._clients)
        )


def upcoming(place: Place, sampler: Sampler, config: RunConfig, clients: range) -> Iterator[Request]:
    """Yield the requests of a run from one place on, as they follow each other where no client fails.

    Args:
        place: of the first one.
        sampler: of the clients.
        config: of the run.
        clients: numbers of the process's clients.
    """
    streams = RandomStreams(config.seed)
    holders = [client for client, size in enumerate(sampler.sizes) if size]
    for round in count(place[0]):
        asked = draw_participants(config.clients, config.fraction, config.dropout_rate, round, streams, holders)
        for client in asked:
            if client in clients:
                rows = sampler.batch(round, (client,))
                for step, part in enumerate(torch.split(rows, config.batch_size, dim=1)):
                    if (here := (round, client, step)) >= place:
                        yield request_of(part, here, streams)


def request_of(rows: Int64[Tensor, "1 batch"], place: Place, streams: RandomStreams) -> Request:
    """Return the request for a client's batch; its random draws are those of its place."""
    return Request(tuple(rows.flatten().tolist()), streams.key("reading", *place))
