"""A node of somebody's own app: only the gradients are the user's."""

from collections.abc import Callable, Mapping
from functools import partial
from numbers import Real
from typing import Any

import torch
from flwr.app import Context, Message
from torch import Tensor

from clients.node import reply
from laser_fl.blocks import Tensors
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.errors import TrainingError, quoted
from laser_fl.federated.broadcast import Broadcast
from laser_fl.pipeline import encode_update
from laser_fl.rng import Device

# (weights, buffers, client) -> (gradients, loss) or (gradients, loss, buffers)
GradientFn = Callable[[Tensors, Tensors, int], tuple[Any, ...]]

UNKNOWN = {
    "gradient": "it is no weight of the broadcast",
    "buffer": "it is not in the strategy's buffers=dict(model.named_buffers())",
}
MISSING = {
    "gradient": "none: start without what has no gradient, or with it in the strategy's buffers",
    "buffer": "none",
}


def respond(message: Message, context: Context, gradient_fn: GradientFn, device: Device = "cpu") -> Message:
    """Answer a broadcast with the gradients of this node's clients, which `gradient_fn` computes.

    It is called once a round for each client that takes part, and returns (gradients, loss), or (gradients, loss,
    buffers) where the strategy has buffers: all by name, of the shapes that it was given. A loss is a number, or a
    tensor with a single one and no axes. Integers among the buffers are ignored.

    Args:
        message: with the broadcast.
        context: Flower's, of the node.
        gradient_fn: (weights, buffers, client) -> as above. The weights are only to be read; the buffers are the
            client's own, so that a forward pass may change them; clients are numbered from 0.
        device: where it gets the model, and returns the gradients.

    Returns:
        The message for the server.

    Raises:
        ConfigError: the context lacks ``partition-id`` or ``num-partitions``.
        TrainingError: `gradient_fn` returned something else.
        WireError: the message is not a broadcast.
    """
    return reply(message, context, partial(_update, gradient_fn), device)


def _update(gradient_fn: GradientFn, broadcast: Broadcast, memory: Tensors) -> tuple[ClientUpdate, Tensors]:
    """Compute and encode the participants' gradients; after a round's first phase they wait in the memory."""
    ctx, own = broadcast.context, broadcast.own_weights
    losses = torch.zeros(len(ctx.participants), dtype=torch.float64)
    if ctx.phase > 0:
        return encode_update(broadcast, None, losses, memory, in_place=True)
    like = {name: w[0] if own else w for name, w in broadcast.weights.items()}
    gradients, buffers = _rows(len(losses), like), _rows(len(losses), broadcast.buffers)
    for row, client in enumerate(ctx.participants):
        place = f"round {ctx.round + 1}: client {client}: gradient_fn"
        weights = {name: w[row] if own else w for name, w in broadcast.weights.items()}
        following = {name: buffer.clone() for name, buffer in broadcast.buffers.items()}
        computed, loss, followed = _parts(gradient_fn(weights, following, client), place)
        losses[row] = _number(loss, place)
        _fill(gradients, row, computed, "gradient", place)
        _fill(buffers, row, _floats(followed), "buffer", place)
    return encode_update(broadcast, gradients, losses, memory, buffers, in_place=True)


def _rows(clients: int, like: Tensors) -> Tensors:
    return {name: tensor.new_empty(clients, *tensor.shape) for name, tensor in like.items()}


def _parts(answer: object, place: str) -> tuple[Any, Any, Any]:
    """Return (gradients, loss, buffers). Raises TrainingError where there are more or fewer, or no dicts."""
    if not isinstance(answer, tuple) or len(answer) not in (2, 3):
        raise TrainingError(f"{place} must return (gradients, loss) or (gradients, loss, buffers), got {_kind(answer)}")
    gradients, loss, buffers = (*answer, {})[:3]
    for what, tensors in (("gradients", gradients), ("buffers", buffers)):
        if not isinstance(tensors, Mapping):
            raise TrainingError(f"{place} must return {what} as a dict by name, got {_kind(tensors)}")
    return gradients, loss, buffers


def _number(loss: object, place: str) -> float:
    """Return a loss as a number. Raises TrainingError where it is none."""
    if isinstance(loss, Tensor) and loss.ndim == 0 and not loss.is_complex():
        return float(loss.detach())
    if isinstance(loss, Real):
        return float(loss)
    raise TrainingError(f"{place} must return the loss as a single number, got {_kind(loss)}")


def _floats(buffers: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the integers, which are no buffers of the strategy's."""
    return {n: b for n, b in buffers.items() if not isinstance(b, Tensor) or b.is_floating_point()}


def _fill(rows: Tensors, row: int, tensors: Mapping[str, Any], what: str, place: str) -> None:
    """Copy a client's tensors into its row.

    Args:
        rows: by name, (clients, *shape).
        row: of the client.
        tensors: by name, one for each of `rows`.
        what: they are, for messages.
        place: where they come from, for messages.

    Raises:
        TrainingError: one is missing, or there is one more, or it is of another shape or no tensor of floats.
    """
    if unknown := [name for name in tensors if name not in rows]:
        raise TrainingError(f"{place} must return no {what} {quoted(unknown[0])}: {UNKNOWN[what]}")
    for name, tensor in rows.items():
        mine, shape = tensors.get(name), tensor.shape[1:]
        if not isinstance(mine, Tensor) or mine.shape != shape or not mine.is_floating_point():
            got = MISSING[what] if mine is None else _kind(mine)
            raise TrainingError(f"{place} must return the {what} {quoted(name)}, floats {list(shape)}, got {got}")
        tensor[row].copy_(mine.detach())


def _kind(value: object) -> str:
    """Describe a value for a message."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"
    if isinstance(value, (tuple, list)):
        return f"a {type(value).__name__} of {len(value)}"
    return "None" if value is None else f"a value of type {type(value).__name__}"
