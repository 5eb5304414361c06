"""MNIST: 60,000 handwritten digits to learn, 10,000 to test (LeCun, Cortes, Burges)."""

from pathlib import Path

from laser_fl.config import RunConfig
from laser_fl.tasks.base import Task
from laser_fl.tasks.images28 import from_files

MEAN, STD = 0.1307, 0.3081


def load(data_dir: Path, config: RunConfig) -> Task:
    """Read MNIST from `data_dir`. Raises DataError where it cannot be had or is damaged."""
    return from_files("MNIST", "mnist", data_dir, MEAN, STD)
