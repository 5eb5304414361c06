"""Gradients of a mean loss: of one client by autograd, or of many clients in one batched call."""

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.task import Task, cross_entropy_of_all
from laser_fl.data.trees import Tree, of_one_client, tensors_of, with_clients_axis
from laser_fl.federated.graphs import Graphed
from laser_fl.federated.traced import Traced
from laser_fl.federated.transforms import batched_cross_entropy, gradients_and_values
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

    def __init__(self, task: Task, network: Network, config: RunConfig, graph: bool = False) -> None:
        """Build the functions. The module's mode, training or not, is the caller's to choose.

        Args:
            task: of the run.
            network: the model.
            config: of the run.
            graph: True: a GPU repeats the gradient of one client as a CUDA graph, where that works.
        """
        self._task, self._network, self._config = task, network, config
        self._of_one = Graphed(self._gradient, self._without_graph) if graph else self._gradient
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
        some = next(tensors_of(inputs))
        with products(self._config, some.device):
            if len(some) == 1:
                own = of_one_client(weights) if own_weights else weights
                one = self._of_one(own, *map(of_one_client, (buffers, inputs, targets)))
                return Computed(*map(with_clients_axis, one))
            batched = self._of_own_weights if own_weights else self._of_shared_weights
            gradients, (losses, after) = batched(weights, buffers, inputs, targets)
            return Computed(gradients, after, losses.double())

    @property
    def has_graph(self) -> bool:
        """True where a CUDA graph repeats the gradient of one client, as far as was tried."""
        return isinstance(self._of_one, Graphed) and self._of_one.repeats

    def _gradient(
        self, weights: Tensors, buffers: Tensors, inputs: Tree, targets: Tree
    ) -> tuple[Tensors, Tensors, Tensor]:
        """Return one client's gradients, its buffers after the forward pass, and its loss."""
        leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
        loss, after = self._loss(self._task.loss, leaves, buffers, inputs, targets)
        gradients = torch.autograd.grad(loss, list(leaves.values()), materialize_grads=True)
        one = {name: gradient.contiguous() for name, gradient in zip(leaves, gradients, strict=True)}
        return one, after, loss.detach().double()

    def _without_graph(self, reason: str) -> None:
        if self._config.client_batching == "graph":
            warnings.warn(f"client-batching: clients go one by one without a CUDA graph: {reason}", stacklevel=2)

    def _batched(self, weights: int | None) -> Callable[..., Any]:
        """Build the function that computes gradients, losses and buffers of many clients.

        weights: the axis along which clients have their own weights; None where they share them.
        """
        own = self._task.loss
        loss = partial(self._loss, batched_cross_entropy if own is cross_entropy_of_all else own)
        of_all = vmap(gradients_and_values(loss), in_dims=(weights, 0, 0, 0))

        def function(*args: Tree) -> Any:
            with sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention that PyTorch can batch
                return of_all(*args)

        # A small network's arithmetic takes no longer than vmap's own Python. Own code may not be repeated without it.
        known = self._network.batches and own is cross_entropy_of_all
        return Traced(function) if known else function

    def _loss(
        self, loss: Callable[..., Tensor], weights: Tensors, buffers: Tensors, inputs: Tree, targets: Tree
    ) -> tuple[Tensor, Tensors]:
        """Return one client's mean loss, and its buffers after the forward pass."""
        cloned = {name: b.clone() for tensors in (buffers, self._network.counts) for name, b in tensors.items()}
        state = weights | cloned
        with autocast(self._config, next(tensors_of(inputs)).device):
            outputs = outputs_of(self._network.module, state, inputs)
            return loss(outputs, targets), {name: state[name] for name in buffers}


def set_kernels(config: RunConfig, device: torch.device) -> None:
    """Set the rules by which PyTorch chooses a GPU's kernels: of float32, and repeatable where asked for.

    The settings hold for the whole process, until the next run on a GPU makes its own; the device becomes the current
    one, on which graphs are captured. A CPU needs none. PyTorch refuses its older switches of TF32 from then on
    (``torch.backends.cudnn.allow_tf32``, ``cudnn.flags``).

    config: of the run. device: of the run.
    """
    if device.type != "cuda":
        return
    if device.index is not None:
        torch.cuda.set_device(device)
    _allow_tf32(False)
    # Read once, at the first product of the process; a later run may want to repeat.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(config.deterministic)
    torch.backends.cudnn.deterministic = config.deterministic
    torch.backends.cudnn.benchmark = not config.deterministic


@contextmanager
def products(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Compute products in TF32 where the config has that precision: those of the body, in the whole process.

    The rest of a run, as the strategies' projections, stays in float32.

    config: of the run. device: that computes; a CPU has no TF32.
    """
    if device.type != "cuda" or config.precision != "tf32":
        yield
        return
    _allow_tf32(True)
    try:
        yield
    finally:
        _allow_tf32(False)


def _allow_tf32(allowed: bool) -> None:
    backends: Any = torch.backends
    for operations in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        operations.fp32_precision = "tf32" if allowed else "ieee"


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """Return the config's precision for forward passes; weights and gradients stay in float32."""
    enabled = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
