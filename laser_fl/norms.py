"""Euclidean norms, per client, in float64 so that neither large nor many values overflow."""

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from laser_fl.blocks import Tensors


def norm(tensor: Float[Tensor, "clients ..."]) -> Float64[Tensor, " clients"]:
    """‖·‖ over all axes but the first."""
    result: Tensor = torch.linalg.vector_norm(tensor.flatten(start_dim=1), dim=1, dtype=torch.float64)
    return result


def norms(tensors: Tensors, clients: int) -> Float64[Tensor, "clients tensors"]:
    """The norms of several tensors, or of none, side by side in their order."""
    if not tensors:
        return torch.zeros(clients, 0, dtype=torch.float64)
    return torch.stack([norm(t) for t in tensors.values()], dim=1)
