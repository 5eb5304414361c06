"""Checks of approximations that a stranger sent: they must belong to a block and to so many clients."""

from functools import singledispatch

import torch
from torch import Tensor

from laser_fl.blocks import Block
from laser_fl.schemes.approximation import Approximation, Dense, LowRank, OwnIndices, SharedIndices, SubspaceAndColumns


@singledispatch
def fits(approximation: Approximation, clients: int, block: Block) -> bool:
    """Return True where an approximation has a row per client, and its tensors have the shapes that `block` gives.

    An approximation of an unknown kind belongs to no block.

    Args:
        approximation: of any kind in `laser_fl.schemes.approximation`.
        clients: number of rows that it must have.
        block: of the model.
    """
    return False


@fits.register
def _(dense: Dense, clients: int, block: Block) -> bool:
    return dense.values.shape == (clients, *block.shape)


@fits.register
def _(product: LowRank, clients: int, block: Block) -> bool:
    rows, columns = block.matrix_shape
    left, right = ((clients, length, *product.left.shape[2:]) for length in (rows, columns))
    shapes = product.left.shape, product.right.shape
    return product.left.ndim == 3 and (product.block, *shapes) == (block, left, right)


@fits.register
def _(both: SubspaceAndColumns, clients: int, block: Block) -> bool:
    short, long = sorted(block.matrix_shape)
    shaped = both.indices.ndim == 1 and both.columns.shape == (clients, short, len(both.indices))
    once = shaped and _within(both.indices, long) and len(set(both.indices.tolist())) == len(both.indices)
    return once and both.factor.ndim == 3 and fits(both.product, clients, block)


@fits.register
def _(shared: SharedIndices, clients: int, block: Block) -> bool:
    return shared.values.shape == (clients, *shared.indices.shape) and _within(shared.indices, block.size)


@fits.register
def _(own: OwnIndices, clients: int, block: Block) -> bool:
    shaped = own.indices.ndim == 2 and len(own.indices) == clients
    return shaped and own.values.shape == own.indices.shape and _within(own.indices, block.size)


def _within(indices: Tensor, size: int) -> bool:
    return indices.dtype == torch.int64 and bool(((indices >= 0) & (indices < size)).all())
