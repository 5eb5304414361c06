"""How many of a block's values are sent, and which."""

import math
from functools import lru_cache

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from laser_fl.blocks import Block
from laser_fl.rng import Streams


def sample_size(factor: float, block: Block) -> int:
    """How many of a block's values a factor leaves: max(1, ⌊factor · d⌋). Source: paper, Algorithms 2 and 3."""
    return max(1, floor(factor * block.size))


def floor(value: float) -> int:
    """⌊value⌋ of a product that floating point may have put just below a whole number."""
    return math.floor(value * (1 + 1e-12))


@lru_cache(maxsize=1)  # both sides draw the same, and in one process several clients do
def draw(
    streams: Streams, purpose: str, round: int, sizes: tuple[tuple[int, int], ...]
) -> list[Int64[Tensor, " places"]]:
    """Of every block, given as (places there are, places wanted), those drawn, none twice."""
    generators = (streams.generator(purpose, round, index) for index in range(len(sizes)))
    return [torch.randperm(n, generator=g)[:k].clone() for (n, k), g in zip(sizes, generators, strict=True)]


LONG = 1 << 16  # values from which a row is searched by itself
STRIDE = 64  # one value in so many makes the sample
MARGIN = 8  # standard deviations, more or less, by which the sample's guess is on the safe side


def largest(rows: Float[Tensor, "rows values"], count: int, in_order: bool = False) -> Int64[Tensor, "rows count"]:
    """The places of each row's `count` largest values; in_order: the largest first."""
    if rows.shape[1] < LONG:
        return rows.topk(count, dim=1, sorted=in_order).indices
    return torch.stack([_of_long(row, count, in_order) for row in rows])


def _of_long(row: Float[Tensor, " values"], count: int, in_order: bool) -> Int64[Tensor, " count"]:
    """Search among those above a bound only, which a sample shows to be low enough.

    Exact: where the bound is too high after all, the whole row is searched.
    """
    sample = row[::STRIDE]
    expected = count / STRIDE
    rank = math.ceil(expected + MARGIN * (math.sqrt(expected) + 1))
    if rank < len(sample):
        candidates = (row >= sample.topk(rank, sorted=False).values.amin()).nonzero().squeeze(1)
        if len(candidates) >= count:
            return candidates[row[candidates].topk(count, sorted=in_order).indices]
    return row.topk(count, sorted=in_order).indices
