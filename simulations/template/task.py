"""The model and the data: put your own in their place. `load` hands them to every run."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d
from torch.utils.data import Dataset

import laser_fl as lf
from laser_fl.config import RunConfig


class Net(nn.Module):
    """A small convolutional network; a run's seed decides its initial weights."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.hidden, self.head = nn.Conv2d(1, 8, 3), nn.Linear(392, 1024), nn.Linear(1024, 8)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.hidden(max_pool2d(self.conv(images), 2).relu().flatten(1)).relu())


class Bars(Dataset[tuple[Tensor, int]]):
    """Noisy images of 16 x 16 pixels; the class is the place of a bright bar, one of eight."""

    def __init__(self, size: int, seed: int) -> None:
        self.noise = torch.randn(size, 1, 16, 16, generator=torch.Generator().manual_seed(seed))

    def __len__(self) -> int:
        return len(self.noise)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.noise[index] + 2 * torch.eye(8).repeat_interleave(2, dim=1)[index % 8], index % 8


def load(data_dir: Path, config: RunConfig) -> lf.Task:
    """Return the task. Data that lie in files are in `data_dir`, the key data-dir of a run."""
    return lf.Task(train=Bars(1024, seed=1), test=Bars(512, seed=2), models=Net)


if __name__ == "__main__":
    torch.manual_seed(0)
    results = lf.compare(Net(), Bars(1024, seed=1), Bars(512, seed=2), power=2.0, clients=4, rounds=100)
    print(results.table[["strategy", "test_accuracy", "uplink_floats_per_round"]].to_string(index=False))
