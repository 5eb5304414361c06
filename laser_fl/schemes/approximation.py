"""Approximations: the part of a corrected gradient that a client's signal stands for.

Error feedback subtracts it, and the memory keeps the difference (paper, Algorithm 1). An approximation is as large as
the signals, not as the model, and works in place: for large models, writing new memory is the cost.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from laser_fl.blocks import Block
from laser_fl.shapes import Float, Int64


class Approximation(ABC):
    """An approximation of one block's corrected gradients, (clients, *shape)."""

    @abstractmethod
    def subtract_from_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Subtract the approximation from `corrected`, contiguous, in place."""

    @abstractmethod
    def add_to_(self, memory: Float[Tensor, "clients ..."]) -> None:
        """Add the approximation to `memory`, contiguous, in place: the server has not received the signal."""


@dataclass(frozen=True)
class Dense(Approximation):
    """A tensor of the block's shape."""

    values: Float[Tensor, "clients ..."]

    def subtract_from_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Subtract the tensor."""
        corrected.sub_(self.values)

    def add_to_(self, memory: Float[Tensor, "clients ..."]) -> None:
        """Add the tensor."""
        memory.add_(self.values)


@dataclass(frozen=True)
class LowRank(Approximation):
    """left · rightᵀ, in the block's matrix view."""

    block: Block
    left: Float[Tensor, "clients rows rank"]
    right: Float[Tensor, "clients columns rank"]

    def subtract_from_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Subtract one fused product per client, in the order in which the values are stored."""
        self._add_(corrected, -1)

    def add_to_(self, memory: Float[Tensor, "clients ..."]) -> None:
        """Add the product."""
        self._add_(memory, 1)

    def _add_(self, tensor: Float[Tensor, "clients ..."], times: int) -> None:
        left, right = (self.right, self.left) if self.block.transposed else (self.left, self.right)
        stored = tensor.view(len(tensor), left.shape[1], right.shape[1])
        stored.baddbmm_(left, right.mT, alpha=times)


@dataclass(frozen=True)
class SubspaceAndColumns(Approximation):
    """factor · basisᵀ, and some columns of the difference, in the matrix view that has the shorter axis first."""

    block: Block
    factor: Float[Tensor, "clients short rank"]
    basis: Float[Tensor, "clients long rank"]
    indices: Int64[Tensor, " columns"]
    columns: Float[Tensor, "clients short columns"]

    def subtract_from_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Subtract the product; the columns become zero."""
        self.product.subtract_from_(corrected)
        self._view(corrected).index_fill_(-1, self.indices, 0.0)

    def add_to_(self, memory: Float[Tensor, "clients ..."]) -> None:
        """Add product and columns."""
        self.product.add_to_(memory)
        self._view(memory).index_add_(-1, self.indices, self.columns)

    @property
    def product(self) -> LowRank:
        """Factor · basisᵀ, in the block's own matrix view."""
        sides = (self.basis, self.factor) if self.block.is_tall else (self.factor, self.basis)
        return LowRank(self.block, *sides)

    def _view(self, tensor: Float[Tensor, "clients ..."]) -> Tensor:
        return self.block.wide(self.block.to_matrix(tensor))


@dataclass(frozen=True)
class SharedIndices(Approximation):
    """The gradient's own values at some indices, the same for all clients; values of any other kind want `Dense`."""

    indices: Int64[Tensor, " values"]
    values: Float[Tensor, "clients values"]

    def subtract_from_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Set the values to zero."""
        corrected.view(len(corrected), -1).index_fill_(1, self.indices, 0.0)

    def add_to_(self, memory: Float[Tensor, "clients ..."]) -> None:
        """Add the values at their indices."""
        memory.view(len(memory), -1).index_add_(1, self.indices, self.values)


@dataclass(frozen=True)
class OwnIndices(Approximation):
    """Given values at each client's own indices, no index twice."""

    indices: Int64[Tensor, "clients values"]
    values: Float[Tensor, "clients values"]

    def subtract_from_(self, corrected: Float[Tensor, "clients ..."]) -> None:
        """Subtract the values; zero is left where they are the gradient's own."""
        corrected.view(len(corrected), -1).scatter_add_(1, self.indices, -self.values)

    def add_to_(self, memory: Float[Tensor, "clients ..."]) -> None:
        """Add the values at their indices."""
        memory.view(len(memory), -1).scatter_add_(1, self.indices, self.values)

    def scattered(self, size: int) -> Float[Tensor, "clients size"]:
        """Scatter the values into rows of `size` zeros."""
        return self.values.new_zeros(len(self.values), size).scatter_(1, self.indices, self.values)


def float_tensors(approximation: Approximation) -> list[Tensor]:
    """List the tensors that make up an approximation, but for indices."""
    return [v for v in vars(approximation).values() if isinstance(v, Tensor) and torch.is_floating_point(v)]
