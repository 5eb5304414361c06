"""Local gradients: what a client, or many clients in one batched call, computes.

With τ ``local-steps`` a client descends on a model of its own, from the broadcast w_0 and at step size η, and
sends the sum of the gradients that it met:

    g = Σ_{s<τ} g_s,    g_s taken at w_s = w_0 - η Σ_{j<s} g_j,

so that plain SGD at the server, at the same η, makes the mean of the clients' models; τ = 1 is the paper's.
Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", 2017,
Algorithm 1 (FedAvg); Stich, "Local SGD converges fast and communicates little", 2019. Deviation: τ counts
steps, not epochs; clients weigh the same; what is averaged is g, which is compressed and sent through the air.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.task import Task, autocast
from laser_fl.errors import TrainingError
from laser_fl.federated.traced import Traced
from laser_fl.models.base import Network
from laser_fl.pipeline import Broadcast, Uplink, join, send
from laser_fl.schemes.base import Context

EXAMPLES_AT_ONCE = 2048  # of all clients that vmap computes in one call: enough to be fast, and few enough to be small


@dataclass(frozen=True)
class Computed:
    """What clients compute in a round or a part of it.

    gradients: per block, of the mean loss, summed over local steps, (clients, *shape). buffers: (clients,
        *shape) likewise.
    """

    gradients: Tensors
    buffers: Tensors
    losses: Float[Tensor, " clients"]


class Worker:
    """Computes the gradients of clients, each on its own shard of the data."""

    def __init__(self, task: Task, network: Network, config: RunConfig, clients: range) -> None:
        """task: data, on the device where gradients are computed. clients: numbers in the run."""
        self._task = task
        self._network = network
        self._config = config
        self._order = task.train.order(config, clients)
        self._fetched: Tensor | None = None  # the last inputs, whose memory the next ones take
        self._of_shared_weights, self._of_own_weights = self._batched(None), self._batched(0)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> Uplink:
        """Compute the round's gradients and send them; the memory becomes the next one in place."""
        if broadcast.context.phase > 0:
            losses = torch.zeros(len(broadcast.context.present), dtype=torch.float64)
            return send(broadcast, None, losses, memory, in_place=True)[0]
        computed = self.compute(broadcast)
        return send(broadcast, computed.gradients, computed.losses, memory, computed.buffers, in_place=True)[0]

    def compute(self, broadcast: Broadcast) -> Computed:
        """Each present client's gradient of the round, the sum of its local steps' means, and its mean loss.

        Buffers go from one micro-step to the next, from those that were broadcast. The last local step may
        have fewer examples than the others.
        """
        ctx = broadcast.context
        clients = len(ctx.present)
        batch = self._order.batch(ctx.round, ctx.present)
        parts = torch.split(batch, self._config.batch_size, dim=1)
        accumulated, here = self._config.accumulation_steps, broadcast
        buffers = {name: b.expand(clients, *b.shape).clone() for name, b in broadcast.buffers.items()}
        total: Tensors = {}
        losses = torch.zeros(clients, dtype=torch.float64)
        self._network.module.train()
        for step, part in enumerate(parts):
            if step % accumulated == 0:
                examples = sum(micro.shape[1] for micro in parts[step : step + accumulated])
                here = self._moved(broadcast, total) if step else broadcast
            inputs, targets = self._examples(part, ctx, step)
            with self._drawing(ctx, step):
                one = self._differentiate(here, buffers, inputs, targets)
            weight = part.shape[1] / examples
            if step == 0:
                total = one.gradients if len(parts) == 1 else {n: weight * g for n, g in one.gradients.items()}
            else:
                torch._foreach_add_(list(total.values()), list(one.gradients.values()), alpha=weight)
            losses += part.shape[1] / batch.shape[1] * one.losses.cpu()
            buffers = one.buffers
        return Computed({name: gradient.contiguous() for name, gradient in total.items()}, buffers, losses)

    def _moved(self, broadcast: Broadcast, total: Tensors) -> Broadcast:
        """The same with each client's own weights after local steps whose gradients sum up to `total`."""
        rate = self._config.local_learning_rate or self._config.learning_rate
        weights = {name: torch.sub(w, total[name], alpha=rate) for name, w in broadcast.weights.items()}
        return replace(broadcast, weights=weights, own_weights=True)

    def _examples(self, rows: Tensor, ctx: Context, step: int) -> tuple[Tensor, Tensor]:
        """The examples at `rows`, augmented where the task says so, on the device of the model."""
        data = self._task.train
        inputs, targets = data.at(rows.to(data.device), self._fetched)
        self._fetched = inputs if len(rows) > 1 else None  # of single clients there may be many workers
        inputs, targets = inputs.to(self._device), targets.to(self._device)
        if self._task.augment is not None:
            generators = [ctx.streams.generator("augment", ctx.round, client, step) for client in ctx.present]
            inputs = self._task.augment(inputs, generators)
        return self._task.prepare(inputs) if self._task.prepare else inputs, targets

    def _differentiate(self, broadcast: Broadcast, buffers: Tensors, inputs: Tensor, targets: Tensor) -> Computed:
        """One micro-step: one client by plain autograd, many in one call."""
        if len(inputs) == 1:
            weights = {n: w[0] for n, w in broadcast.weights.items()} if broadcast.own_weights else broadcast.weights
            leaves = {name: w.detach().requires_grad_() for name, w in weights.items()}
            loss, after = self._loss(leaves, {name: b[0] for name, b in buffers.items()}, inputs[0], targets[0])
            gradients = torch.autograd.grad(loss, list(leaves.values()))
            one = dict(zip(leaves, gradients, strict=True))
            return Computed(_as_row(one), _as_row(after), loss.detach().double().unsqueeze(0))
        batched = self._of_own_weights if broadcast.own_weights else self._of_shared_weights
        with sdpa_kernel(SDPBackend.MATH):  # the only kernel of attention that PyTorch can batch
            gradients, (losses, after) = batched(broadcast.weights, buffers, inputs, targets)
        return Computed(gradients, after, losses.double())

    def _batched(self, weights: int | None) -> Callable[..., Any]:
        """Gradients, losses and buffers of many clients; weights: the axis along which they have their own."""
        function = vmap(grad_and_value(self._loss, has_aux=True), in_dims=(weights, 0, 0, 0))
        # A small network's arithmetic takes no longer than vmap's own Python.
        return Traced(function) if self._network.batches else function

    def _loss(self, weights: Tensors, buffers: Tensors, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensors]:
        """(one client's mean loss, its buffers after the forward pass)."""
        after = {name: b.clone() for name, b in buffers.items()}
        with autocast(self._config, inputs.device):
            outputs = functional_call(self._network.module, weights | after, (inputs,))
            return self._task.loss(outputs, targets), after

    @contextmanager
    def _drawing(self, ctx: Context, step: int) -> Iterator[None]:
        """Seed what the model draws by itself (dropout), for the one client that computes."""
        if not self._network.draws:
            yield
            return
        (client,) = ctx.present
        with ctx.streams.torch_global("dropout", ctx.round, client, step, device=self._device):
            yield

    @property
    def _device(self) -> torch.device:
        return next(self._network.module.parameters()).device


def _as_row(tensors: Tensors) -> Tensors:
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}


class Crew:
    """A range of clients that one worker computes, group by group. What they hold between rounds is kept by the caller.

    With ``client-batching = vmap`` a group is many clients in one call; with ``loop`` it is one
    client, so that its bits do not depend on its company; ``auto`` takes what is faster for the network.
    """

    def __init__(self, task: Task, network: Network, config: RunConfig, clients: range) -> None:
        self._model = _shapes(network.weights), _shapes(network.buffers)
        self._group = max(1, EXAMPLES_AT_ONCE // config.batch_size) if _batches(config, network) else 1
        self._worker = Worker(task, network, config, clients)

    def compute(self, broadcast: Broadcast) -> Iterator[Computed]:
        """The gradients alone, one group after the other."""
        for part in self._parts(broadcast):
            yield self._worker.compute(part)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[Uplink, Tensors]:
        """The uplink and next memory of the clients present, each tensor with the clients axis in order.

        The memory is changed in place, group by group, so that no more than one group's gradients
        are there at once.

        Raises:
            TrainingError: the broadcast is of another model than the crew's.
        """
        self._refuse_others(broadcast)
        parts = self._parts(broadcast)
        if not memory and broadcast.scheme.promises.error_feedback:
            clients = len(broadcast.context.present)
            like = {name: w[0] for name, w in broadcast.weights.items()} if broadcast.own_weights else broadcast.weights
            memory = {name: w.new_zeros(clients, *w.shape) for name, w in like.items()}
        sizes = [len(part.context.present) for part in parts]
        models = _split(broadcast.weights, sizes) if broadcast.own_weights else [broadcast.weights] * len(parts)
        uplinks = [
            self._worker.answer(replace(part, weights=model), remembered)
            for part, model, remembered in zip(parts, models, _split(memory, sizes), strict=True)
        ]
        return join(uplinks), memory

    def _refuse_others(self, broadcast: Broadcast) -> None:
        """Raise TrainingError where a broadcast is of another model."""
        ctx, (weights, buffers) = broadcast.context, self._model
        told = {block.name: block.shape for block in ctx.blocks}
        if told != weights or (ctx.phase == 0 and _shapes(broadcast.buffers) != buffers):
            raise TrainingError(f"round {ctx.round + 1}: the broadcast is of another model than this node's")

    def _parts(self, broadcast: Broadcast) -> list[Broadcast]:
        """What each group of those present sees of the broadcast."""
        present, size = broadcast.context.present, self._group
        groups = (present[start : start + size] for start in range(0, len(present), size))
        return [broadcast.of(range(group[0], group[-1] + 1)) for group in groups]


def _batches(config: RunConfig, network: Network) -> bool:
    """Whether clients are computed in one call."""
    if config.client_batching == "auto":
        return network.batches and not network.draws and config.precision == "float32"
    return config.client_batching == "vmap"


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _split(tensors: Tensors, sizes: list[int]) -> list[Tensors]:
    parts = {name: torch.split(tensor, sizes) for name, tensor in tensors.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]
