"""A model's tensors as named blocks, each as a matrix; rows of clients, their norms, and the way to and from a GPU."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
import torch
from torch import Tensor

from laser_fl.errors import ConfigError, quoted
from laser_fl.shapes import Float, Float64, Int64, Shaped

Tensors = dict[str, Tensor]

PART = "#"  # a block's signals are named <block>, or <block>#<part> where it has several
CHUNK = 1024  # values whose squares float32 adds up without losing more than rounding
CHUNKED = torch.float32, torch.float64  # types whose squares are added up so
SAFE_RANGE = 1e-15, 1e15  # norms whose chunks neither overflow nor vanish when float32 squares them


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


def num_values(tensors: Tensors) -> int:
    """Count the values of all tensors."""
    return sum(tensor.numel() for tensor in tensors.values())


def to_device(tensor: Tensor, device: torch.device | str) -> Tensor:
    """Return a tensor on `device`; a copy to a GPU does not wait until the GPU has done its work so far."""
    if torch.device(device).type == "cpu" or tensor.is_cuda:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def to_host(*tensors: Tensor) -> list[Tensor]:
    """Return real tensors, of any shapes, as float64 on the CPU; from a GPU in one transfer, which waits once."""
    if not any(tensor.is_cuda for tensor in tensors):
        return [tensor.double() for tensor in tensors]
    device = next(tensor.device for tensor in tensors if tensor.is_cuda)
    flat = torch.cat([to_device(tensor, device).double().flatten() for tensor in tensors]).cpu()
    parts = torch.split(flat, [tensor.numel() for tensor in tensors])
    return [part.view(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def index_of(rows: Sequence[int], device: torch.device | str) -> Int64[Tensor, " rows"]:
    """Return row numbers as an index on `device`."""
    return to_device(torch.tensor(rows, dtype=torch.int64), device)


def take(tensors: Tensors, rows: Sequence[int]) -> Tensors:
    """Return some rows of each tensor, in the order of `rows`."""
    if not tensors:
        return {}
    index = index_of(rows, next(iter(tensors.values())).device)
    return {name: tensor.index_select(0, index) for name, tensor in tensors.items()}


def pick(tensors: Tensors, rows: Sequence[int]) -> Tensors:
    """Return some rows of each tensor; the tensors themselves where these, rising, are all rows."""
    return tensors if all(len(tensor) == len(rows) for tensor in tensors.values()) else take(tensors, rows)


def put(tensors: Tensors, rows: Sequence[int], changed: Tensors) -> None:
    """Overwrite some rows of each tensor, in place, with those of `changed`, in the order of `rows`."""
    if changed:
        index = index_of(rows, next(iter(changed.values())).device)
        for name, new in changed.items():
            tensors[name].index_copy_(0, index, new)


def place(tensors: Tensors, rows: Sequence[int], changed: Tensors, count: int) -> Tensors:
    """Return tensors of `count` rows, of which `rows` are those of `changed`; the others stay as before.

    Args:
        tensors: by name (count, *shape), changed in place; a name that is missing starts at zero.
        rows: of the tensors, one for each row of `changed`.
        changed: by name (rows, *shape); returned as they are where `rows` are all.
        count: number of rows of the result.
    """
    if len(rows) == count:
        return changed
    result = {n: tensors[n] if n in tensors else new.new_zeros(count, *new.shape[1:]) for n, new in changed.items()}
    put(result, rows, changed)
    return result


def norm(tensor: Float[Tensor, "clients ..."]) -> Float64[Tensor, " clients"]:
    """Compute ‖·‖ over all axes but the first, right to about 1e-7."""
    return norms_of_each([as_rows(tensor)])[:, 0]


def norms(tensors: Tensors, clients: int) -> Float64[Tensor, "clients tensors"]:
    """Compute the norms of several tensors, or of none, side by side in their order, right to about 1e-7.

    On a CPU the squares of a chunk are added up in the tensor's own precision, and chunks in float64: one pass at full
    speed instead of a conversion of every value, which is left to norms outside of SAFE_RANGE. On a GPU float64 is
    cheap, and a look at the result is not.
    """
    if not tensors:
        return torch.zeros(clients, 0, dtype=torch.float64)
    return norms_of_each([as_rows(tensor) for tensor in tensors.values()])


def norms_of_each(rows: Sequence[Float[Tensor, "clients _"]]) -> Float64[Tensor, "clients tensors"]:
    """Compute as `norms` of tensors, at least one, that are rows of values."""
    if any(row.is_cuda or row.dtype not in CHUNKED for row in rows):
        return torch.stack([_exact_norm(row) for row in rows], dim=1)
    result = np.empty((len(rows[0]), len(rows)))
    with np.errstate(over="ignore", invalid="ignore"):  # such a norm is taken again, exactly
        for column, row in enumerate(rows):
            result[:, column] = _energies(row.detach().numpy())
    np.sqrt(result, out=result)
    least, most = SAFE_RANGE
    if not (result.min(initial=1.0) > least and result.max(initial=1.0) < most):
        for column in np.flatnonzero(~((result > least) & (result < most)).all(axis=0)).tolist():
            result[:, column] = _exact_norm(rows[column])
    return torch.from_numpy(result)


def _energies(rows: np.ndarray) -> np.ndarray:
    """Return the sum of squares of each row: in the rows' precision within a chunk, in float64 over chunks."""
    whole = rows.shape[1] // CHUNK * CHUNK
    rest = rows[:, whole:]
    energies: np.ndarray = np.vecdot(rest, rest)
    if whole:
        chunks = rows[:, :whole].reshape(len(rows), whole // CHUNK, CHUNK)
        energies = energies + np.vecdot(chunks, chunks).sum(axis=1, dtype=np.float64)
    return energies


def _exact_norm(rows: Tensor) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(rows, dim=1, dtype=torch.float64)
    return result
