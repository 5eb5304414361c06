"""Local gradients: what a client, or many clients in one batched call, computes."""

from collections.abc import Callable

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
        self._gradients = _batched_gradients(task, model)
        self.order = Order(config, len(task.train.targets), clients)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[Uplink, Tensors]:
        """Compute the round's gradients and send them; returns the uplink and the next memory."""
        if broadcast.context.phase > 0:
            losses = torch.zeros(len(self.order.clients), dtype=torch.float64)
            return send(broadcast, None, losses, memory)
        gradients, losses = self.gradients(broadcast.weights, broadcast.context.round)
        return send(broadcast, gradients, losses, memory)

    def gradients(self, weights: Tensors, round: int) -> tuple[Tensors, Float[Tensor, " clients"]]:
        """Each client's mean gradient over its examples of `round`, and its mean loss.

        Returns (per block (clients, *shape), (clients,)).
        """
        batch = self.order.batch(round).to(self._train.inputs.device)
        parts = torch.split(batch, self._batch_size, dim=1)
        total: Tensors = {}
        losses = torch.zeros(len(batch), dtype=torch.float64, device=batch.device)
        for part in parts:
            gradients, loss = self._gradients(weights, self._train.inputs[part], self._train.targets[part])
            weight = part.shape[1] / batch.shape[1]
            total = {name: g if len(parts) == 1 else total.get(name, 0) + weight * g for name, g in gradients.items()}
            losses += weight * loss
        return {name: gradient.contiguous() for name, gradient in total.items()}, losses


def _batched_gradients(task: Task, model: nn.Module) -> Gradients:
    """(weights, inputs, targets) -> gradients and losses, with a clients axis on all but the weights."""

    def loss(weights: Tensors, inputs: Tensor, targets: Tensor) -> Tensor:
        return task.loss(functional_call(model, weights, (inputs,)), targets)

    return vmap(grad_and_value(loss), in_dims=(None, 0, 0))


class Crew:
    """The workers of a range of clients. What the clients remember is kept by the caller.

    With ``client-batching = vmap`` one worker computes all clients in one call; with ``loop``
    each client has a worker of its own, so that its bits do not depend on its company.
    """

    def __init__(self, task: Task, model: nn.Module, config: RunConfig, clients: range) -> None:
        groups = [clients] if config.client_batching == "vmap" else [range(c, c + 1) for c in clients]
        self._workers = [Worker(task, model, config, group) for group in groups]

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[Uplink, Tensors]:
        """All clients' uplink and next memory, each tensor with the clients axis in order."""
        sizes = [len(worker.order.clients) for worker in self._workers]
        slices = _split(memory, sizes)
        answers = [worker.answer(broadcast, part) for worker, part in zip(self._workers, slices, strict=True)]
        memories = [memory for _, memory in answers]
        return join([uplink for uplink, _ in answers]), _concatenate(memories)


def _split(memory: Tensors, sizes: list[int]) -> list[Tensors]:
    parts = {name: torch.split(tensor, sizes) for name, tensor in memory.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]


def _concatenate(memories: list[Tensors]) -> Tensors:
    if len(memories) == 1:
        return memories[0]
    return {name: torch.cat([memory[name] for memory in memories]) for name in memories[0]}
