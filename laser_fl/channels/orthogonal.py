"""Digital links over the same air: clients take turns and send bits at capacity.

Each of the n clients that the channel lets speak has s/n of the s channel uses as its turn and spends
its energy P in it, which carries s/(2n) · log2(1 + n P g_i / (s σ²)) bits. At equal gains that is its share
of the capacity of the multiple-access channel with everybody on the air at once. The turn of a
client into which no message fits stays unused and is not counted.

Source: Amiri, Gündüz, "Machine learning at the wireless edge", IEEE Trans. Signal Processing, 2020
(D-DSGD). Deviation: on fading links the rate is what the link carries, as if the client had been
told: an upper bound for what it could do.
"""

import math

import torch
from jaxtyping import Float64
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.channels.base import Links, Usage
from laser_fl.errors import PowerError
from laser_fl.schemes.base import Context, Heard

WORD = 32  # bits of a float


def capacity(links: Links, channel_uses: int, power: float, noise_variance: float) -> Float64[Tensor, " clients"]:
    """Bits that each client's link carries in an exchange; 0 for the silent, inf without noise."""
    turn = channel_uses / max(1, int(links.speaks.sum()))
    snr = links.snr_gain * (power / turn / noise_variance if noise_variance > 0 else math.inf)
    return torch.where(links.speaks, turn / 2 * torch.log2(1 + snr), 0.0)


def deliver(
    signals: Tensors, payload: Float64[Tensor, " clients"], channel_uses: int, ctx: Context
) -> tuple[Heard, Usage]:
    """Give the server the speakers' mean over ctx.averaged clients exactly.

    payload: bits that each speaker's message takes.

    Raises:
        PowerError: a message has more bits than its link carries.
    """
    room = torch.tensor(ctx.bits, dtype=torch.float64)
    if (excess := payload.cpu() > room).any():
        row = int(excess.nonzero()[0])
        line = f"client {ctx.speakers[row]} sent {payload[row]:.1f} bits over a link that carries {room[row]:.1f}"
        raise PowerError(f"round {ctx.round + 1}: {line}")
    means = {name: signal.sum(dim=0) / ctx.averaged for name, signal in signals.items()}
    energy = sum(float(mean.double().square().sum()) for mean in means.values())
    spent = torch.full_like(payload, ctx.power)
    silence = torch.zeros((), dtype=torch.float64)
    floats = math.ceil(float(payload.max()) / WORD)
    return Heard(means, dict.fromkeys(means, silence)), Usage(spent, channel_uses, floats, energy, 0.0)
