"""Networks for 28 x 28 grey images."""

from torch import nn

from laser_fl.models.base import Network


def linear() -> Network:
    """Build 784 -> 10, of 7,850 values. Source: paper, Table 12."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), batches=True)


def mlp() -> Network:
    """Build 784 -> 256 -> 10 with a ReLU."""
    return Network(nn.Sequential(nn.Flatten(), nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 10)), batches=True)
