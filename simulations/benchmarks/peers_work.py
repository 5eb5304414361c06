"""The same work for laser-fl and its peers: the model, the examples as float tensors, their order in all rounds."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from time import process_time

from torch import Tensor, nn

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig, parse
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import Setup, setup_of
from laser_fl.shapes import Int64
from simulations.benchmarks.rounds import whole_round


@dataclass(frozen=True)
class Work:
    """Rounds of federated averaging: plain local SGD steps on each client, the mean of the models at the server.

    order: rows of the examples that the clients take, (clients, examples) in each round, drawn before any clock starts;
        the last round of an epoch may have fewer.
    """

    setup: Setup
    order: Sequence[Int64[Tensor, "clients examples"]]

    @classmethod
    def of(cls, setup: Setup, rounds: int) -> "Work":
        """Take the order of data of a run, so that a peer computes on the same batches."""
        sampler = setup.task.train.sampler(setup.config, range(setup.config.clients))
        return cls(setup, [sampler.batch(round) for round in range(rounds)])

    @property
    def config(self) -> RunConfig:
        """The config of our side."""
        return self.setup.config

    def module(self) -> nn.Module:
        """Return a copy of the model with its initial weights."""
        return copy.deepcopy(self.setup.network.module).train()

    def examples(self, rows: Int64[Tensor, " rows"]) -> tuple[Tensor, Tensor]:
        """Return (inputs, targets) at `rows`."""
        data = self.setup.task.train
        return data.inputs.index_select(0, rows), data.targets.index_select(0, rows)


class Side(ABC):
    """A program that does the work."""

    def __init__(self, work: Work) -> None:
        """Start before the first round."""
        self.work = work
        self.round = 0

    def __call__(self) -> None:
        """Run one round."""
        self._run(self.work.order[self.round])
        self.round += 1

    def processor_seconds(self) -> float:
        """Return the processor time so far of all the processes that take part."""
        return process_time()

    @abstractmethod
    def _run(self, rows: Int64[Tensor, "clients examples"]) -> None:
        """Run one round. rows: of the clients' examples."""

    @property
    @abstractmethod
    def weights(self) -> Tensors:
        """The server's weights."""


class Ours(Side):
    """A strategy of laser-fl in one process, with all that a run does in a round."""

    def __init__(self, work: Work, strategy: str) -> None:
        """strategy: instead of the config's."""
        super().__init__(work)
        config = parse(work.config.to_flat() | {"strategy": strategy})
        self._engine = InProcess(setup_of(config, work.setup.task))

    def _run(self, rows: Int64[Tensor, "clients examples"]) -> None:
        whole_round(self._engine)  # it draws the order by itself, and takes the same rows

    @property
    def weights(self) -> Tensors:
        """The server's weights."""
        return self._engine.server.global_model.weights


class OfModule(Side):
    """A side whose server's weights are those of a module."""

    def __init__(self, work: Work) -> None:
        """Copy the initial model."""
        super().__init__(work)
        self.module = work.module()

    @property
    def weights(self) -> Tensors:
        """The module's weights."""
        return {name: weight.detach() for name, weight in self.module.named_parameters()}
