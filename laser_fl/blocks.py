"""A model's tensors as named blocks, and each block as a matrix."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import prod

from torch import Tensor

from laser_fl.errors import ConfigError, quoted
from laser_fl.shapes import Float, Shaped

Tensors = dict[str, Tensor]

PART = "#"  # a block's signals are named <block>, or <block>#<part> where it has several


@dataclass(frozen=True)
class Block:
    """One tensor of the model and its matrix view.

    A tensor of shape (a, b, ...) is the matrix a x (b * ...); a vector is a single row, and a scalar a single value.
    Source: paper, Tables 5 and 8.

    name: the parameter's name in the model.
    shape: the parameter's shape, without the clients axis.
    transposed: the model stores the weight as (inputs, outputs), as transformers' Conv1D does.
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @cached_property
    def size(self) -> int:
        """Number of values."""
        return prod(self.shape)

    @cached_property
    def is_vector(self) -> bool:
        """True for biases and other tensors with fewer than two axes."""
        return len(self.shape) < 2

    @cached_property
    def matrix_shape(self) -> tuple[int, int]:
        """(rows, columns) of the matrix view."""
        if self.is_vector:
            return 1, self.size
        rows, columns = self.shape[0], prod(self.shape[1:])
        return (columns, rows) if self.transposed else (rows, columns)

    @cached_property
    def is_tall(self) -> bool:
        """True where the matrix view has more rows than columns."""
        rows, columns = self.matrix_shape
        return rows > columns

    def wide(self, matrix: Float[Tensor, "... rows columns"]) -> Float[Tensor, "..."]:
        """Turn a tall block's matrix, so that the first axis is the shorter one, and back."""
        return matrix.mT if self.is_tall else matrix

    def to_matrix(self, tensor: Float[Tensor, "..."]) -> Float[Tensor, "... rows columns"]:
        """View (leading axes, *shape) as (leading axes, rows, columns)."""
        leading = tensor.shape[: tensor.ndim - len(self.shape)]
        if self.transposed:
            return tensor.reshape(*leading, *reversed(self.matrix_shape)).mT
        return tensor.reshape(*leading, *self.matrix_shape)

    def from_matrix(self, matrix: Float[Tensor, "... rows columns"]) -> Float[Tensor, "..."]:
        """Undo `to_matrix`."""
        leading = matrix.shape[:-2]
        return (matrix.mT if self.transposed else matrix).reshape((*leading, *self.shape))


def blocks_of(parameters: Mapping[str, Tensor], transposed: Collection[str] = ()) -> tuple[Block, ...]:
    """Make the blocks of a model, in the order of its parameters.

    transposed: names of the parameters that are stored as (inputs, outputs).

    Raises:
        ConfigError: they are not floats of one type, or one has no values, or a name that could not identify signals.
    """
    for name, p in parameters.items():
        if not name or PART in name:
            raise ConfigError(f"model: a weight must have a name without {PART}, got {quoted(name)}")
        if p.numel() == 0:
            raise ConfigError(f"model: the weight {quoted(name)} must have values, got the shape {list(p.shape)}")
    types = {p.dtype for p in parameters.values()}
    if len(types) > 1 or not all(dtype.is_floating_point for dtype in types):
        raise ConfigError(f"model: its weights must be floats of one type, got {', '.join(sorted(map(str, types)))}")
    return tuple(Block(name, tuple(p.shape), name in transposed) for name, p in parameters.items())


def as_rows(tensor: Shaped[Tensor, "clients ..."]) -> Shaped[Tensor, "clients values"]:
    """View a tensor as a row of values per client, also of scalars."""
    return tensor.unsqueeze(1) if tensor.ndim == 1 else tensor.flatten(start_dim=1)
