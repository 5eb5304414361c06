"""Digital links over the same air: clients take turns and send bits at capacity.

Each of the n clients that the channel lets transmit has s/n of the s channel uses as its turn and spends its energy P
in it, which carries s/(2n) · log2(1 + n P g_i / (s σ²)) bits. At equal gains that is its share of the capacity of the
multiple-access channel with everybody on the air at once. The turn of a client into which no message fits stays unused
and is not counted.

Source: Amiri, Gündüz, "Machine learning at the wireless edge", IEEE Trans. Signal Processing, 2020 (D-DSGD). Deviation:
on fading links the rate is the link's capacity, as if the client knew it: an upper bound of the rate it could reach.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, to_device, to_host
from laser_fl.channels.base import ChannelState, ChannelUsage
from laser_fl.errors import PowerError
from laser_fl.schemes.base import Received, RoundContext
from laser_fl.shapes import Float, Float64

WORD = 32  # bits of a value


def capacity(
    channel_state: ChannelState, channel_uses: int, power: float, noise_variance: float
) -> Float64[Tensor, " clients"]:
    """Compute the bits that each client's link carries in an exchange.

    Args:
        channel_state: of the clients.
        channel_uses: s, of all clients together.
        power: P, linear, of each client.
        noise_variance: σ² per channel use, >= 0.

    Returns:
        Bits per client; 0 for clients in outage, inf without noise.
    """
    turn = channel_uses / max(1, int(channel_state.transmits.sum()))
    snr = channel_state.snr_gain * (power / turn / noise_variance if noise_variance > 0 else math.inf)
    return torch.where(channel_state.transmits, turn / 2 * torch.log2(1 + snr), 0.0)


def deliver(
    signals: Tensors,
    payload: Float64[Tensor, " clients"],
    channel_uses: int,
    ctx: RoundContext,
    weights: Float64[Tensor, " clients"] | None = None,
    shares: Float64[Tensor, "clients signals"] | None = None,
) -> tuple[Received, ChannelUsage]:
    """Give the server the mean of the transmitters' signals over ctx.averaged clients exactly.

    Args:
        signals: by name (transmitters, *shape).
        payload: bits of each transmitter's message.
        channel_uses: of the exchange.
        ctx: of the exchange.
        weights: of the messages in the mean, applied by the server after it has decoded them; None: all weigh 1.
        shares: of each signal that counts, likewise; None: all of all.

    Returns:
        The means, without noise, and the cost.

    Raises:
        PowerError: a message has more bits than its link carries.
    """
    room = torch.tensor(ctx.bits, dtype=torch.float64)
    if (excess := payload.cpu() > room).any():
        row = int(excess.nonzero()[0])
        line = f"client {ctx.transmitters[row]} sent {payload[row]:.1f} bits over a link that carries {room[row]:.1f}"
        raise PowerError(f"round {ctx.round + 1}: {line}")
    factors: Sequence[Tensor | None] = [weights] * len(signals)
    if shares is not None:
        factors = (shares if weights is None else weights.unsqueeze(1) * shares).unbind(dim=1)
    means = {
        name: _sum(signal, factor) / ctx.averaged
        for (name, signal), factor in zip(signals.items(), factors, strict=True)
    }
    energy = sum(to_host(torch.stack([mean.double().square().sum() for mean in means.values()]))[0].tolist())
    spent = torch.full_like(payload, ctx.power)
    noise_std = torch.zeros((), dtype=torch.float64, device=next(iter(means.values())).device)
    num_values = math.ceil(float(payload.max()) / WORD)
    return Received(means, dict.fromkeys(means, noise_std)), ChannelUsage(spent, channel_uses, num_values, energy, 0.0)


def _sum(signal: Float[Tensor, "clients ..."], weights: Float64[Tensor, " clients"] | None) -> Float[Tensor, "..."]:
    if weights is None:
        return signal.sum(dim=0)
    total: Tensor = torch.tensordot(to_device(weights.to(signal.dtype), signal.device), signal, dims=1)
    return total
