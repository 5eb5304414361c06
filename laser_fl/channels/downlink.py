"""The downlink: the server's broadcast, and the model that each client makes of it.

The server scales the weights of a broadcast to its power P_dl, and every client receives them under unit noise of its
own: θ_i = θ + (‖θ‖ / √P_dl) n_i, n_i ~ N(0, I). Broadcasting the update Δ = θ_t - θ_{t-1} instead costs less noise, but
each client then has a copy of its own, θ_i += Δ + (‖Δ‖ / √P_dl) n_i, and the copies drift apart. Everything else that
goes down (bases, the list of transmitters) is noiseless. On an ideal downlink the server can also broadcast the
estimates that it received, from which every node makes the same model (`laser_fl.federated.replica`).

Source: paper, §5 (left open there); Amiri, Gündüz, Kulkarni, Poor, "Convergence of federated learning over a noisy
downlink", IEEE Trans. Wireless Communications, 2022.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from laser_fl.blocks import Tensors, norms
from laser_fl.errors import TrainingError
from laser_fl.schemes.base import RoundContext

Content = Literal["model", "start", "update", "received"]


@dataclass(frozen=True)
class Downlink:
    """The kind of a broadcast's weights, and their noise.

    content: the ``model`` itself; the ``start`` of copies, a model that all know; the ``update`` of those copies;
        or no weights, but the estimates that the server ``received``.
    noise_std: standard deviation of the noise under which each client receives a value of them.
    """

    content: Content = "model"
    noise_std: float = 0.0


def noise_std(weights: Tensors, power: float) -> float:
    """Return ‖weights‖ / √power: the noise per value at a broadcast power, linear; inf: no noise."""
    if math.isinf(power):
        return 0.0
    everything = {name: tensor.unsqueeze(0) for name, tensor in weights.items()}
    return float(norms(everything, 1).norm()) / math.sqrt(power)


def receive(
    weights: Tensors, downlink: Downlink, copies: Tensors, clients: Sequence[int], ctx: RoundContext
) -> tuple[Tensors | None, Tensors]:
    """Receive a broadcast's weights at some clients, each under noise of its own.

    Args:
        weights: of the broadcast, by name.
        downlink: their kind and noise.
        copies: each client's own model after the previous broadcast, (clients, *shape), where updates are broadcast.
        clients: numbers of the clients, in the order of the rows.
        ctx: of the exchange.

    Returns:
        Each client's model, (clients, *shape), or None where all receive `weights` as they are; and the clients' copies
        for the next broadcast.

    Raises:
        TrainingError: an update for copies that are not there.
    """
    if downlink.content == "start":
        copies = {name: w.expand(len(clients), *w.shape).clone() for name, w in weights.items()}
        return copies, copies
    if downlink.content == "update":
        if copies.keys() != weights.keys():
            raise TrainingError(f"round {ctx.round + 1}: an update came for a copy of the model that was lost")
        noisy = _noisy(weights, downlink.noise_std, clients, ctx)
        copies = {name: copies[name] + noisy[name] for name in weights}
        return copies, copies
    if downlink.noise_std == 0:
        return None, {}
    return _noisy(weights, downlink.noise_std, clients, ctx), {}


def _noisy(weights: Tensors, std: float, clients: Sequence[int], ctx: RoundContext) -> Tensors:
    """Repeat the weights for every client, under noise of its own; one row for all where there is no noise."""
    if std == 0 or not clients:
        return {name: w.unsqueeze(0) for name, w in weights.items()}
    flat = torch.cat([w.flatten() for w in weights.values()])
    noise = (ctx.streams.normal_like(flat, "downlink noise", ctx.round, client) for client in clients)
    received = torch.stack([flat + std * one for one in noise])
    parts = torch.split(received, [w.numel() for w in weights.values()], dim=1)
    return {name: part.reshape(-1, *w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)}
