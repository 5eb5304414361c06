"""Selection of a block's values: their number, and their places."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from laser_fl.blocks import Block
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Float, Int64

LONG = 1 << 16  # values from which a row is searched by itself
STRIDE = 64  # one value in so many makes the sample
MARGIN = 8  # standard deviations, more or less, by which the sample's guess is on the safe side


def sample_size(factor: float, block: Block) -> int:
    """Return the number of a block's values that a factor leaves: max(1, ⌊factor · d⌋).

    Source: paper, Algorithms 2 and 3.
    """
    return max(1, floor(factor * block.size))


def floor(value: float) -> int:
    """Return ⌊value⌋ of a product that floating point may have put just below a whole number."""
    return math.floor(value * (1 + 1e-12))


@lru_cache(maxsize=1)  # both sides draw the same, and in one process several clients do
def draw_indices(
    streams: RandomStreams, purpose: str, round: int, sizes: tuple[tuple[int, int], ...]
) -> list[Int64[Tensor, " places"]]:
    """Draw places in every block, none twice.

    Args:
        streams: the run's randomness.
        purpose: of the draw; with the round it decides the places.
        round: counted from 0.
        sizes: for every block (number of places, number of places to draw).

    Returns:
        The drawn places per block, (places,), in the order of the draw.
    """
    generators = (streams.generator(purpose, round, index) for index in range(len(sizes)))
    return [torch.randperm(n, generator=g)[:k].clone() for (n, k), g in zip(sizes, generators, strict=True)]


def topk_indices(rows: Float[Tensor, "rows values"], count: int, in_order: bool = False) -> Int64[Tensor, "rows count"]:
    """Find each row's `count` largest values.

    Args:
        rows: (rows, values).
        count: at most the number of values.
        in_order: True for the largest first.

    Returns:
        Their places, (rows, count).
    """
    if rows.shape[1] < LONG:
        return rows.topk(count, dim=1, sorted=in_order).indices
    return torch.stack([_of_long(row, count, in_order) for row in rows])


def _of_long(row: Float[Tensor, " values"], count: int, in_order: bool) -> Int64[Tensor, " count"]:
    """Search a long row among its values above a bound only, which a sample shows to be low enough.

    The result is exact: where the bound is too high after all, the whole row is searched.
    """
    sample = row[::STRIDE]
    expected = count / STRIDE
    rank = math.ceil(expected + MARGIN * (math.sqrt(expected) + 1))
    if rank < len(sample):
        candidates = (row >= sample.topk(rank, sorted=False).values.amin()).nonzero().squeeze(1)
        if len(candidates) >= count:
            return candidates[row[candidates].topk(count, sorted=in_order).indices]
    return row.topk(count, sorted=in_order).indices
