"""Who takes part in a round."""

import torch

from laser_fl.streams import Streams


def participants(clients: int, fraction: float, dropout_rate: float, round: int, streams: Streams) -> tuple[int, ...]:
    """The clients that take part in `round`, by number, rising.

    The server asks ``fraction`` of all, at least one, drawn anew each round; of these each drops out
    with the probability ``dropout_rate``. A client that is not there computes nothing and keeps its memory.
    """
    asked = max(1, round_half_up(fraction * clients))
    order = torch.randperm(clients, generator=streams.generator("participants", round))[:asked]
    stays = torch.rand(clients, generator=streams.generator("dropouts", round)) >= dropout_rate
    return tuple(sorted(client for client in order.tolist() if stays[client]))


def round_half_up(value: float) -> int:
    """The nearest whole number."""
    return int(value + 0.5)
