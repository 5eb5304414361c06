"""What the three tasks on 28 x 28 grey images share: models, loss, metric, and how files are found."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from laser_fl.errors import DataError
from laser_fl.models.base import Network
from laser_fl.models.small import linear, mlp
from laser_fl.tasks.base import Examples, Task

MODELS: Mapping[str, Callable[[], Network]] = {"linear": linear, "mlp": mlp}


def task(train: Examples, test: Examples) -> Task:
    """A classification task on normalised grey images and their labels."""
    return Task(train=train, test=test, models=MODELS)


def normalised(images: Examples, mean: float, std: float) -> Examples:
    """(examples, 28, 28) of 8 bits, scaled to [0, 1] -> (examples, 1, 28, 28) of zero mean and unit deviation."""
    values = images.inputs.to(torch.float32, copy=True).div_(255).sub_(mean).div_(std)  # in place: they are many
    return Examples(values.unsqueeze(1), images.targets)


def from_torchvision(dataset: Any, root: Path, mean: float, std: float) -> Task:
    """The task on one of torchvision's MNIST-like data sets, downloaded to `root` where absent.

    Raises:
        DataError: the files are not there and could not be downloaded.
    """
    # One after the other: raw and normalised, both are large.
    train = normalised(_split(dataset, root, True), mean, std)
    return task(train, normalised(_split(dataset, root, False), mean, std))


def _split(dataset: Any, root: Path, train: bool) -> Examples:
    try:
        data = dataset(root, train=train, download=not (root / dataset.__name__ / "raw").is_dir())
    except (RuntimeError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(
            f"{dataset.__name__}: not found in {root / dataset.__name__ / 'raw'} and not downloaded ({reason}); "
            "put its four idx files there, or name their place with data-dir or $LASER_FL_DATA"
        ) from None
    return Examples(data.data, data.targets.to(torch.int64))
