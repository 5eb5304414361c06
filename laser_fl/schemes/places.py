"""Random places, the same for all clients, new each round."""

from functools import lru_cache

import torch
from jaxtyping import Int64
from torch import Tensor

from laser_fl.streams import Streams


@lru_cache(maxsize=1)  # both sides draw the same, and in one process several clients do
def draw(
    streams: Streams, purpose: str, round: int, sizes: tuple[tuple[int, int], ...]
) -> list[Int64[Tensor, " places"]]:
    """Of every block, given as (places there are, places wanted), those drawn, none twice."""
    generators = (streams.generator(purpose, round, index) for index in range(len(sizes)))
    return [torch.randperm(n, generator=g)[:k].clone() for (n, k), g in zip(sizes, generators, strict=True)]
