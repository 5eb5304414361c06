"""The Flower app of the benchmark: rounds of a strategy, rounds of Flower's FedAvg and empty rounds, in turn."""

import json
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from statistics import fmean, median

import torch
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from clients import client_app
from clients.node import reply
from laser_fl.blocks import Block, Tensors
from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.differentiation import Computed
from laser_fl.federated.local_training import GroupTrainer, LocalTrainer
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.models.base import build
from laser_fl.registry import MODELS
from laser_fl.rng import RandomStreams
from laser_fl.transport.arrays import write_tensors
from simulations.benchmarks.flower_fedavg import FedAvgRounds, is_of_fedavg, stepped, unchanged
from simulations.benchmarks.timing import Family
from strategies.over_the_air import OverTheAir

WARM_UP = 3  # rounds; actors map their files in them
RESULT = "result.json"  # in the folder `out-dir`

server = ServerApp()
own = ClientApp()  # its gradients are those of the task
stored = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Time rounds, each followed by one of FedAvg's and an empty one; write the figures into the folder."""
    config = parse(context.run_config)
    if config.threads:
        torch.set_num_threads(config.threads)
    network = build(MODELS.load(config.model), config)
    arrays = write_tensors({**network.weights, **network.buffers})
    timer = _Timer({"fedavg": FedAvgRounds(grid, arrays, config.clients), "empty": lambda: _empty(grid)})
    strategy = OverTheAir(
        config,
        schedule=RoundSchedule(config.rounds),
        callbacks=[timer],
        transposed=network.transposed,
        undecayed=network.undecayed,
        buffers=network.buffers,
    )
    strategy.start(grid, arrays, config.rounds)
    (Path(config.out_dir) / RESULT).write_text(json.dumps(timer.figures()))


class _Timer(Callback):
    """The times of a run's rounds, each followed by the others', in turn."""

    def __init__(self, others: dict[str, Callable[[], None]]) -> None:
        self._others = others
        self._family: Family | None = None
        self._before = 0.0
        self._wall: dict[str, list[float]] = {"round": [], **{name: [] for name in others}}
        self._cpu: dict[str, list[float]] = {name: [] for name in self._wall}

    def on_round(self, server: Server, seconds: float) -> None:
        """Record the round's times, and time the others."""
        self._family = self._family or Family()
        self._note("round", seconds)
        for name, other in self._others.items():
            started = time.perf_counter()
            other()
            self._note(name, time.perf_counter() - started)

    def figures(self) -> dict[str, object]:
        """Return medians of wall time, means of processor time, whose clock ticks are long, and a ratio's median."""
        wall, cpu = ({name: some[WARM_UP:] for name, some in tree.items()} for tree in (self._wall, self._cpu))
        return {
            "wall": {name: median(some) for name, some in wall.items()},
            "cpu": {name: fmean(some) for name, some in cpu.items()},
            "ratio": median(b / a for a, b in zip(wall["round"], wall["fedavg"], strict=True)),
        }

    def _note(self, name: str, seconds: float) -> None:
        assert self._family is not None
        now = self._family.seconds()
        self._wall[name].append(seconds)
        self._cpu[name].append(now - self._before)
        self._before = self._family.seconds()


def _empty(grid: Grid) -> None:
    messages = [Message(RecordDict(), dst_node_id=n, message_type=MessageType.QUERY) for n in grid.get_node_ids()]
    assert not any(message.has_error() for message in grid.send_and_receive(messages))


@own.query()
@stored.query()
def nothing(message: Message, context: Context) -> Message:
    """Answer an empty message."""
    return Message(RecordDict(), reply_to=message)


@own.train()
def train(message: Message, context: Context) -> Message:
    """Answer a broadcast, or FedAvg's model, with gradients of the task's data."""
    return stepped(message, context) if is_of_fedavg(message) else client_app.train(message, context)


@stored.train()
def train_at_no_cost(message: Message, context: Context) -> Message:
    """Answer a broadcast with stored gradients, and FedAvg's model with itself."""
    return unchanged(message) if is_of_fedavg(message) else reply(message, context, _StoredTrainer().answer)


class _StoredTrainer(LocalTrainer):
    """A trainer that computes the clients one by one, with stored gradients."""

    def __init__(self) -> None:
        self._at_once = 1
        self._trainer = _StoredGradients()

    def _refuse_others(self, broadcast: Broadcast) -> None:
        """Refuse nothing: stored gradients fit any model."""


class _StoredGradients(GroupTrainer):
    """A group trainer with one gradient for all clients and rounds."""

    def __init__(self) -> None:
        """Start without data and network."""

    def compute(self, broadcast: Broadcast, together: tuple[int, ...] = ()) -> Computed:
        """Return the stored gradients, at no cost."""
        ctx = broadcast.context
        buffers = {name: b.unsqueeze(0) for name, b in broadcast.buffers.items()}
        return Computed(
            _gradients(ctx.blocks, ctx.streams), buffers, torch.zeros(len(ctx.participants), dtype=torch.float64)
        )


@cache
def _gradients(blocks: tuple[Block, ...], streams: RandomStreams) -> Tensors:
    generator = streams.generator("stored gradients")
    return {block.name: torch.randn(1, *block.shape, generator=generator) / 1000 for block in blocks}
