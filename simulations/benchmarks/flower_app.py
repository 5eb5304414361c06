"""The Flower app of the benchmark: rounds of a strategy with stored gradients, and empty rounds, in turn."""

import json
import time
from functools import cache
from pathlib import Path
from statistics import median

import torch
from flwr.app import Context, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from clients.node import reply
from laser_fl.blocks import Block, Tensors
from laser_fl.callbacks import Callback
from laser_fl.config import RunConfig, parse
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.differentiation import Computed
from laser_fl.federated.local_training import GroupTrainer, LocalTrainer
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.models.base import build
from laser_fl.registry import MODELS
from laser_fl.rng import RandomStreams
from laser_fl.transport.arrays import write_tensors
from strategies.over_the_air import OverTheAir

WARM_UP = 3  # rounds; actors map their files in them

server = ServerApp()
client = ClientApp()


@server.main()
def main(grid: Grid, context: Context) -> None:
    """Time rounds, each followed by an empty one; write the medians to the file ``result``."""
    config, rounds, result = _settings(context)
    if config.threads:
        torch.set_num_threads(config.threads)
    network = build(MODELS.load(config.model), config)
    timer = _Timer(grid)
    strategy = OverTheAir(
        config,
        schedule=RoundSchedule(rounds + WARM_UP),
        callbacks=[timer],
        transposed=network.transposed,
        undecayed=network.undecayed,
        buffers=network.buffers,
    )
    strategy.start(grid, write_tensors(network.weights), rounds + WARM_UP)
    result.write_text(json.dumps({name: median(s[WARM_UP:]) for name, s in timer.seconds.items()}))


class _Timer(Callback):
    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.seconds: dict[str, list[float]] = {"round": [], "empty": []}

    def on_round(self, server: Server, seconds: float) -> None:
        """Record the round's time, and time an empty round."""
        self.seconds["round"].append(seconds)
        started = time.perf_counter()
        nodes = self._grid.get_node_ids()
        messages = [Message(RecordDict(), dst_node_id=node, message_type=MessageType.QUERY) for node in nodes]
        replies = list(self._grid.send_and_receive(messages))
        assert not any(message.has_error() for message in replies)
        self.seconds["empty"].append(time.perf_counter() - started)


@client.query()
def nothing(message: Message, context: Context) -> Message:
    """Answer an empty message."""
    return Message(RecordDict(), reply_to=message)


@client.train()
def train(message: Message, context: Context) -> Message:
    """Answer a broadcast with stored gradients."""
    return reply(message, context, _StoredTrainer().answer)


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


def _settings(context: Context) -> tuple[RunConfig, int, Path]:
    values = dict(context.run_config)
    rounds, result = int(values.pop("timed-rounds")), Path(str(values.pop("result")))
    return parse(values), rounds, result
