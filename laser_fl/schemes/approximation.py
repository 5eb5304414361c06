"""Which part of the clients' corrected gradients their signals stand for.

It leaves the gradients, and the memory keeps the rest. It is as large as the signals, not as the model, and
leaves in place, since for large models it is the writing of new memory that costs.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from laser_fl.blocks import Block


class Kept(ABC):
    """The part of one block that some clients keep, (clients, *shape)."""

    @abstractmethod
    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Subtract the part from `corrected`, contiguous, in place."""

    @abstractmethod
    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """Add the part to what was left, contiguous, in place: what was sent was lost."""

    @abstractmethod
    def fits(self, clients: int, block: Block) -> bool:
        """Whether it is of so many clients and of `block`."""

    @property
    def floats(self) -> Iterator[Tensor]:
        """The tensors of which the part is made, without places."""
        return (value for value in vars(self).values() if isinstance(value, Tensor) and value.is_floating_point())


@dataclass(frozen=True)
class Everything(Kept):
    """All of it."""

    values: Float[Tensor, "clients ..."]

    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Nothing is left."""
        corrected.zero_()

    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """The sum."""
        rest.add_(self.values)

    def fits(self, clients: int, block: Block) -> bool:
        """A row of the block's shape per client."""
        return self.values.shape == (clients, *block.shape)


@dataclass(frozen=True)
class Whole(Kept):
    """A tensor of the block's shape."""

    values: Float[Tensor, "clients ..."]

    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """The difference is left."""
        corrected.sub_(self.values)

    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """The sum."""
        rest.add_(self.values)

    def fits(self, clients: int, block: Block) -> bool:
        """A row of the block's shape per client."""
        return self.values.shape == (clients, *block.shape)


@dataclass(frozen=True)
class Product(Kept):
    """left · rightᵀ, in the block's matrix view."""

    block: Block
    left: Float[Tensor, "clients rows rank"]
    right: Float[Tensor, "clients columns rank"]

    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """One fused product per client, in the order in which the values are stored."""
        self._add_(corrected, -1)

    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """The same, added."""
        self._add_(rest, 1)

    def _add_(self, tensor: Float[Tensor, "clients ..."], times: int) -> None:
        left, right = (self.right, self.left) if self.block.transposed else (self.left, self.right)
        stored = tensor.view(len(tensor), left.shape[1], right.shape[1])
        stored.baddbmm_(left, right.mT, alpha=times)

    def fits(self, clients: int, block: Block) -> bool:
        """A pair of factors of the block's matrix per client."""
        rows, columns = block.matrix_shape
        left, right = ((clients, length, *self.left.shape[2:]) for length in (rows, columns))
        shapes = self.left.shape, self.right.shape
        return self.left.ndim == 3 and (self.block, *shapes) == (block, left, right)


@dataclass(frozen=True)
class FactorAndColumns(Kept):
    """factor · basisᵀ, and some of the columns of the rest, in the matrix view that has the shorter axis first."""

    block: Block
    factor: Float[Tensor, "clients short rank"]
    basis: Float[Tensor, "clients long rank"]
    places: Int64[Tensor, " columns"]
    columns: Float[Tensor, "clients short columns"]

    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """The rest is left, and zero at the columns."""
        self._product.leave_(corrected)
        self._view(corrected).index_fill_(-1, self.places, 0.0)

    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """Product and columns come back."""
        self._product.restore_(rest)
        self._view(rest).index_add_(-1, self.places, self.columns)

    def fits(self, clients: int, block: Block) -> bool:
        """Factors of the block's matrix, and a row of columns within it, per client."""
        short, long = sorted(block.matrix_shape)
        shaped = self.places.ndim == 1 and self.columns.shape == (clients, short, len(self.places))
        once = shaped and _within(self.places, long) and len(set(self.places.tolist())) == len(self.places)
        return once and self.factor.ndim == 3 and self._product.fits(clients, block)

    @property
    def _product(self) -> Product:
        sides = (self.basis, self.factor) if self.block.is_tall else (self.factor, self.basis)
        return Product(self.block, *sides)

    def _view(self, tensor: Float[Tensor, "clients ..."]) -> Tensor:
        return self.block.wide(self.block.to_matrix(tensor))


@dataclass(frozen=True)
class Picked(Kept):
    """The values at some places, the same for all clients."""

    places: Int64[Tensor, " values"]
    values: Float[Tensor, "clients values"]

    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Zero is left there."""
        corrected.view(len(corrected), -1).index_fill_(1, self.places, 0.0)

    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """The values come back to their places."""
        rest.view(len(rest), -1).index_add_(1, self.places, self.values)

    def fits(self, clients: int, block: Block) -> bool:
        """Places within the block, and a row of values per client."""
        return self.values.shape == (clients, *self.places.shape) and _within(self.places, block.size)


@dataclass(frozen=True)
class Sparse(Kept):
    """Given values at each client's own places, no place twice."""

    places: Int64[Tensor, "clients values"]
    values: Float[Tensor, "clients values"]

    def leave_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Zero is left where the value is the gradient's own."""
        corrected.view(len(corrected), -1).scatter_add_(1, self.places, -self.values)

    def restore_(self, rest: Float[Tensor, "clients ..."]) -> None:
        """The values come back to their places."""
        rest.view(len(rest), -1).scatter_add_(1, self.places, self.values)

    def scattered(self, size: int) -> Float[Tensor, "clients size"]:
        """The values at their places in rows of `size` values, zero elsewhere."""
        return self.values.new_zeros(len(self.values), size).scatter_(1, self.places, self.values)

    def fits(self, clients: int, block: Block) -> bool:
        """Places within the block and values, a row of each per client."""
        shaped = self.places.ndim == 2 and len(self.places) == clients
        return shaped and self.values.shape == self.places.shape and _within(self.places, block.size)


def _within(places: Tensor, size: int) -> bool:
    """Whether places are numbers below `size`."""
    return places.dtype == torch.int64 and bool(((places >= 0) & (places < size)).all())
