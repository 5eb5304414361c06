"""Compression alone, per block size: LASER's two-phase exchange beside the mathematics of torch's PowerSGD hook.

The hook's steps are those of torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook, with its own
orthogonalisation: add the error, bmm, mean, orthogonalise, bmm, mean, multiply, store the error.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import _orthogonalize

from laser_fl.config import RunConfig
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.setup import device_of
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import Received
from simulations.benchmarks.base import Line, Request, apart, line, milliseconds
from simulations.benchmarks.timing import Side, in_turn

SHAPES = ((10, 784), (64, 576), (512, 4608), (3072, 768), (50304, 768))
CLIENTS = 4
ROUNDS = 20
WARM_UP = 2
BLOCK = "matrix"


def compression(request: Request) -> Iterator[Line]:
    """Compress matrices of the paper's networks; yield a line per shape."""
    request.only_laser()
    config = request.config(
        "cifar10",
        only=("threads", "device", "rank"),
        clients=CLIENTS,
        strategy="laser",
        factor_exchange="two-phase",
        power="inf",
        threads=0,
    )
    for shape in SHAPES:
        yield line("compression", **apart(_measure, config, shape, request.rounds or ROUNDS))


def _measure(config: RunConfig, shape: tuple[int, int], rounds: int) -> Line:
    if config.threads:
        torch.set_num_threads(config.threads)
    device = device_of(config)
    generator = RandomStreams(config.seed).generator("gradients", device=device)
    gradient = torch.randn(CLIENTS, *shape, device=device, generator=generator)
    ours = Ours(gradient, config)
    sides: dict[str, Side] = {"peer": Hook(gradient, ours.broadcast.shared[BLOCK]), "round": ours}
    seconds = in_turn(sides, rounds, WARM_UP, device)
    return {
        "rows": shape[0],
        "columns": shape[1],
        "rank": config.rank,
        "clients": CLIENTS,
        "device": str(device),
        "threads": config.threads,
        "rounds": rounds,
        "peer_ms": milliseconds(seconds["peer"]),
        "round_ms": milliseconds(seconds["round"]),
        "ratio": round(seconds["round"] / seconds["peer"], 3),
    }


class Ours:
    """LASER's side, both phases: correct, encode, update the memory, decode the mean as of a perfect channel."""

    def __init__(self, gradient: Tensor, config: RunConfig) -> None:
        """gradient: (clients, rows, columns)."""
        self.gradient = gradient
        self.memory = torch.zeros_like(gradient)
        server = Server(config, {BLOCK: gradient[0]}, RoundSchedule(1))
        self.broadcast = server.broadcast()

    def __call__(self) -> Tensor:
        """Run one round; return the update."""
        scheme, shared = self.broadcast.scheme, self.broadcast.shared
        corrected = self.memory.add_(self.gradient)
        update = None
        for phase in range(len(scheme.traits.phase_shares)):
            ctx = replace(self.broadcast.context, phase=phase)
            signals, approximations = scheme.encode({BLOCK: corrected}, shared, ctx)
            for approximation in approximations.values():
                approximation.subtract_from_(corrected)
            received = {name: signal.mean(dim=0) for name, signal in signals.items()}
            update, shared = scheme.decode(Received(received, {}), shared, ctx)
        assert update is not None
        return update[BLOCK]


class Hook:
    """The hook's steps on each of as many processes as there are clients; a mean stands for an all-reduce.

    The error is that of the mean.
    """

    def __init__(self, gradient: Tensor, basis: Tensor) -> None:
        """gradient: (processes, rows, columns). basis: the first right factor, (columns, rank)."""
        self.gradient = gradient
        self.error = torch.zeros_like(gradient)
        self.bucket = torch.empty_like(gradient)
        self.q = basis.clone()

    def __call__(self) -> Tensor:
        """Run one round; return the update."""
        processes = len(self.gradient)
        corrected = torch.add(self.gradient, self.error, out=self.bucket)
        copy = corrected.clone()
        _orthogonalize(self.q.unsqueeze(0))  # type: ignore[no-untyped-call]
        p = torch.bmm(corrected, self.q.expand(processes, *self.q.shape)).mean(dim=0)
        _orthogonalize(p.unsqueeze(0))  # type: ignore[no-untyped-call]
        self.q = torch.bmm(corrected.transpose(1, 2), p.expand(processes, *p.shape)).mean(dim=0)
        update = torch.matmul(p, self.q.t(), out=corrected[0])
        self.error = copy - update
        return update
