"""MNIST: 60,000 handwritten digits to learn, 10,000 to test (LeCun, Cortes, Burges)."""

from pathlib import Path

from laser_fl.config import RunConfig
from laser_fl.tasks.base import Task
from laser_fl.tasks.images28 import from_torchvision

MEAN, STD = 0.1307, 0.3081


def load(data_dir: Path, config: RunConfig) -> Task:
    """Read MNIST from `data_dir`/MNIST/raw. Raises DataError where it cannot be had."""
    from torchvision.datasets import MNIST

    return from_torchvision(MNIST, data_dir, MEAN, STD)
