"""Gradients and a loss that torch.func.vmap can batch, without the compiler and the algebra that torch would import."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.data.metrics import IGNORED

try:
    from torch._functorch import eager_transforms as _private
except ImportError:
    _private = None  # type: ignore[assignment]

PARTS = "grad_increment_nesting", "_wrap_all_tensors", "_create_differentiable", "_undo_create_differentiable"
LANES = 16  # classes below which a CPU's log_softmax along the last axis takes value by value, ten times as long
Values = tuple[Tensor, Any]  # a scalar, and what comes with it


def gradients_and_values(function: Callable[..., Values]) -> Callable[..., tuple[Tensors, Values]]:
    """Return torch.func.grad_and_value(function, has_aux=True), for functions of weights by name.

    That one imports torch's compiler in its first call, which takes as long as torch itself. Its parts are private: a
    version of torch without them gets that one.
    """
    parts: Any = _private
    if not all(hasattr(parts, name) for name in PARTS):
        return torch.func.grad_and_value(function, has_aux=True)

    def both(*args: Any) -> tuple[Tensors, Values]:
        with (
            torch.autograd.graph.disable_saved_tensors_hooks("gradients of many clients: take no saved-tensors hooks"),
            parts.grad_increment_nesting() as level,
            torch.enable_grad(),
        ):
            weights, *others = parts._wrap_all_tensors(args, level)
            parts._create_differentiable(list(weights.values()), level)
            value, beside = function(weights, *others)
            # The graph is made, as in torch.func: the gradients may be computed without grad mode otherwise.
            gradients = torch.autograd.grad(value, list(weights.values()), create_graph=True, materialize_grads=True)
            named = dict(zip(weights, gradients, strict=True))
            unwrapped: tuple[Tensors, Values] = parts._undo_create_differentiable((named, (value, beside)), level)
            return unwrapped

    return both


def batched_cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return `cross_entropy_of_all`, as torch.func.vmap computes it but for rounding.

    There, torch's own is made of these operations by code that imports sympy, for half the time of torch itself.
    """
    rows, targets, axis = outputs.flatten(end_dim=-2), targets.flatten(), -1
    if rows.shape[-1] < LANES and rows.device.type == "cpu":
        rows, axis = rows.mT.contiguous(), -2
    counts = targets != IGNORED
    losses = -rows.log_softmax(axis).gather(axis, targets.where(counts, 0).unsqueeze(axis)).squeeze(axis)
    return losses.where(counts, 0).sum() / counts.sum().to(losses)
