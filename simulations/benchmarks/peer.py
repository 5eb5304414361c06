"""LASER on MNIST as a straightforward program: the peer that shows the gain by batching.

It has one model per client, torchvision's transforms in a DataLoader, autograd, and loops over clients and blocks. It
draws from PyTorch's own generator, as such a program would.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Subset

from laser_fl.config import RunConfig
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import data_dir, prepare
from simulations.benchmarks.base import Line, Request, apart, line, milliseconds
from simulations.benchmarks.rounds import WARM_UP, whole_round
from simulations.benchmarks.timing import Side, in_turn

ROUNDS = 100
BLOCK = 10  # rounds of one side before the other's turn


def peer(request: Request) -> Iterator[Line]:
    """Time LASER in the paper's setting, 16 clients x 128 images."""
    request.only_laser()
    config = request.config("mnist", only=("threads", "data-dir", "seed"), strategy="laser")
    yield line("peer", **apart(_measure, config, request.rounds or ROUNDS))


def _measure(config: RunConfig, rounds: int) -> Line:
    setup = prepare(config)
    engine = InProcess(setup)
    sides: dict[str, Side] = {"peer": Straightforward(config), "round": lambda: whole_round(engine)}
    seconds = in_turn(sides, rounds, WARM_UP, setup.device, BLOCK)
    return {
        "strategy": config.strategy,
        "clients": config.clients,
        "batch_size": config.batch_size,
        "threads": config.threads,
        "rounds": rounds,
        "peer_ms": milliseconds(seconds["peer"]),
        "round_ms": milliseconds(seconds["round"]),
        "speedup": round(seconds["peer"] / seconds["round"], 1),
    }


class Straightforward:
    """The same rounds, computed client by client and block by block."""

    def __init__(self, config: RunConfig) -> None:
        from torchvision.datasets import MNIST
        from torchvision.transforms import Compose, Normalize, ToTensor

        self.config = config
        data = MNIST(data_dir(config), transform=Compose([ToTensor(), Normalize((0.1307,), (0.3081,))]))
        shards = torch.randperm(len(data)).tensor_split(config.clients)
        self.loaders = [DataLoader(Subset(data, s.tolist()), config.batch_size, shuffle=True) for s in shards]
        self.batches: list[Iterator[Any]] = [iter(loader) for loader in self.loaders]
        self.server = _network()
        self.clients = [_network() for _ in range(config.clients)]
        self.memories = [[torch.zeros_like(p) for p in c.parameters()] for c in self.clients]
        self.optimizer = torch.optim.SGD(self.server.parameters(), config.learning_rate, config.momentum)
        self.basis = torch.linalg.qr(torch.randn(10, config.rank)).Q
        self.round = 0

    def __call__(self) -> None:
        """Run one round."""
        signals = [self._client(client) for client in range(self.config.clients)]
        norms = [[float(part.norm()) for part in signal] for signal in signals]
        totals = [sum(own) for own in norms]
        for block, parameter in enumerate(self.server.parameters()):
            shares = [own[block] / total for own, total in zip(norms, totals, strict=True)]
            power = self.config.power * sum(shares) / len(shares)
            amplitude = math.sqrt(power) / max(own[block] for own in norms)
            received = torch.zeros_like(signals[0][block])
            for signal in signals:
                received += amplitude * signal[block]
            received += torch.randn_like(received)
            mean = received / (amplitude * len(signals))
            parameter.grad = self._decoded(mean) if parameter.ndim == 2 else mean
        self.optimizer.step()
        self.round += 1

    def _client(self, number: int) -> list[Tensor]:
        """Return one client's signals; that of the matrix is a factor."""
        model = self.clients[number]
        model.load_state_dict(self.server.state_dict())
        model.zero_grad()
        inputs, targets = self._batch(number)
        cross_entropy(model(inputs), targets).backward()  # type: ignore[no-untyped-call]
        signals = []
        for block, parameter in enumerate(model.parameters()):
            assert parameter.grad is not None
            corrected = self.memories[number][block] + parameter.grad
            signal, approximation = corrected, corrected
            if parameter.ndim == 2:
                even = self.round % 2 == 0
                signal = corrected.T @ self.basis if even else corrected @ self.basis
                approximation = self.basis @ signal.T if even else signal @ self.basis.T
            self.memories[number][block] = corrected - approximation
            signals.append(signal)
        return signals

    def _decoded(self, factor: Tensor) -> Tensor:
        update: Tensor = self.basis @ factor.T if self.round % 2 == 0 else factor @ self.basis.T
        self.basis = torch.linalg.qr(factor).Q
        return update

    def _batch(self, number: int) -> tuple[Tensor, Tensor]:
        try:
            inputs, targets = next(self.batches[number])
        except StopIteration:
            self.batches[number] = iter(self.loaders[number])
            inputs, targets = next(self.batches[number])
        return inputs, targets


def _network() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))
