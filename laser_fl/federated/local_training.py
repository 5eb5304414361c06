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
from laser_fl.channels.exchange import ClientUpdate, join, superpose
from laser_fl.config import RunConfig
from laser_fl.data.task import Task
from laser_fl.errors import LaserError, TrainingError, brief, reason_of
from laser_fl.federated.batches import Batches
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.differentiation import Computed, Differentiation
from laser_fl.federated.heap import FREE, give_back
from laser_fl.federated.trial import way_of
from laser_fl.models.base import Network
from laser_fl.pipeline import add_to_memory, encode, encode_update
from laser_fl.schemes.base import RoundContext

ENCODED_AT_ONCE = 2**30  # values of gradients on a GPU
VALUE = 4  # bytes
EXAMPLES_AT_ONCE = 2048  # by all clients in one call of vmap: enough to be fast, and few enough for the memory


class GroupTrainer:
    """A trainer that computes the gradients of clients, each on its own shard of the data."""

    def __init__(self, task: Task, network: Network, config: RunConfig, clients: range, graph: bool = False) -> None:
        """Prepare the data and the batched functions.

        Args:
            task: data, on the device that computes the gradients.
            network: the model.
            config: of the run.
            clients: their numbers in the run.
            graph: True to replay a client's gradient from a CUDA graph.
        """
        self._network = network
        self._config = config
        self._batches = Batches(task, config, clients)
        self._differentiation = Differentiation(task, network, config, graph)

    def compute(self, broadcast: Broadcast, together: tuple[int, ...] = ()) -> Computed:
        """Compute each participant's gradient of the round, the sum of its local steps' means, and its mean loss.

        Buffers go from one micro-step to the next, starting with those of the broadcast. The last local step may have
        fewer examples than the others.

        broadcast: to the participants. together: as for `Batches.at`.
        """
        ctx, device = broadcast.context, _device_of(broadcast.weights)
        clients = len(ctx.participants)
        parts = self._batches.rows(ctx)
        taken = sum(part.shape[1] for part in parts)
        accumulated, here = self._config.accumulation_steps, broadcast
        buffers = {name: b.expand(clients, *b.shape) for name, b in broadcast.buffers.items()}
        total: Tensors = {}
        losses = torch.zeros(clients, dtype=torch.float64, device=device)
        if not self._network.module.training:
            self._network.module.train()
        for step, part in enumerate(parts):
            if step % accumulated == 0:
                examples = sum(micro.shape[1] for micro in parts[step : step + accumulated])
                here = self._moved(broadcast, total) if step else broadcast
            one = self._micro_step(here, buffers, part, step, together)
            weight = part.shape[1] / examples
            if step == 0:
                total = one.gradients if len(parts) == 1 else {n: weight * g for n, g in one.gradients.items()}
            else:
                torch._foreach_add_(list(total.values()), list(one.gradients.values()), alpha=weight)
            losses += part.shape[1] / taken * one.losses
            buffers = one.buffers
        return Computed(_apart(total), buffers, losses)

    def _moved(self, broadcast: Broadcast, total: Tensors) -> Broadcast:
        """Return the broadcast with each client's own weights after local steps whose gradients sum up to `total`."""
        rate = self._config.local_learning_rate or self._config.learning_rate
        weights = {name: torch.sub(w, total[name], alpha=rate) for name, w in broadcast.weights.items()}
        return replace(broadcast, weights=weights, own_weights=True)

    def _micro_step(
        self, broadcast: Broadcast, buffers: Tensors, rows: Tensor, step: int, together: tuple[int, ...]
    ) -> Computed:
        """Compute the gradients on the examples at `rows`. Raises TrainingError where model or loss fail on them."""
        ctx = broadcast.context
        try:
            device = _device_of(broadcast.weights)
            inputs, targets = self._batches.at(rows, ctx, step, device, together)
            with self._drawing(ctx, step, device):
                return self._differentiation(broadcast.weights, broadcast.own_weights, buffers, inputs, targets)
        except LaserError:
            raise
        except Exception as error:
            who = f"client {ctx.participants[0]}" if len(ctx.participants) == 1 else "a client"
            reason = f"{type(error).__name__}: {brief(reason_of(error))}"
            raise TrainingError(f"round {ctx.round + 1}: {who}: the model or the loss raised {reason}") from error

    @contextmanager
    def _drawing(self, ctx: RoundContext, step: int, device: torch.device) -> Iterator[None]:
        """Seed the model's own random draws, as dropout has them, for the one client that computes.

        Where many clients are computed in one call, the model has none.
        """
        if len(ctx.participants) > 1:
            yield
            return
        (client,) = ctx.participants
        with ctx.streams.torch_global("dropout", ctx.round, client, step, device=device):
            yield


class LocalTrainer:
    """A trainer of a range of clients, batch by batch; the caller keeps their state between rounds.

    With ``client-batching = vmap`` a batch is many clients in one call; with ``loop`` it is one client, so that its
    bits do not depend on the others; with ``graph``, too, replayed from a CUDA graph; ``auto`` chooses the fastest one
    for the network.
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
        most = max(1, EXAMPLES_AT_ONCE // config.batch_size)
        self.way = way_of(task, network, config, len(clients), most)
        self._at_once = most if self.way == "vmap" else 1
        self._trainer = GroupTrainer(task, network, config, clients, graph=self.way == "graph")
        self._passed = 0  # bytes of gradients since free memory was given back

    def compute(self, broadcast: Broadcast) -> Iterator[Computed]:
        """Compute the gradients alone, one batch of clients after the other."""
        together = broadcast.context.participants
        for part in self._parts(broadcast, self._at_once):
            yield self._trainer.compute(part, together)

    def answer(self, broadcast: Broadcast, memory: Tensors) -> tuple[ClientUpdate, Tensors]:
        """Compute the update and the next memory of the participants, each tensor with the clients axis in order.

        Clients are computed batch by batch, so that the gradients of only one batch are beside the memory. Then all are
        encoded in one call, or, for large models and on a CPU, some at a time.

        Raises:
            TrainingError: the broadcast is of another model than this trainer's.
        """
        self._refuse_others(broadcast)
        model = {name: w[0] for name, w in broadcast.weights.items()} if broadcast.own_weights else broadcast.weights
        clients = len(broadcast.context.participants)
        if not memory and broadcast.scheme.traits.error_feedback and clients > self._at_once:
            memory = {name: w.new_zeros(clients, *w.shape) for name, w in model.items()}
        device = _device_of(broadcast.weights or memory or broadcast.shared)
        groups = self._parts(broadcast, self._encoded_at_once(broadcast.context.size, device))
        if len(groups) == 1 and not broadcast.superposition:
            return self._update(broadcast, memory, alone=True)
        total: Tensors = {}
        updates = []
        memories = _split(memory, [len(group.context.participants) for group in groups])
        for group, rows in zip(groups, memories, strict=True):
            update, _ = self._update(group, rows)
            updates.append(superpose(update, _factors(group), total) if broadcast.superposition else update)
            del update  # with the signals, where they are added up
            self._give_back(group.context)
        joined = join(updates)
        return replace(joined, signals=total, superposed=True) if total else joined, memory

    def _give_back(self, ctx: RoundContext) -> None:
        """Give free memory back where as many gradients have come and gone as could leave much of it."""
        self._passed += len(ctx.participants) * ctx.size * VALUE
        if self._passed > FREE:
            self._passed = 0
            give_back()

    def _update(self, broadcast: Broadcast, memory: Tensors, alone: bool = False) -> tuple[ClientUpdate, Tensors]:
        """Compute and encode the gradients of clients that are encoded in one call; return their next memory, too.

        It takes the place of the memory, where these are not the only clients: what one group of clients leaves behind
        would soon leave no room of the size of the next one's gradients.
        """
        ctx = broadcast.context
        if ctx.phase > 0:  # the gradients wait in the memory
            return encode_update(broadcast, None, _no_losses(ctx), memory, in_place=True)
        parts = self._parts(broadcast, self._at_once)
        if len(parts) == 1 and (alone or not broadcast.scheme.traits.error_feedback):
            one = self._trainer.compute(broadcast, ctx.participants)
            return encode_update(broadcast, one.gradients, one.losses, memory, one.buffers, in_place=True)
        corrected, losses, buffers = self._corrected(parts, memory)
        return encode(broadcast, corrected, losses, buffers), memory

    def _corrected(self, parts: list[Broadcast], memory: Tensors) -> tuple[Tensors, Tensor, Tensors]:
        """Compute the corrected gradients of several batches, in the memory's place where there is error feedback."""
        sizes = [len(part.context.participants) for part in parts]
        together = tuple(client for part in parts for client in part.context.participants)
        corrected, rows, each = memory, _split(memory, sizes), []
        for index, part in enumerate(parts):
            computed = self._trainer.compute(part, together)
            gradients, losses = computed.gradients, computed.losses
            if part.scheme.traits.error_feedback:
                losses = add_to_memory(rows[index], gradients, losses)
            else:
                if index == 0:
                    corrected = {name: g.new_empty(sum(sizes), *g.shape[1:]) for name, g in gradients.items()}
                    rows = _split(corrected, sizes)
                torch._foreach_copy_([rows[index][name] for name in gradients], list(gradients.values()))
            each.append((losses, computed.buffers))
        losses = torch.cat([own for own, _ in each])
        return corrected, losses, {name: torch.cat([own[name] for _, own in each]) for name in each[0][1]}

    def _encoded_at_once(self, size: int, device: torch.device) -> int:
        """Return the number of clients to encode in one call, whole batches of them.

        On a CPU these are the clients of a batch, so that a client's bits do not depend on the others with `loop`.
        """
        fit = ENCODED_AT_ONCE // size if device.type != "cpu" else 0
        return max(1, fit // self._at_once) * self._at_once

    def _refuse_others(self, broadcast: Broadcast) -> None:
        """Raise TrainingError where a broadcast is of another model."""
        ctx, (weights, buffers) = broadcast.context, self._model
        blocks = {block.name: block.shape for block in ctx.blocks}
        if blocks != weights or (ctx.phase == 0 and _shapes(broadcast.buffers) != buffers):
            raise TrainingError(f"round {ctx.round + 1}: the broadcast is of another model than this node's")

    def _parts(self, broadcast: Broadcast, size: int) -> list[Broadcast]:
        """Split the broadcast by participants, `size` at a time, each with the weights of its own."""
        participants = broadcast.context.participants
        batches = [participants[start : start + size] for start in range(0, len(participants), size)]
        if len(batches) == 1:
            return [broadcast]
        parts = [broadcast.of(range(batch[0], batch[-1] + 1)) for batch in batches]
        if not broadcast.own_weights:
            return parts
        own = _split(broadcast.weights, [len(batch) for batch in batches])
        return [replace(part, weights=weights) for part, weights in zip(parts, own, strict=True)]


def _apart(gradients: Tensors) -> Tensors:
    """Return contiguous gradients; on a CPU, which adds the memory to them, each has values of its own.

    Autograd may give two weights the same tensor, or parts of it.
    """
    apart = {name: gradient.contiguous() for name, gradient in gradients.items()}
    if _device_of(apart).type != "cpu" or len(set(map(_storage, apart.values()))) == len(apart):
        return apart
    return {name: gradient.clone() for name, gradient in apart.items()}


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def _no_losses(ctx: RoundContext) -> Tensor:
    return torch.zeros(len(ctx.participants), dtype=torch.float64)


def _factors(broadcast: Broadcast) -> Tensor:
    """Return the factors of each transmitter's signals, (transmitters, signals) or (transmitters, 1)."""
    factors = [broadcast.superposition[client] for client in broadcast.context.transmitters]
    return torch.tensor(factors, dtype=torch.float64)


def _device_of(tensors: Tensors) -> torch.device:
    """Return the device on which tensors lie."""
    return next(iter(tensors.values())).device


def _shapes(tensors: Tensors) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _split(tensors: Tensors, sizes: list[int]) -> list[Tensors]:
    parts = {name: torch.split(tensor, sizes) for name, tensor in tensors.items()}
    return [{name: part[i] for name, part in parts.items()} for i in range(len(sizes))]
