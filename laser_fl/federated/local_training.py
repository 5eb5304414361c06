"""Local gradients, of one client or of many clients in one batched call.

With τ ``local-steps`` a client descends on a model of its own, from the broadcast w_0 and at step size η, and
sends the sum of its gradients:

    g = Σ_{s<τ} g_s,    g_s taken at w_s = w_0 - η Σ_{j<s} g_j,

so that plain SGD at the server, at the same η, makes the mean of the clients' models; τ = 1 is the paper's.
Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", 2017,
Algorithm 1 (FedAvg); Stich, "Local SGD converges fast and communicates little", 2019. Deviation: τ counts
steps, not epochs; clients weigh the same; the average is of g, which is compressed and sent through the air.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.task import Task, autocast
from laser_fl.errors import TrainingError
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.traced import Traced
from laser_fl.models.base import Network
from laser_fl.pipeline import ClientUpdate, encode_update, join
from laser_fl.schemes.base import RoundContext
from laser_fl.shapes import Float

EXAMPLES_AT_ONCE = 2048  # by all clients in one call of vmap: enough to be fast, and few enough for the memory


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


class GroupTrainer:
    """A trainer that computes the gradients of clients, each on its own shard of the data."""

    def __init__(self, task: Task, network: Network, config: RunConfig, clients: range) -> None:
        """Prepare the data and the batched functions.

        Args:
            task: data, on the device that computes the gradients.
            network: the model.
            config: of the run.
            clients: their numbers in the run.
        """
        self._task = task
        self._network = network
        self._config = config
        self._sampler = task.train.sampler(config, clients)
        self._fetched: Tensor | None = None  # the last inputs; the next ones reuse their memory
        self._of_shared_weights, self._of_own_weights = self._batched(None), self._batched(0)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> ClientUpdate:
        """Compute the round's gradients and encode them; the memory becomes the next one in place."""
        if broadcast.context.phase > 0:
            losses = torch.zeros(len(broadcast.context.participants), dtype=torch.float64)
            return encode_update(broadcast, None, losses, memory, in_place=True)[0]
        computed = self.compute(broadcast)
        return encode_update(broadcast, computed.gradients, computed.losses, memory, computed.buffers, in_place=True)[0]

    def compute(self, broadcast: Broadcast) -> Computed:
        """Compute each participant's gradient of the round, the sum of its local steps' means, and its mean loss.

        Buffers go from one micro-step to the next, starting with those of the broadcast. The last local step may have
        fewer examples than the others.
        """
        ctx = broadcast.context
        clients = len(ctx.participants)
        batch = self._sampler.batch(ctx.round, ctx.participants)
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
        """Return the broadcast with each client's own weights after local steps whose gradients sum up to `total`."""
        rate = self._config.local_learning_rate or self._config.learning_rate
        weights = {name: torch.sub(w, total[name], alpha=rate) for name, w in broadcast.weights.items()}
        return replace(broadcast, weights=weights, own_weights=True)

    def _examples(self, rows: Tensor, ctx: RoundContext, step: int) -> tuple[Tensor, Tensor]:
        """Return the examples at `rows`, augmented where the task asks for it, on the device of the model."""
        data = self._task.train
        inputs, targets = data.at(rows.to(data.device), self._fetched)
        self._fetched = inputs if len(rows) > 1 else None  # there may be many trainers of single clients
        inputs, targets = inputs.to(self._device), targets.to(self._device)
        if self._task.augment is not None:
            generators = [ctx.streams.generator("augment", ctx.round, client, step) for client in ctx.participants]
            inputs = self._task.augment(inputs, generators)
        return self._task.prepare(inputs) if self._task.prepare else inputs, targets

    def _differentiate(self, broadcast: Broadcast, buffers: Tensors, inputs: Tensor, targets: Tensor) -> Computed:
        """Do one micro-step: one client by plain autograd, many in one call."""
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
        """Build the function that computes gradients, losses and buffers of many clients.

        weights: the axis along which clients have their own weights; None where they share them.
        """
        function = vmap(grad_and_value(self._loss, has_aux=True), in_dims=(weights, 0, 0, 0))
        # A small network's arithmetic takes no longer than vmap's own Python.
        return Traced(function) if self._network.batches else function

    def _loss(self, weights: Tensors, buffers: Tensors, inputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensors]:
        """Return one client's mean loss, and its buffers after the forward pass."""
        after = {name: b.clone() for name, b in buffers.items()}
        with autocast(self._config, inputs.device):
            outputs = functional_call(self._network.module, weights | after, (inputs,))
            return self._task.loss(outputs, targets), after

    @contextmanager
    def _drawing(self, ctx: RoundContext, step: int) -> Iterator[None]:
        """Seed the model's own random draws (dropout), for the one client that computes."""
        if not self._network.draws:
            yield
            return
        (client,) = ctx.participants
        with ctx.streams.torch_global("dropout", ctx.round, client, step, device=self._device):
            yield

    @property
    def _device(self) -> torch.device:
        return next(self._network.module.parameters()).device


def _as_row(tensors: Tensors) -> Tensors:
    return {name: tensor.unsqueeze(0) for name, tensor in tensors.items()}


class LocalTrainer:
    """A trainer of a range of clients, batch by batch; the caller keeps their state between rounds.

    With ``client-batching = vmap`` a batch is many clients in one call; with ``loop`` it is one client, so that its
    bits do not depend on the others; ``auto`` chooses the faster one for the network.
    """

    def __init__(self, task: Task, network: Network, config: RunConfig, clients: range) -> None:
        """Choose the number of clients in a batch.

        Args:
            task: data, on the device that computes the gradients.
            network: the model.
            config: of the run.
            clients: their numbers in the run.
        """
        self._model = _shapes(network.weights), _shapes(network.buffers)
        self._at_once = max(1, EXAMPLES_AT_ONCE // config.batch_size) if _batches(config, network) else 1
        self._trainer = GroupTrainer(task, network, config, clients)

    def compute(self, broadcast: Broadcast) -> Iterator[Computed]:
        """Compute the gradients alone, one batch of clients after the other."""
        for part in self._parts(broadcast):
            yield self._trainer.compute(part)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[ClientUpdate, Tensors]:
        """Compute the update and the next memory of the participants, each tensor with the clients axis in order.

        The memory is changed in place, batch by batch of clients, so that the gradients of only one batch are in
        memory at once.

        Raises:
            TrainingError: the broadcast is of another model than this trainer's.
        """
        self._refuse_others(broadcast)
        parts = self._parts(broadcast)
        if not memory and broadcast.scheme.traits.error_feedback:
            clients = len(broadcast.context.participants)
            like = {name: w[0] for name, w in broadcast.weights.items()} if broadcast.own_weights else broadcast.weights
            memory = {name: w.new_zeros(clients, *w.shape) for name, w in like.items()}
        sizes = [len(part.context.participants) for part in parts]
        models = _split(broadcast.weights, sizes) if broadcast.own_weights else [broadcast.weights] * len(parts)
        client_updates = [
            self._trainer.answer(replace(part, weights=model), remembered)
            for part, model, remembered in zip(parts, models, _split(memory, sizes), strict=True)
        ]
        return join(client_updates), memory

    def _refuse_others(self, broadcast: Broadcast) -> None:
        """Raise TrainingError where a broadcast is of another model."""
        ctx, (weights, buffers) = broadcast.context, self._model
        blocks = {block.name: block.shape for block in ctx.blocks}
        if blocks != weights or (ctx.phase == 0 and _shapes(broadcast.buffers) != buffers):
            raise TrainingError(f"round {ctx.round + 1}: the broadcast is of another model than this node's")

    def _parts(self, broadcast: Broadcast) -> list[Broadcast]:
        """Split the broadcast by batches of participants."""
        participants, size = broadcast.context.participants, self._at_once
        batches = (participants[start : start + size] for start in range(0, len(participants), size))
        return [broadcast.of(range(batch[0], batch[-1] + 1)) for batch in batches]


def _batches(config: RunConfig, network: Network) -> bool:
    """Return True where many clients are computed in one call."""
    if config.client_batching == "auto":
        return network.batches and not network.draws and config.precision == "float32"
    return config.client_batching == "vmap"


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _split(tensors: Tensors, sizes: list[int]) -> list[Tensors]:
    parts = {name: torch.split(tensor, sizes) for name, tensor in tensors.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]
