"""Who takes part in a round."""

from collections.abc import Sequence

import torch

from laser_fl.streams import Streams


def participants(clients: int, fraction: float, dropout_rate: float, round: int, streams: Streams) -> tuple[int, ...]:
    """The clients that take part in `round`, by number, rising.

    The server asks ``fraction`` of all, at least one, drawn anew each round; of these each drops out
    with the probability ``dropout_rate``. A client that is not there computes nothing and keeps its memory.
    """
    present: Sequence[int] = range(clients)
    if (count := asked(clients, fraction)) < clients:
        present = torch.randperm(clients, generator=streams.generator("participants", round))[:count].tolist()
    if dropout_rate > 0:
        stays = torch.rand(clients, generator=streams.generator("dropouts", round)) >= dropout_rate
        present = [client for client in present if stays[client]]
    return tuple(sorted(present))


def asked(clients: int, fraction: float) -> int:
    """How many clients the server asks in a round: the fraction of all, rounded, and at least one."""
    return max(1, int(fraction * clients + 0.5))
