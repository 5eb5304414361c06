"""Fashion-MNIST: 60,000 pieces of clothing to learn, 10,000 to test (Xiao, Rasul, Vollgraf, 2017)."""

from pathlib import Path

from laser_fl.config import RunConfig
from laser_fl.tasks.base import Task
from laser_fl.tasks.images28 import from_torchvision

MEAN, STD = 0.2860, 0.3530


def load(data_dir: Path, config: RunConfig) -> Task:
    """Read Fashion-MNIST from `data_dir`/FashionMNIST/raw. Raises DataError where it cannot be had."""
    from torchvision.datasets import FashionMNIST

    return from_torchvision(FashionMNIST, data_dir, MEAN, STD)
