"""Selection of a block's values: their number, and their places, also on a GPU."""

import math
from functools import lru_cache

import torch
from torch import Tensor

from laser_fl.blocks import Block, to_device
from laser_fl.rng import RandomStreams
from laser_fl.shapes import Float, Int64, Shaped

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
    device = streams.shared
    generators = (streams.generator(purpose, round, index, device=device) for index in range(len(sizes)))
    drawn = zip(sizes, generators, strict=True)
    return [torch.randperm(n, generator=g, device=device)[:k].clone() for (n, k), g in drawn]


@lru_cache(maxsize=1)
def indices_on(
    device: torch.device, streams: RandomStreams, purpose: str, round: int, sizes: tuple[tuple[int, int], ...]
) -> list[Int64[Tensor, " places"]]:
    """Return the places of `draw_indices` on `device`."""
    return moved(draw_indices(streams, purpose, round, sizes), device)


def moved(vectors: list[Shaped[Tensor, " _"]], device: torch.device) -> list[Shaped[Tensor, " _"]]:
    """Return vectors of one type on `device`, in one transfer."""
    if all(vector.device == device for vector in vectors):
        return vectors
    together = to_device(torch.cat(vectors), device)
    return list(torch.split(together, [len(vector) for vector in vectors]))


def topk_indices(rows: Float[Tensor, "rows values"], count: int) -> Int64[Tensor, "rows count"]:
    """Find each row's `count` largest values; a GPU searches all rows at once, however long.

    Args:
        rows: (rows, values).
        count: at most the number of values.

    Returns:
        Their places, (rows, count).
    """
    if rows.shape[1] < LONG or rows.is_cuda:
        return rows.topk(count, dim=1, sorted=False).indices
    return torch.stack([_of_long(row, count) for row in rows])


def _of_long(row: Float[Tensor, " values"], count: int) -> Int64[Tensor, " count"]:
    """Search a long row among its values above a bound only, which a sample shows to be low enough.

    The result is exact: where the bound is too high after all, the whole row is searched.
    """
    sample = row[::STRIDE]
    expected = count / STRIDE
    rank = math.ceil(expected + MARGIN * (math.sqrt(expected) + 1))
    if rank < len(sample):
        candidates = (row >= sample.topk(rank, sorted=False).values.amin()).nonzero().squeeze(1)
        if len(candidates) >= count:
            return candidates[row[candidates].topk(count, sorted=False).indices]
    return row.topk(count, sorted=False).indices
