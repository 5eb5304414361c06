"""Peers of laser-fl, each used by its public interfaces as its own documentation shows, with its data in memory.

Sources: pfl-research (Granqvist et al., "pfl-research: simulation framework for accelerating research in private
federated learning", 2024); BlazeFL (its package's `contrib.fedavg`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import current_process
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from laser_fl.blocks import Tensors
from laser_fl.shapes import Int64
from simulations.benchmarks.peers_work import OfModule, Side, Work

Examples = tuple[Tensor, Tensor]
READY = 4  # rounds whose batches are handed over


class Loop(OfModule):
    """Plain PyTorch: client by client, gradients add up, the optimizer steps. Nothing is compressed or measured."""

    def __init__(self, work: Work) -> None:
        """Divide the learning rate by the clients, since gradients are summed."""
        super().__init__(work)
        rate = work.config.learning_rate / work.config.clients
        self._optimizer = torch.optim.SGD(self.module.parameters(), rate)

    def _run(self, rows: Int64[Tensor, "clients examples"]) -> None:
        for inputs, targets in self._batches(rows):
            cross_entropy(self.module(inputs), targets).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()
        self._optimizer.zero_grad()

    def _batches(self, rows: Int64[Tensor, "clients examples"]) -> Iterator[Examples]:
        return map(self.work.examples, rows)


class LoopHandedOver(Loop):
    """The same loop with the batches of its first rounds ready beforehand, over and over: it never fetches any."""

    def __init__(self, work: Work) -> None:
        """Fetch batches."""
        super().__init__(work)
        self._ready = [list(map(work.examples, rows)) for rows in work.order[:READY]]

    def _batches(self, rows: Int64[Tensor, "clients examples"]) -> Iterator[Examples]:
        return iter(self._ready[self.round % READY])


class LocalLoop(OfModule):
    """Plain PyTorch with several local steps: the model goes from client to client, the results add up."""

    def _run(self, rows: Int64[Tensor, "clients examples"]) -> None:
        config, model = self.work.config, [weight.data for weight in self.module.parameters()]
        start = [weight.clone() for weight in model]
        total = [torch.zeros_like(weight) for weight in model]
        for own in rows:
            torch._foreach_copy_(model, start)
            optimizer = torch.optim.SGD(self.module.parameters(), config.learning_rate)
            for part in torch.split(own, config.batch_size):
                inputs, targets = self.work.examples(part)
                optimizer.zero_grad()
                cross_entropy(self.module(inputs), targets).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            torch._foreach_add_(total, model)
        torch._foreach_copy_(model, torch._foreach_div(total, config.clients))


class _Scored(nn.Module):
    """A model with the loss and the metrics that pfl asks for."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(self.module(inputs), targets)

    def metrics(self, inputs: Tensor, targets: Tensor) -> dict[str, Any]:
        with torch.no_grad():
            weighted = import_module("pfl.metrics").Weighted
            return {"loss": weighted(float(self.loss(inputs, targets)) * len(targets), len(targets))}


class Pfl(OfModule):
    """pfl-research: federated averaging on its simulated backend; evaluations are in the first round only."""

    def __init__(self, work: Work) -> None:
        """Build the algorithm, a user per client."""
        super().__init__(work)
        config = work.config
        current_process().name = "MainProcess"  # pfl takes one of another name for a DataLoader's worker, and fails
        sampler = import_module("pfl.data.sampling").get_user_sampler("minimize_reuse", list(range(config.clients)))
        data = import_module("pfl.data.federated_dataset").FederatedDataset(self._user, sampler)
        self._dataset = import_module("pfl.data.dataset").Dataset
        self._backend = import_module("pfl.aggregate.simulate").SimulatedBackend(data, data)
        self._model = import_module("pfl.model.pytorch").PyTorchModel(
            _Scored(self.module),
            local_optimizer_create=torch.optim.SGD,
            central_optimizer=torch.optim.SGD(self.module.parameters(), 1.0),
        )
        self._algorithm = import_module("pfl.algorithm.federated_averaging").FederatedAveraging()
        self._rounds = import_module("pfl.algorithm.base").NNAlgorithmParams
        keys = import_module("pfl.hyperparam.base")
        self._training = keys.NNTrainHyperParams(
            local_num_epochs=1, local_learning_rate=config.learning_rate, local_batch_size=config.batch_size
        )
        self._evaluation = keys.NNEvalHyperParams(local_batch_size=None)

    def _run(self, rows: Int64[Tensor, "clients examples"]) -> None:
        one_more = self._rounds(
            central_num_iterations=self.round + 1,
            evaluation_frequency=len(self.work.order) + 1,
            train_cohort_size=self.work.config.clients,
            val_cohort_size=0,
        )
        self._algorithm.run(
            one_more, self._backend, self._model, self._training, self._evaluation, send_metrics_to_platform=False
        )

    def _user(self, client: int) -> Any:
        return self._dataset(raw_data=self.work.examples(self.work.order[self.round][client]), user_id=str(client))


@dataclass(frozen=True)
class _Batches:
    """A client's batches in the place of a DataLoader: BlazeFL iterates it, and takes the data set's length."""

    work: Work
    dataset: Sequence[int]
    rows: Int64[Tensor, " examples"]

    def __iter__(self) -> Iterator[Examples]:
        return map(self.work.examples, torch.split(self.rows, self.work.config.batch_size))


class BlazeFL(Side):
    """BlazeFL: its federated averaging, clients one after the other; it is given whole batches."""

    def __init__(self, work: Work) -> None:
        """Build server and clients. The side itself is BlazeFL's model selector, and its partitioned data set."""
        super().__init__(work)
        blaze, config = import_module("blazefl.contrib"), work.config
        shared: dict[str, Any] = {"device": "cpu", "num_clients": config.clients, "seed": 0}
        shared |= {"model_selector": self, "model_name": "model", "dataset": self, "batch_size": config.batch_size}
        self._server = blaze.FedAvgBaseServerHandler(global_round=len(work.order), sample_ratio=1.0, **shared)
        self._clients = blaze.FedAvgBaseClientTrainer(epochs=1, lr=config.learning_rate, **shared)

    def select_model(self, model_name: str) -> nn.Module:
        """Return a copy of the model."""
        return self.work.module()

    def get_dataloader(self, type_: str, cid: int, batch_size: int, generator: torch.Generator) -> Any:
        """Return a client's batches of the round."""
        rows = self.work.order[self.round][cid]
        return _Batches(self.work, range(len(rows)), rows)

    def _run(self, rows: Int64[Tensor, "clients examples"]) -> None:
        self._clients.local_process(self._server.downlink_package(), self._server.sample_clients())
        for package in self._clients.uplink_package():
            self._server.load(package)

    @property
    def weights(self) -> Tensors:
        """The server's weights."""
        return {name: weight.detach() for name, weight in self._server.model.named_parameters()}


class BlazeFLDataLoader(BlazeFL):
    """BlazeFL with a DataLoader per client, as in its examples."""

    def get_dataloader(self, type_: str, cid: int, batch_size: int, generator: torch.Generator) -> Any:
        """Return a DataLoader of the client's examples of the round."""
        return DataLoader(TensorDataset(*self.work.examples(self.work.order[self.round][cid])), batch_size)
