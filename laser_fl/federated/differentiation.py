"""Gradients of a mean loss: of one client by autograd, or of many clients in one batched call."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.task import Task, cross_entropy_of_all
from laser_fl.data.trees import Tree, of_one_client, tensors_of, with_clients_axis
from laser_fl.federated.traced import Traced
from laser_fl.models.base import Network, outputs_of
from laser_fl.shapes import Float


@dataclass(frozen=True)
class Computed:
    """The clients' results of a round or a part of it.

    gradients: per block, of the mean loss, summed over local steps, (clients, *shape).
    buffers: of the model after the forward passes, (clients, *shape).
    losses: mean training losses.
    """

    gradients: Tensors
    buffers: Tensors
    losses: Float[Tensor, " clients"]


class Differentiation:
    """The function from weights, buffers and a batch of each client to their gradients."""

    def __init__(self, task: Task, network: Network, config: RunConfig) -> None:
        """Build the batched functions. The module's mode, training or not, is the caller's to choose."""
        self._task, self._network, self._config = task, network, config
        self._of_shared_weights, self._of_own_weights = self._batched(None), self._batched(0)

    def __call__(self, weights: Tensors, own_weights: bool, buffers: Tensors, inputs: Tree, targets: Tree) -> Computed:
        """Compute the gradients, losses and next buffers of clients; a weight without effect has a gradient of zero.

        Args:
            weights: by name; (clients, *shape) where clients have their own.
            own_weights: True where they have.
            buffers: (clients, *shape).
            inputs: (clients, batch, ...), as the model reads them.
            targets: (clients, batch, ...).
        """
        clients = len(next(tensors_of(inputs)))
        if clients == 1:
            own = of_one_client(weights) if own_weights else weights
            return self._one(own, *map(of_one_client, (buffers, inputs, targets)))
        batched = self._of_own_weights if own_weights else self._of_shared_weights
        with sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention that PyTorch can batch
            gradients, (losses, after) = batched(weights, buffers, inputs, targets)
        return Computed(gradients, after, losses.double())

    def _one(self, weights: Tensors, buffers: Tensors, inputs: Tree, targets: Tree) -> Computed:
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        loss, after = self._loss(leaves, buffers, inputs, targets)
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        one = dict(zip(leaves, gradients, strict=True))
        return Computed(with_clients_axis(one), with_clients_axis(after), loss.detach().double().unsqueeze(0))

    def _batched(self, weights: int | None) -> Callable[..., Any]:
        """Build the function that computes gradients, losses and buffers of many clients.

        weights: the axis along which clients have their own weights; None where they share them.
        """
        function = vmap(grad_and_value(self._loss, has_aux=True), in_dims=(weights, 0, 0, 0))
        # A small network's arithmetic takes no longer than vmap's own Python. Own code may not be repeated without it.
        known = self._network.batches and self._task.loss is cross_entropy_of_all
        return Traced(function) if known else function

    def _loss(self, weights: Tensors, buffers: Tensors, inputs: Tree, targets: Tree) -> tuple[Tensor, Tensors]:
        """Return one client's mean loss, and its buffers after the forward pass."""
        cloned = {name: b.clone() for tensors in (buffers, self._network.counts) for name, b in tensors.items()}
        state = weights | cloned
        with autocast(self._config, next(tensors_of(inputs)).device):
            outputs = outputs_of(self._network.module, state, inputs)
            return self._task.loss(outputs, targets), {name: state[name] for name in buffers}


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """Return the config's precision for forward passes; weights and gradients stay in float32."""
    enabled = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
