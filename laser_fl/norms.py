"""Euclidean norms, per client, that neither many nor large values put in error."""

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows
from laser_fl.shapes import Float, Float64

SHORT = 1 << 14  # values up to which a conversion of all costs less than anything cleverer
AT_ONCE = 32  # short rows that are converted at a time
CHUNK = 1024  # values whose squares float32 adds up without losing more than rounding
SAFE_RANGE = 1e-15, 1e15  # norms whose chunks neither overflow nor vanish when float32 squares them


def norm(tensor: Float[Tensor, "clients ..."]) -> Float64[Tensor, " clients"]:
    """Compute ‖·‖ over all axes but the first, right to about 1e-7.

    Chunks are added up in the tensor's own precision and then in float64: one pass at full speed instead of a
    conversion of every value, which is left to norms outside of SAFE_RANGE. Short rows are converted, some at a time
    where there are many clients.
    """
    rows = as_rows(tensor)
    is_short = rows.shape[1] <= SHORT
    if rows.is_cuda or (is_short and len(rows) <= AT_ONCE):  # on GPUs float64 is cheap, a look at the result is not
        return _norm(rows, 1, torch.float64)
    if is_short:
        return torch.cat([norm(some) for some in torch.split(rows, AT_ONCE)])
    whole = rows.shape[1] // CHUNK * CHUNK
    chunks = _norm(rows[:, :whole].reshape(len(rows), whole // CHUNK, CHUNK), 2, rows.dtype)
    rest = _norm(rows[:, whole:], 1, rows.dtype).unsqueeze(1)
    result = _norm(torch.cat((chunks, rest), dim=1), 1, torch.float64)
    least, most = SAFE_RANGE
    if ((result > least) & (result < most)).all():
        return result
    return _norm(rows, 1, torch.float64)


def _norm(values: Tensor, dim: int, dtype: torch.dtype) -> Tensor:
    result: Tensor = torch.linalg.vector_norm(values, dim=dim, dtype=dtype)
    return result


def norms(tensors: Tensors, clients: int) -> Float64[Tensor, "clients tensors"]:
    """Compute the norms of several tensors, or of none, side by side in their order."""
    if not tensors:
        return torch.zeros(clients, 0, dtype=torch.float64)
    return torch.stack([norm(t) for t in tensors.values()], dim=1)
