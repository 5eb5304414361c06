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

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norm, to_device, to_host
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
    noise_std = ctx.noise_std * channel_state.noise_scale
    scale, level = torch.where(amplitude > 0, 1 / (ctx.averaged * amplitude), 0.0), noise_std / unit
    std, sizes = level * scale, _sizes(signals)
    like = next(iter(signals.values()))
    received = draw_noise(signals, ctx) if noise_std > 0 else like.new_zeros(sum(sizes))
    noise_energy = sum((std.square() * torch.tensor(sizes)).tolist())
    factors, gain = (precoding.unsqueeze(1) * amplitude).to(like.dtype), gain.unsqueeze(1).to(like.dtype)
    if like.is_cuda:
        numbers = factors, gain, level, scale, unit, std
        factors, gain, level, scale, unit, std = (to_device(one, like.device) for one in numbers)
    client_power, signal_energy = unit.new_zeros(len(gain)), unit.new_zeros(())
    for piece in _pieces(signals, received, factors, level, scale, unit):
        transmitted = piece.signals * piece.factor
        client_power += piece.energies(transmitted, piece.units)
        arrived = transmitted if aligned else transmitted.mul_(gain)
        summed = arrived.sum(dim=0, keepdim=True)
        signal_energy += piece.energies(summed, piece.scales)[0]
        piece.received.mul_(piece.level).add_(summed).mul_(piece.scale)
    client_power, signal_energy = to_host(client_power, signal_energy)
    spent = ChannelUsage(client_power, len(received), len(received), float(signal_energy), noise_energy)
    return Received(apart(received, signals), dict(zip(signals, std, strict=True))), spent


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


def draw_noise(signals: Tensors, ctx: RoundContext) -> Float[Tensor, " values"]:
    """Draw unit-variance noise for a client's values of all signals, side by side."""
    like = next(iter(signals.values()))
    values = like.new_empty(sum(_sizes(signals)))
    return ctx.streams.normal_like(values, "channel noise", ctx.round, ctx.phase)


def apart(values: Float[Tensor, " values"], signals: Tensors) -> Tensors:
    """View values that lie side by side as tensors shaped like each signal, without the clients axis."""
    parts = torch.split(values, _sizes(signals))
    return {name: part.view(s.shape[1:]) for (name, s), part in zip(signals.items(), parts, strict=True)}


def _sizes(signals: Tensors) -> list[int]:
    """Return the number of a client's values in each signal."""
    return [signal.numel() // len(signal) for signal in signals.values()]


class _Piece(NamedTuple):
    """A piece of the air: some columns of one signal, or several whole signals side by side.

    signals: of the transmitters. received: of the server, a view. factor, level, scale: of signals, of the noise and of
    their sum, for all columns or for each. units, scales: of each signal. sizes: their numbers of columns.
    """

    signals: Float[Tensor, "clients values"]
    received: Float[Tensor, "1 values"]
    factor: Float[Tensor, "_ _"]
    level: Tensor
    scale: Tensor
    units: Float64[Tensor, "*signals"]
    scales: Float64[Tensor, "*signals"]
    sizes: list[int]

    def energies(self, values: Float[Tensor, "clients values"], units: Tensor) -> Float64[Tensor, " clients"]:
        """Return the energy of each row, whose signals are counted in units."""
        if len(self.sizes) == 1:
            return (norm(values) * units).square()
        norms = torch.stack([norm(part) for part in torch.split(values, self.sizes, dim=1)], dim=1)
        return (norms * units).square().sum(dim=1)


def _pieces(
    signals: Tensors, received: Tensor, factors: Tensor, level: Tensor, scale: Tensor, unit: Tensor
) -> Iterator[_Piece]:
    """Cut the signals into pieces that stay in a processor's cache on their way; on a GPU all are one piece.

    Args:
        signals: by name (clients, *shape).
        received: (values,), of all signals.
        factors: (clients, signals), in the signals' type.
        level: (signals,).
        scale: (signals,).
        unit: (signals,).
    """
    rows, sizes = [as_rows(signal) for signal in signals.values()], _sizes(signals)
    if received.is_cuda and len(rows) > 1:
        lengths, count = to_device(torch.tensor(sizes), received.device), len(received)
        owners = torch.repeat_interleave(torch.arange(len(rows), device=received.device), lengths, output_size=count)
        factor, noise, back = (one.to(factors.dtype).index_select(-1, owners) for one in (factors, level, scale))
        yield _Piece(torch.cat(rows, dim=1), received.unsqueeze(0), factor, noise, back, unit, scale, sizes)
        return
    numbers = zip(torch.split(factors, 1, dim=1), level.unbind(), scale.unbind(), unit.unbind(), strict=True)
    for row, here, (factor, noise, back, one) in zip(rows, torch.split(received, sizes), numbers, strict=True):
        columns = row.shape[1] if row.is_cuda else max(1, PIECE // len(row))
        pieces = zip(torch.split(row, columns, dim=1), torch.split(here.unsqueeze(0), columns, dim=1), strict=True)
        for some, there in pieces:
            yield _Piece(some, there, factor, noise, back, one, back, [some.shape[1]])
