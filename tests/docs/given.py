"""What the pages' shorter pieces of code take for granted: models, data, an optimizer, one process of DDP."""

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.functional import cross_entropy as loss  # noqa: F401

CLASSES = 10


def data(count, seed):
    """Draw inputs and the classes that the largest of them tells."""
    inputs = torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    return inputs, inputs[:, :CLASSES].argmax(dim=1)


class Ragged(torch.utils.data.Dataset):
    """Sequences of unequal length with a class each."""

    def __len__(self):
        return 64

    def __getitem__(self, row):
        return torch.full((2 + row % 3, 4), float(row % 2)), row % 2


class Last(nn.Module):
    """Reads the mean of a sequence."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 2)

    def forward(self, inputs):
        return self.linear(inputs.mean(dim=1))


def alone():
    """Begin a group of one process, for DDP."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)


model = nn.Linear(16, CLASSES)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
train, test = data(256, 0), data(64, 1)
ragged, ragged_test, reader = Ragged(), Ragged(), Last()
rounds = [[data(8, client) for client in range(16)]] * 2  # each: (inputs, targets) per client
