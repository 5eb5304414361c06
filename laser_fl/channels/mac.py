"""The walk through the air: scale to the budget, add up, add noise, scale back.

Client i transmits x_il = a_l b_i s_il, b_i its precoding, with one amplitude for all, a_l = √P_l / max_i (b_i ‖s_il‖),
so that nobody exceeds P_l. The server receives y_l = Σ_i g_i x_il + ν z, z ~ N(0, σ² I), and takes y_l / (n a_l) for
the mean over n clients: on ideal links (b = g = ν = 1) that is mean_i s_il + (c_l σ / (n √P_l)) z, c_l = max_i ‖s_il‖.
The weights w_i of a weighted mean are part of the precoding: clients send b_i w_i s_il, for which the budget holds.
A signal that is zero at every client is received as exactly zero. At infinite power the amplitude is 1 and there is no
noise. Transmitted values are counted in a unit of each signal's own, a power of two, so that neither much power nor
small signals leave the range of float32; no rounding depends on it.

Source: paper, Eq. (1), (2), (noisy channel) and §F.1; the channel state is ours.
"""

from math import prod

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norm
from laser_fl.channels.base import ChannelState, ChannelUsage
from laser_fl.schemes.base import Received, RoundContext
from laser_fl.shapes import Float, Float64

PIECE = 1 << 19  # values of all clients that walk at once


def transmit(
    signals: Tensors,
    signal_norms: Float64[Tensor, "clients signals"],
    power: Float64[Tensor, " signals"],
    channel_state: ChannelState,
    ctx: RoundContext,
) -> tuple[Received, ChannelUsage]:
    """Send all transmitters' signals at once and estimate their mean over ctx.averaged clients.

    Args:
        signals: by name (transmitters, *shape).
        signal_norms: as the transmitters report them.
        power: budget of each signal, linear; no transmitter's total may exceed ctx.power.
        channel_state: of the transmitters.
        ctx: of the exchange.

    Returns:
        The estimates with the standard deviation of their noise, and the cost.
    """
    aligned = bool((channel_state.gain == 1).all())
    precoding, gain = channel_state.precoding.to(signal_norms), channel_state.gain.to(signal_norms)
    strongest = (signal_norms * precoding.unsqueeze(1)).amax(dim=0)
    amplitude = amplitudes(strongest, power)
    unit = units(amplitude, strongest)
    amplitude /= unit
    client_power = torch.zeros_like(precoding)
    signal_energy, noise_energy = client_power.new_zeros(2)
    scales = torch.where(amplitude > 0, 1 / (ctx.averaged * amplitude), 0.0)
    noise_std = ctx.noise_std * channel_state.noise_scale
    levels = noise_std / unit
    stds = levels * scales
    noiseless = noise_std == 0
    estimates = [s.new_zeros(s.shape[1:]) for s in signals.values()] if noiseless else draw_noise(signals, ctx)
    walk = zip(signals.values(), estimates, unit, amplitude, scales, levels, stds, strict=True)
    for signal, y, one, a, scale, level, std in walk:
        factor = (a * precoding).to(signal.dtype).unsqueeze(1)
        rows = as_rows(signal)
        columns = _columns(rows)
        pieces = zip(torch.split(rows, columns, dim=1), torch.split(y.view(1, -1), columns, dim=1), strict=True)
        for piece, here in pieces:
            transmitted = piece * factor
            client_power += (norm(transmitted) * one).square()
            arrived = transmitted if aligned else transmitted.mul_(gain.to(signal.dtype).unsqueeze(1))
            summed = arrived.sum(dim=0, keepdim=True)
            signal_energy += (norm(summed)[0] * scale).square()
            here.mul_(level).add_(summed).mul_(scale)
        noise_energy += std.square() * y.numel()
    uses = sum(y.numel() for y in estimates)
    spent = ChannelUsage(client_power.cpu(), uses, uses, float(signal_energy), float(noise_energy))
    return Received(dict(zip(signals, estimates, strict=True)), dict(zip(signals, stds, strict=True))), spent


def amplitudes(
    strongest: Float64[Tensor, " signals"], power: Float64[Tensor, " signals"]
) -> Float64[Tensor, " signals"]:
    """Return a_l = √P_l / strongest; 0 where nobody has anything to send, 1 at infinite power."""
    return torch.where(strongest == 0, 0.0, torch.where(torch.isinf(power), 1.0, power.sqrt() / strongest))


def units(
    amplitude: Float64[Tensor, " signals"], strongest: Float64[Tensor, " signals"]
) -> Float64[Tensor, " signals"]:
    """Return powers of two in which a transmission is about √strongest, half-way between 1 and the signal.

    The unit of a signal that is zero at every client is 1.
    """
    middle = amplitude * strongest.sqrt()
    return torch.where(middle > 0, middle / torch.frexp(middle).mantissa, 1.0)


def draw_noise(signals: Tensors, ctx: RoundContext) -> list[Tensor]:
    """Draw unit-variance noise shaped like each signal without its clients axis, in one call."""
    first = next(iter(signals.values()))
    shapes = [signal.shape[1:] for signal in signals.values()]
    sizes = [prod(shape) for shape in shapes]
    generator = ctx.streams.generator("channel noise", ctx.round, ctx.phase, device=first.device)
    flat = torch.randn(sum(sizes), generator=generator, dtype=first.dtype, device=first.device)
    return [z.view(shape) for z, shape in zip(torch.split(flat, sizes), shapes, strict=True)]


def _columns(rows: Float[Tensor, "clients values"]) -> int:
    """Choose as many columns as stay in a processor's cache on their way through the air; on a GPU all."""
    return max(1, rows.shape[1] if rows.is_cuda else PIECE // len(rows))
