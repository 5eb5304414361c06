"""Tasks on random data of the sizes of real ones, for benchmarks where these are not at hand.

They are chosen as ``task=simulations.benchmarks.synthetic:images``. Scores mean nothing; times and memory do.
"""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data import cifar, mnist
from laser_fl.data.examples import Examples
from laser_fl.data.language import language_task
from laser_fl.data.task import Task
from laser_fl.data.tokens import VOCABULARY
from laser_fl.models.resnet18 import resnet18
from laser_fl.rng import RandomStreams

CLASSES = 10
CIFAR = (3, 32, 32)
DIGITS = (28, 28)
TOKENS = 2_000_000


def images(data_dir: Path, config: RunConfig) -> Task:
    """Draw as many images as CIFAR-10 has, of its shape, to be augmented as those are."""
    return _colour(config, 50_000, 10_000)


def few_images(data_dir: Path, config: RunConfig) -> Task:
    """Draw a few images of CIFAR-10's shape."""
    return _colour(config, 2_000, 500)


def tiny(data_dir: Path, config: RunConfig) -> Task:
    """Draw a handful of images of CIFAR-10's shape, for what only has to run."""
    return _colour(config, 64, 16)


def _colour(config: RunConfig, train: int, test: int) -> Task:
    return Task(
        train=_drawn(config, "train", train, CIFAR),
        test=_drawn(config, "test", test, CIFAR),
        models={"resnet18": resnet18, "linear": mnist.MODELS["linear"]},
        fixed={"classes": CLASSES, "channels": CIFAR[0], "features": CIFAR[0] * CIFAR[1] * CIFAR[2]},
        evaluation_batch=500,
        augment=cifar.augment,
        prepare=partial(cifar.normalised, mean=cifar.MEAN, std=cifar.STD),
    )


def digits(data_dir: Path, config: RunConfig) -> Task:
    """Draw as many grey images as MNIST has, of its shape."""
    return _grey(config, 60_000, 10_000)


def few_digits(data_dir: Path, config: RunConfig) -> Task:
    """Draw as many grey images as mnist-5k has, of its shape."""
    return _grey(config, 4_000, 1_000)


def many_digits(data_dir: Path, config: RunConfig) -> Task:
    """Draw grey images for a hundred thousand clients."""
    return _grey(config, 200_000, 1_000)


def _grey(config: RunConfig, train: int, test: int) -> Task:
    parts = (_drawn(config, "train", train, DIGITS), _drawn(config, "test", test, DIGITS))
    return mnist.task(*(mnist.normalised(part, 0.5, 0.2) for part in parts))


def text(data_dir: Path, config: RunConfig) -> Task:
    """Draw tokens of GPT-2's vocabulary."""
    parts = {}
    for name, length in (("train", TOKENS), ("test", TOKENS // 10)):
        generator = RandomStreams(config.seed).generator(f"synthetic {name}")
        parts[name] = torch.randint(VOCABULARY["gpt2"], (length,), dtype=torch.int32, generator=generator)
    return language_task(parts, config, "gpt2")


def _drawn(config: RunConfig, part: str, count: int, shape: tuple[int, ...]) -> Examples:
    """Draw images of 8 bits, each the sum of its class's picture and noise, so that a model can learn them."""
    generator = RandomStreams(config.seed).generator(f"synthetic {part}")
    pictures = torch.randint(128, (CLASSES, *shape), dtype=torch.uint8, generator=_pictures(config))
    targets = torch.randint(CLASSES, (count,), generator=generator)
    noise: Tensor = torch.randint(128, (count, *shape), dtype=torch.uint8, generator=generator)
    return Examples(noise.add_(pictures[targets]), targets)


def _pictures(config: RunConfig) -> torch.Generator:
    """Return the generator of the classes' pictures, which are the same in both parts."""
    return RandomStreams(config.seed).generator("synthetic classes")
