"""Fashion-MNIST: 60,000 pieces of clothing to learn, 10,000 to test (Xiao, Rasul, Vollgraf, 2017)."""

from pathlib import Path

from laser_fl.config import RunConfig
from laser_fl.tasks.base import Task
from laser_fl.tasks.images28 import from_files

MEAN, STD = 0.2860, 0.3530


def load(data_dir: Path, config: RunConfig) -> Task:
    """Read Fashion-MNIST from `data_dir`. Raises DataError where it cannot be had or is damaged."""
    return from_files("FashionMNIST", "fashion-mnist", data_dir, MEAN, STD)
