"""PyTorch's DDP with its PowerSGD hook: a process per client, which compress and send over gloo on this machine."""

from multiprocessing import get_context
from multiprocessing.sharedctypes import Synchronized
from time import process_time

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn.functional import cross_entropy

from laser_fl.config import RunConfig
from laser_fl.federated.setup import prepare
from laser_fl.shapes import Int64
from simulations.benchmarks.peers_work import OfModule, Work


class Hook(OfModule):
    """The first of the processes, which starts the others; these wait in their next round until it takes part."""

    def __init__(self, work: Work, rank: int = 0, port: int = 0) -> None:
        """Start the group.

        Args:
            work: with a client per process.
            rank: of this process, the number of its client.
            port: on this machine, at which the processes find each other; 0: a free one, for the first process.
        """
        super().__init__(work)
        config, self._rank = work.config, rank
        first = rank == 0
        store = dist.TCPStore("127.0.0.1", port, config.clients, is_master=first, wait_for_workers=False)  # type: ignore[attr-defined]
        others = range(1, config.clients) if first else ()
        self._others = [_start(config, len(work.order), other, store.port) for other in others]
        dist.init_process_group("gloo", store=store, rank=rank, world_size=config.clients)
        self._parallel = nn.parallel.DistributedDataParallel(self.module)
        state = PowerSGDState(None, matrix_approximation_rank=config.rank, start_powerSGD_iter=2)
        self._parallel.register_comm_hook(state, powerSGD_hook)
        self._optimizer = torch.optim.SGD(self.module.parameters(), config.learning_rate)

    def processor_seconds(self) -> float:
        """Return the processor time of all processes so far; of the others until their last round."""
        return process_time() + sum(seconds.value for seconds in self._others)

    def _run(self, rows: Int64[torch.Tensor, "clients examples"]) -> None:
        inputs, targets = self.work.examples(rows[self._rank])
        self._optimizer.zero_grad()
        cross_entropy(self._parallel(inputs), targets).backward()  # type: ignore[no-untyped-call]
        self._optimizer.step()


def _start(config: RunConfig, rounds: int, rank: int, port: int) -> "Synchronized[float]":
    """Start another process. Returns its processor time until its last round, which it keeps up to date."""
    spawn = get_context("spawn")
    seconds: Synchronized[float] = spawn.Value("d", 0.0)
    spawn.Process(target=_take_part, args=(config, rounds, rank, port, seconds), daemon=True).start()
    return seconds


def _take_part(config: RunConfig, rounds: int, rank: int, port: int, seconds: "Synchronized[float]") -> None:
    work = Work.of(prepare(config), rounds)
    side = Hook(work, rank, port)
    for _ in range(rounds):
        side()
        seconds.value = process_time()
    dist.destroy_process_group()
