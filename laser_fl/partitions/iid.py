"""A random deal."""

from collections.abc import Sequence

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.streams import Streams


def iid(labels: Tensor, config: RunConfig) -> Sequence[Tensor]:
    """Equally many examples to each client, but for one."""
    dealt = torch.randperm(len(labels), generator=Streams(config.seed).generator("shards"))
    return dealt.tensor_split(config.clients)
