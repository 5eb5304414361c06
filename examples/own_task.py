"""A task of your own: eight tones in noise, and a small network that tells them apart.

$ laser-fl run -c task=own_task:load -c clients=8 -c rounds=60
...
accuracy  96.0 % last, 74.7 % with averaged weights, 74.7 % their best
$ laser-fl compare -c task=own_task:load -c clients=8 -c rounds=200 -c power=0.1 --strategies z-sgd,laser
...
strategy  last  averaged  best  values    bytes  in all  energy    uses  power  time
z-sgd     26.5      43.7  63.8  16,968  67.9 kB   3.39M     119   3.39M    0.1   2 s
laser     87.6      92.8  93.2     464   1.9 kB  92,800     129  92,800    0.1   2 s
$ python own_task.py
<Result of laser: 60 rounds, test accuracy 0.961>
"""

from pathlib import Path

import torch
from torch import Tensor, nn

import laser_fl as lf
from laser_fl.config import RunConfig

TONES, SAMPLES = 8, 256


def load(data_dir: Path, config: RunConfig) -> lf.Task:
    """Return the task; `data_dir` is the place for data that lie in files."""
    return lf.Task(train=tones(4000, seed=1), test=tones(1000, seed=2), models={"small": network})


def network() -> nn.Module:
    """Build the network; the run's seed decides its initial weights."""
    return nn.Sequential(nn.Linear(SAMPLES, 64), nn.ReLU(), nn.Linear(64, TONES))


def tones(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw tones of two to nine periods, at phases of up to 0.4 periods, and their labels."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(TONES, (count,), generator=draw)
    periods = (2 + labels).unsqueeze(1) * torch.linspace(0, 1, SAMPLES) + 0.4 * torch.rand(count, 1, generator=draw)
    noise = 0.5 * torch.randn(count, SAMPLES, generator=draw)
    return (2 * torch.pi * periods).sin() + noise, labels


if __name__ == "__main__":
    torch.manual_seed(0)
    print(lf.train(network(), tones(4000, seed=1), tones(1000, seed=2), clients=8, rounds=60))
