"""The setting in which BlazeFL publishes its speed: CIFAR-10, 100 clients with two labels each, a small network.

Source: the benchmarks in BlazeFL's repository, whose network is that of PyTorch's CIFAR-10 tutorial. Deviation: a
client's local epochs are shuffled together, not one by one, for all sides alike.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from laser_fl.config import RunConfig
from laser_fl.data import cifar
from laser_fl.data.examples import Examples
from laser_fl.data.task import Task
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Int64

CLIENTS, BATCH, LOCAL_EPOCHS, LEARNING_RATE = 100, 50, 5, 0.1
SHARDS_PER_CLIENT = 2
LOCAL_STEPS = LOCAL_EPOCHS * 50_000 // CLIENTS // BATCH


def images(data_dir: Path, config: RunConfig) -> Task:
    """Read CIFAR-10 as normalised float tensors, without augmentation. Raises DataError where it cannot be had."""
    stored = cifar.load_10(data_dir, config)
    train, test = (
        Examples(cifar.normalised(part.inputs, cifar.MEAN, cifar.STD), part.targets)
        for part in (stored.train, stored.test)
    )
    return Task(train, test, {"network": network}, evaluation_batch=500)


def network() -> nn.Module:
    """Build the tutorial's network of 62,006 values."""
    return nn.Sequential(
        nn.Conv2d(3, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 5 * 5, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, 10),
    )


def shards(labels: Int64[Tensor, " examples"], config: RunConfig) -> Sequence[Tensor]:
    """Deal each client two stretches of the examples sorted by label, five times each: an example per local epoch."""
    generator = RandomStreams(config.seed).generator("shards")
    pieces = labels.argsort(stable=True).tensor_split(SHARDS_PER_CLIENT * config.clients)
    drawn = torch.randperm(len(pieces), generator=generator).view(config.clients, SHARDS_PER_CLIENT)
    return [torch.cat([pieces[piece] for piece in own]).repeat(LOCAL_EPOCHS) for own in drawn.tolist()]
