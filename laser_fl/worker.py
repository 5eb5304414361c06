"""Local gradients: what a client, or many clients in one batched call, computes."""

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, vmap

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.order import Order
from laser_fl.pipeline import Broadcast, Uplink, join, send
from laser_fl.tasks.base import Task

Gradients = Callable[[Tensors, Tensor, Tensor], tuple[Tensors, Tensor]]


class Worker:
    """A range of clients that compute together, each on its own shard of the data."""

    def __init__(self, task: Task, model: nn.Module, config: RunConfig, clients: range) -> None:
        """task: data, on the device where gradients are computed. clients: numbers in the run."""
        self._train = task.train
        self._batch_size = config.batch_size
        self._gradients = _batched_gradients(task, model, own_weights=False)
        self._own_gradients = _batched_gradients(task, model, own_weights=True)
        self.order = Order(config, len(task.train.targets), clients)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[Uplink, Tensors]:
        """Compute the round's gradients and send them; returns the uplink and the next memory."""
        if broadcast.context.phase > 0:
            losses = torch.zeros(len(broadcast.context.present), dtype=torch.float64)
            return send(broadcast, None, losses, memory)
        gradients, losses = self.gradients(broadcast)
        return send(broadcast, gradients, losses, memory)

    def gradients(self, broadcast: Broadcast) -> tuple[Tensors, Float[Tensor, " clients"]]:
        """Each present client's mean gradient over its examples of the round, and its mean loss.

        Returns (per block (clients, *shape), (clients,)).
        """
        ctx = broadcast.context
        batch = self.order.batch(ctx.round, ctx.present).to(self._train.inputs.device)
        parts = torch.split(batch, self._batch_size, dim=1)
        total: Tensors = {}
        losses = torch.zeros(len(batch), dtype=torch.float64, device=batch.device)
        for part in parts:
            examples = self._train.at(part)
            compute = self._own_gradients if broadcast.own_weights else self._gradients
            gradients, loss = compute(broadcast.weights, examples.inputs, examples.targets)
            weight = part.shape[1] / batch.shape[1]
            total = {name: g if len(parts) == 1 else total.get(name, 0) + weight * g for name, g in gradients.items()}
            losses += weight * loss
        return {name: gradient.contiguous() for name, gradient in total.items()}, losses


def _batched_gradients(task: Task, model: nn.Module, own_weights: bool) -> Gradients:
    """(weights, inputs, targets) -> gradients and losses, with a clients axis on all but shared weights."""

    def loss(weights: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        return task.loss(functional_call(model, weights, (inputs,)), targets)

    return vmap(grad_and_value(loss), in_dims=(0 if own_weights else None, 0, 0))


class Crew:
    """The workers of a range of clients. What the clients hold between rounds is kept by the caller.

    With ``client-batching = vmap`` one worker computes all clients in one call; with ``loop``
    each client has a worker of its own, so that its bits do not depend on its company.
    """

    def __init__(self, task: Task, model: nn.Module, config: RunConfig, clients: range) -> None:
        groups = [clients] if config.client_batching == "vmap" else [range(c, c + 1) for c in clients]
        self._workers = [Worker(task, model, config, group) for group in groups]

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[Uplink, Tensors]:
        """The uplink and next memory of the clients present, each tensor with the clients axis in order."""
        parts = [broadcast.of(worker.order.clients) for worker in self._workers]
        busy = [(worker, part) for worker, part in zip(self._workers, parts, strict=True) if part.context.present]
        sizes = [len(part.context.present) for _, part in busy]
        memories = _split(memory, sizes)
        models = _split(broadcast.weights, sizes) if broadcast.own_weights else [broadcast.weights] * len(busy)
        answers = [
            worker.answer(replace(part, weights=model), remembered)
            for (worker, part), model, remembered in zip(busy, models, memories, strict=True)
        ]
        return join([uplink for uplink, _ in answers]), _concatenate([memory for _, memory in answers])


def _split(tensors: Tensors, sizes: list[int]) -> list[Tensors]:
    parts = {name: torch.split(tensor, sizes) for name, tensor in tensors.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def _concatenate(memories: list[Tensors]) -> Tensors:
    if len(memories) == 1:
        return memories[0]
    return {name: torch.cat([memory[name] for memory in memories]) for name in memories[0]}
