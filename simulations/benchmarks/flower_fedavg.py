"""Rounds of Flower's own FedAvg, as its tutorials write them: the model as arrays, a step of SGD in plain PyTorch."""

from dataclasses import dataclass
from functools import cache

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg
from torch import nn

from laser_fl.config import parse
from laser_fl.data.sampler import Sampler
from laser_fl.data.task import Task
from laser_fl.federated.setup import prepare

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # FedAvg's records


class FedAvgRounds:
    """FedAvg on a grid, round by round."""

    def __init__(self, grid: Grid, arrays: ArrayRecord, nodes: int) -> None:
        """Start with a model, all of whose nodes train in every round."""
        self._grid, self._arrays, self._round = grid, arrays, 0
        self._strategy = FedAvg(
            fraction_evaluate=0.0, min_train_nodes=nodes, min_available_nodes=nodes, min_evaluate_nodes=0
        )

    def __call__(self) -> None:
        """Run one round."""
        self._round += 1
        messages = self._strategy.configure_train(self._round, self._arrays, ConfigRecord(), self._grid)
        arrays, _ = self._strategy.aggregate_train(self._round, self._grid.send_and_receive(messages))
        assert arrays is not None
        self._arrays = arrays


def is_of_fedavg(message: Message) -> bool:
    """Return True for a message of FedAvg's server."""
    return ARRAYS in message.content


def unchanged(message: Message) -> Message:
    """Answer with the model that came, read and written."""
    return _answer(message, _state_of(message), 0.0, 1)


def stepped(message: Message, context: Context) -> Message:
    """Answer with the model after a step of SGD on the node's next batch."""
    plain = _plain(tuple(context.run_config.items()))
    config = message.content[CONFIG]
    assert isinstance(config, ConfigRecord)
    node = int(context.node_config["partition-id"])
    rows = plain.sampler.batch(int(str(config["server-round"])), (node,))[0]
    inputs, targets = plain.task.train.at(rows)
    inputs = plain.task.prepare(inputs) if plain.task.prepare else inputs
    module = plain.module
    module.load_state_dict(_state_of(message))
    optimizer = torch.optim.SGD(module.parameters(), lr=plain.learning_rate)
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(module(inputs), targets)
    torch.autograd.backward(loss)
    optimizer.step()
    return _answer(message, module.state_dict(), loss.item(), len(rows))


@dataclass(frozen=True)
class _Plain:
    """The parts of a plain client: one process's nodes share them."""

    task: Task
    sampler: Sampler
    module: nn.Module
    learning_rate: float


@cache
def _plain(values: tuple[tuple[str, object], ...]) -> _Plain:
    setup = prepare(config := parse(dict(values)))
    sampler = setup.task.train.sampler(config, range(config.clients))
    return _Plain(setup.task, sampler, setup.network.module, config.learning_rate)


def _state_of(message: Message) -> dict[str, torch.Tensor]:
    arrays = message.content[ARRAYS]
    assert isinstance(arrays, ArrayRecord)
    return arrays.to_torch_state_dict()


def _answer(message: Message, state: dict[str, torch.Tensor], loss: float, examples: int) -> Message:
    metrics = MetricRecord({"train_loss": loss, "num-examples": examples})
    return Message(RecordDict({ARRAYS: ArrayRecord(state), METRICS: metrics}), reply_to=message)
