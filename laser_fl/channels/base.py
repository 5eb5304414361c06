"""What every channel is, and what it reports of a transmission."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.schemes.base import Context, Heard


@dataclass(frozen=True)
class Usage:
    """What a transmission cost and how good it was, for the ledger.

    client_power: energy that each client spent, ‖x_i‖² summed over signals, measured on what
        was transmitted.
    channel_uses: values sent, by every client at once.
    signal_energy: ‖mean signal‖², summed over signals. noise_energy: the expected ‖noise‖² in
        the estimate of it.
    """

    client_power: Float64[Tensor, " clients"]
    channel_uses: int
    signal_energy: float
    noise_energy: float

    @classmethod
    def none(cls, clients: int) -> "Usage":
        """The usage of a silent exchange."""
        return cls(torch.zeros(clients, dtype=torch.float64), 0, 0.0, 0.0)


@runtime_checkable
class Channel(Protocol):
    """A model of the multiple-access channel: a frozen dataclass."""

    noise_variance: float

    def transmit(
        self,
        signals: Tensors,
        signal_norms: Float64[Tensor, "clients signals"],
        power: Float64[Tensor, " signals"],
        ctx: Context,
    ) -> tuple[Heard, Usage]:
        """Send all clients' signals at once and estimate their mean.

        signals: per signal (clients, *shape). signal_norms: what the clients reported of them.
        power: budget of each signal; no client's total may exceed ctx.power.
        """
        ...
