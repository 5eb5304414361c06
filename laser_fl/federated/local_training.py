"""Local gradients, of one client or of many clients in one batched call.

With τ ``local-steps`` a client descends on a model of its own, from the broadcast w_0 and at step size η, and
sends the sum of its gradients:

    g = Σ_{s<τ} g_s,    g_s taken at w_s = w_0 - η Σ_{j<s} g_j,

so that plain SGD at the server, at the same η, makes the mean of the clients' models; τ = 1 is the paper's.
Source: McMahan et al., "Communication-efficient learning of deep networks from decentralized data", 2017,
Algorithm 1 (FedAvg); Stich, "Local SGD converges fast and communicates little", 2019. Deviation: τ counts
steps, not epochs; clients weigh the same, unless client-weighting=examples; the average is of g, which is compressed
and sent through the air.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.task import Task, cross_entropy_of_all
from laser_fl.errors import LaserError, TrainingError, brief, reason_of
from laser_fl.federated.batches import Batches
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.differentiation import Computed, Differentiation
from laser_fl.federated.trial import can_batch
from laser_fl.models.base import Network
from laser_fl.pipeline import ClientUpdate, encode_update, join
from laser_fl.schemes.base import RoundContext

EXAMPLES_AT_ONCE = 2048  # by all clients in one call of vmap: enough to be fast, and few enough for the memory


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
        self._network = network
        self._config = config
        self._batches = Batches(task, config, clients)
        self._differentiation = Differentiation(task, network, config)

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
        parts = self._batches.rows(ctx)
        taken = sum(part.shape[1] for part in parts)
        accumulated, here = self._config.accumulation_steps, broadcast
        buffers = {name: b.expand(clients, *b.shape).clone() for name, b in broadcast.buffers.items()}
        total: Tensors = {}
        losses = torch.zeros(clients, dtype=torch.float64)
        self._network.module.train()
        for step, part in enumerate(parts):
            if step % accumulated == 0:
                examples = sum(micro.shape[1] for micro in parts[step : step + accumulated])
                here = self._moved(broadcast, total) if step else broadcast
            one = self._micro_step(here, buffers, part, step)
            weight = part.shape[1] / examples
            if step == 0:
                total = one.gradients if len(parts) == 1 else {n: weight * g for n, g in one.gradients.items()}
            else:
                torch._foreach_add_(list(total.values()), list(one.gradients.values()), alpha=weight)
            losses += part.shape[1] / taken * one.losses.cpu()
            buffers = one.buffers
        return Computed({name: gradient.contiguous() for name, gradient in total.items()}, buffers, losses)

    def _moved(self, broadcast: Broadcast, total: Tensors) -> Broadcast:
        """Return the broadcast with each client's own weights after local steps whose gradients sum up to `total`."""
        rate = self._config.local_learning_rate or self._config.learning_rate
        weights = {name: torch.sub(w, total[name], alpha=rate) for name, w in broadcast.weights.items()}
        return replace(broadcast, weights=weights, own_weights=True)

    def _micro_step(self, broadcast: Broadcast, buffers: Tensors, rows: Tensor, step: int) -> Computed:
        """Compute the gradients on the examples at `rows`. Raises TrainingError where model or loss fail on them."""
        ctx = broadcast.context
        try:
            inputs, targets = self._batches.at(rows, ctx, step, self._device)
            with self._drawing(ctx, step):
                return self._differentiation(broadcast.weights, broadcast.own_weights, buffers, inputs, targets)
        except LaserError:
            raise
        except Exception as error:
            who = f"client {ctx.participants[0]}" if len(ctx.participants) == 1 else "a client"
            reason = f"{type(error).__name__}: {brief(reason_of(error))}"
            raise TrainingError(f"round {ctx.round + 1}: {who}: the model or the loss raised {reason}") from error

    @contextmanager
    def _drawing(self, ctx: RoundContext, step: int) -> Iterator[None]:
        """Seed the model's own random draws, as dropout has them, for the one client that computes.

        Where many clients are computed in one call, the model has none.
        """
        if len(ctx.participants) > 1:
            yield
            return
        (client,) = ctx.participants
        with ctx.streams.torch_global("dropout", ctx.round, client, step, device=self._device):
            yield

    @property
    def _device(self) -> torch.device:
        return next(self._network.module.parameters()).device


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
        self._at_once = max(1, EXAMPLES_AT_ONCE // config.batch_size) if _batches(config, task, network, clients) else 1
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


def _batches(config: RunConfig, task: Task, network: Network, clients: range) -> bool:
    """Return True where many clients are computed in one call."""
    if len(clients) < 2 or not task.train.stacked or config.client_batching == "loop":
        return False
    known = network.batches and task.loss is cross_entropy_of_all
    if config.client_batching == "vmap":
        return known or can_batch(task, network, config)
    if network.draws or config.precision != "float32":
        return False
    return known or ((network.batches or network.might_batch) and can_batch(task, network, config))


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _split(tensors: Tensors, sizes: list[int]) -> list[Tensors]:
    parts = {name: torch.split(tensor, sizes) for name, tensor in tensors.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]
