"""The largest values of long rows."""

import math

import torch
from jaxtyping import Float, Int64
from torch import Tensor

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
