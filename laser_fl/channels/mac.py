"""The walk through the air: scale to the budget, add up, add noise, scale back.

Client i transmits x_il = a_l b_i s_il, b_i its precoding, with one amplitude for all, a_l = √P_l / max_i (b_i ‖s_il‖),
so that nobody exceeds P_l. The server receives y_l = Σ_i g_i x_il + ν z, z ~ N(0, σ² I), and takes y_l / (n a_l) for
the mean over n clients: on ideal links (b = g = ν = 1) that is mean_i s_il + (c_l σ / (n √P_l)) z, c_l = max_i ‖s_il‖.
The weights w_i of a weighted mean are part of the precoding: clients send b_i w_i s_il, for which the budget holds.
So are the shares f_il of signals that the norm cap clips: each client gets an amplitude of its own, a_l f_il.
A signal that is zero at every client is received as exactly zero. At infinite power the amplitude is 1 and there is no
noise. Transmitted values are counted in a unit of each signal's own, a power of two, so that neither much power nor
small signals leave the range of float32; no rounding depends on it.

Source: paper, Eq. (1), (2), (noisy channel) and §F.1; the channel state is ours.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from laser_fl.blocks import Tensors, as_rows, norms_of_each, to_device, to_host
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
    shares: Float64[Tensor, "clients signals"] | None = None,
    superposed: bool = False,
) -> tuple[Received, ChannelUsage]:
    """Send all transmitters' signals at once and estimate their mean over ctx.averaged clients.

    Signals that are superposed already get the amplitude all at once, and energies follow from their norms.

    Args:
        signals: by name (transmitters, *shape).
        signal_norms: as the transmitters report them.
        power: budget of each signal, linear; no transmitter's total may exceed ctx.power.
        channel_state: of the transmitters.
        ctx: of the exchange.
        shares: of each signal that is sent; None: all of all.
        superposed: True where `signals` are Σ_i g_i b_i f_i s_i, by name (1, *shape).

    Returns:
        The estimates with the standard deviation of their noise, and the cost.
    """
    like, sizes = next(iter(signals.values())), _sizes(signals)
    noise_std = ctx.noise_std * channel_state.noise_scale
    precoding = channel_state.precoding.numpy()[:, np.newaxis]
    if shares is not None:
        precoding = precoding * shares.numpy()
    scaling = _scaling(signal_norms, power, precoding, noise_std, ctx.averaged)
    received = draw_noise(signals, ctx) if noise_std > 0 else like.new_zeros(sum(sizes))
    factors = torch.from_numpy(scaling.amplitude if superposed else scaling.factors).to(like.dtype)
    aligned = superposed or channel_state.aligned
    gain = None if aligned else channel_state.gain.to(like.dtype).unsqueeze(1)
    walk = _through_the_air_of_a_gpu if like.is_cuda else _through_the_air
    client_power, signal_energy = walk(signals, received, factors, gain, scaling)
    if superposed:
        client_power = torch.from_numpy(((signal_norms.numpy() * scaling.factors * scaling.units) ** 2).sum(axis=1))
    std = scaling.level * scaling.scale
    noise_energy = float((std**2 * sizes).sum())
    spent = ChannelUsage(client_power, len(received), len(received), signal_energy, noise_energy)
    stds = to_device(torch.from_numpy(std), like.device).unbind()
    return Received(apart(received, signals), dict(zip(signals, stds, strict=True))), spent


def amplitudes(strongest: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Return a_l = √P_l / strongest; 0 where nobody has anything to send, 1 at infinite power.

    strongest: the largest norm that a client sends, (signals,). power: linear, (signals,). Source: paper, §F.1.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(strongest == 0, 0.0, np.where(np.isinf(power), 1.0, np.sqrt(power) / strongest))


def units(amplitude: np.ndarray, strongest: np.ndarray) -> np.ndarray:
    """Return powers of two in which a transmission is about √strongest, half-way between 1 and the signal.

    The unit of a signal that is zero at every client is 1. Both arguments and the result are (signals,).
    """
    middle = amplitude * np.sqrt(strongest)
    return np.where(middle > 0, np.ldexp(1.0, np.frexp(middle)[1]), 1.0)


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


class _Scaling(NamedTuple):
    """The numbers by which signals are multiplied on their way; NumPy is quicker with few of them.

    precoding: b_i, (clients, 1), or b_i f_il, (clients, signals).
    amplitude: a_l, in units of the signals, (1, signals). units: (signals,).
    level: of the noise, (signals,). scale: of the received sum, (signals,).
    """

    precoding: np.ndarray
    amplitude: np.ndarray
    level: np.ndarray
    scale: np.ndarray
    units: np.ndarray

    @property
    def factors(self) -> np.ndarray:
        """The factors of each client's signals, a_l b_i, (clients, signals)."""
        factors: np.ndarray = self.precoding * self.amplitude
        return factors


def _scaling(
    signal_norms: Float64[Tensor, "clients signals"],
    power: Float64[Tensor, " signals"],
    precoding: np.ndarray,
    noise_std: float,
    averaged: int,
) -> _Scaling:
    strongest = (signal_norms.numpy() * precoding).max(axis=0)
    amplitude = amplitudes(strongest, power.numpy())
    unit = units(amplitude, strongest)
    amplitude /= unit
    scale = np.divide(1.0, averaged * amplitude, out=np.zeros_like(amplitude), where=amplitude > 0)
    return _Scaling(precoding, amplitude[np.newaxis], noise_std / unit, scale, unit)


def _through_the_air(
    signals: Tensors, received: Float[Tensor, " values"], factors: Tensor, gain: Tensor | None, scaling: _Scaling
) -> tuple[Float64[Tensor, " clients"], float]:
    """Add up what clients transmit, onto the noise in `received`, in pieces that stay in a processor's cache.

    Args:
        signals: by name (clients, *shape).
        received: noise of unit variance, replaced by the estimates, of all signals side by side.
        factors: (clients, signals), in the signals' type.
        gain: (clients, 1), likewise; None where it is 1 for all.
        scaling: of the signals.

    Returns:
        The energy of each client's transmission, and that of the estimate without noise.
    """
    client_power, signal_energy = np.zeros(len(factors)), 0.0
    columns_of = torch.split(factors, 1, dim=1)
    for columns, rows, places in _pieces(signals, received):
        transmitted = torch._foreach_mul(rows, [columns_of[column] for column in columns])
        client_power += ((norms_of_each(transmitted).numpy() * scaling.units[columns]) ** 2).sum(axis=1)
        if gain is not None:
            torch._foreach_mul_(transmitted, [gain] * len(transmitted))
        summed = [values.sum(dim=0, keepdim=True) for values in transmitted]
        signal_energy += float(((norms_of_each(summed).numpy() * scaling.scale[columns]) ** 2).sum())
        torch._foreach_mul_(places, scaling.level[columns].tolist())
        torch._foreach_add_(places, summed)
        torch._foreach_mul_(places, scaling.scale[columns].tolist())
    return torch.from_numpy(client_power), signal_energy


class _Piece(NamedTuple):
    """A piece of the air: several small signals, or some columns of a large one.

    signals: their numbers. rows: their values, (clients, columns). places: of what is received, (1, columns).
    """

    signals: list[int]
    rows: list[Tensor]
    places: list[Tensor]


def _pieces(signals: Tensors, received: Float[Tensor, " values"]) -> Iterator[_Piece]:
    """Cut signals, and their places in what is received, into pieces of at most `PIECE` values of all clients."""
    places = torch.split(received.unsqueeze(0), _sizes(signals), dim=1)
    piece, room = _Piece([], [], []), PIECE
    for number, (signal, place) in enumerate(zip(signals.values(), places, strict=True)):
        row = as_rows(signal)
        if row.numel() > PIECE:
            columns = max(1, PIECE // len(row))
            for some, here in zip(torch.split(row, columns, dim=1), torch.split(place, columns, dim=1), strict=True):
                yield _Piece([number], [some], [here])
            continue
        if row.numel() > room:
            yield piece
            piece, room = _Piece([], [], []), PIECE
        piece.signals.append(number)
        piece.rows.append(row)
        piece.places.append(place)
        room -= row.numel()
    if piece.rows:
        yield piece


def _through_the_air_of_a_gpu(
    signals: Tensors, received: Float[Tensor, " values"], factors: Tensor, gain: Tensor | None, scaling: _Scaling
) -> tuple[Float64[Tensor, " clients"], float]:
    """Do as `_through_the_air`, with all signals in one piece: few launches, and one wait."""
    device, sizes = received.device, _sizes(signals)
    lengths = to_device(torch.tensor(sizes), device)
    owners = torch.repeat_interleave(torch.arange(len(sizes), device=device), lengths, output_size=len(received))
    level, scale, unit = (to_device(torch.from_numpy(one), device) for one in scaling[2:])
    numbers = to_device(factors, device), level, scale
    factor, noise, back = (one.to(received.dtype).index_select(-1, owners) for one in numbers)
    transmitted = torch.cat([as_rows(signal) for signal in signals.values()], dim=1).mul_(factor)
    client_power = _energies(transmitted, sizes, unit)
    if gain is not None:
        transmitted *= to_device(gain, device)
    summed = transmitted.sum(dim=0)
    signal_energy = _energies(summed.unsqueeze(0), sizes, scale)
    received.mul_(noise).add_(summed).mul_(back)
    client_power, signal_energy = to_host(client_power, signal_energy)
    return client_power, float(signal_energy)


def _energies(values: Float[Tensor, "clients values"], sizes: list[int], units: Tensor) -> Float64[Tensor, " clients"]:
    """Return the energy of each row, whose signals are counted in units."""
    return (norms_of_each(torch.split(values, sizes, dim=1)) * units).square().sum(dim=1)
