"""The promises of a channel, checked over participants, rounds, seeds and powers."""

import math
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from laser_fl.blocks import Block, Tensors, norms
from laser_fl.channels.base import Channel, ChannelState, ChannelUsage
from laser_fl.channels.mac import transmit
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import RoundContext
from laser_fl.testing.promises import Inspector, check_dataclass

CLIENTS = 5
ROUNDS, SEEDS = (0, 1, 7), (0, 3)
SOME = ((0, 1, 2, 3, 4), (1, 4), (2,))  # of the clients
DRAWS = 400  # channel states whose means are compared with theory
ERRORS = 5  # standard errors by which a mean may be off
BLOCKS = (Block("large", (30, 20)), Block("small", (50,)))
SHARES = torch.tensor([0.8, 0.2], dtype=torch.float64)
POWERS = (0.1, 5.0, 1e4)
MARGIN = 1e-5  # relative, of power: rounding of the transmitted values
ROUNDING = 1e-5  # relative, of a mean in float32
ALIGNED = 1e-12  # distance of precoding · gain from 1


def check_channel(channel: Channel) -> None:
    """Check that a channel keeps the promises of `Channel`.

    The cases are the same in every call, and take a few seconds.

    Args:
        channel: an instance with the options to check; others need calls of their own.

    Raises:
        BrokenPromiseError: it does not; the message names the promise, the numbers and the case.

    Example:
        >>> from laser_fl.channels.awgn import Awgn
        >>> check_channel(Awgn(noise_variance=1.0))
    """
    check_dataclass(channel, Channel)
    with Inspector(channel).no_errors():
        for participants, round, seed in product(SOME, ROUNDS, SEEDS):
            _check_state(channel, participants, round, seed)
        _check_noise_std(channel)
        _check_draws(channel)
        for power, round in product(POWERS, ROUNDS):
            _check_transmission(channel, power, round)
        _check_noise(channel)


def _check_state(channel: Channel, participants: tuple[int, ...], round: int, seed: int) -> None:
    own = Inspector(channel, f"round {round}, seed {seed}, participants {participants} of {CLIENTS}")
    state = channel.links(participants, CLIENTS, round, RandomStreams(seed))
    own.require(isinstance(state, ChannelState), "links must return a ChannelState", type(state).__name__)
    rows = _rows(state)
    for name, values in rows.items():
        shape = tuple(values.shape)
        own.require(shape == (len(participants),), f"{name} must have a row per participant", f"shape {shape}")
        own.require(values.dtype == torch.float64, f"{name} must be of float64", values.dtype)
        own.require(bool(values.isfinite().all()), f"{name} must be finite", values.tolist())
    for name in ("precoding", "snr_gain"):
        own.require(bool((rows[name] >= 0).all()), f"{name} must be >= 0", rows[name].tolist())
    valid = 0 <= state.noise_scale < math.inf
    own.require(valid, "noise_scale must be finite and >= 0", state.noise_scale)
    for chosen, of in ((channel, "a second call"), (replace(channel), "an equal channel")):
        again = chosen.links(participants, CLIENTS, round, RandomStreams(seed))
        same = again.noise_scale == state.noise_scale
        promise = f"{of} of links must draw the same from the same round and streams"
        own.require_same(promise, _rows(again), rows)
        own.require(same, promise, f"noise_scale {again.noise_scale}, {state.noise_scale} before")
    _check_subset(channel, own, participants, round, seed, rows)


def _check_subset(
    channel: Channel, own: Inspector, participants: tuple[int, ...], round: int, seed: int, rows: Tensors
) -> None:
    """Check that a client does not depend on others; only a receiver that combines antennas gives gains that do."""
    everyone = _rows(channel.links(range(CLIENTS), CLIENTS, round, RandomStreams(seed)))
    for name in ("precoding", "snr_gain"):
        promise = f"a client's {name} must not depend on the other participants"
        some = {str(client): value for client, value in zip(participants, rows[name], strict=True)}
        own.require_alike(promise, some, {str(client): everyone[name][client] for client in participants}, "client")


def _check_noise_std(channel: Channel) -> None:
    own = Inspector(channel)
    for clients in (1, CLIENTS, 1000):
        std, none = channel.noise_std(clients), replace(channel, noise_variance=0.0).noise_std(clients)
        own.require(0 <= std < math.inf, "noise_std must be finite and >= 0", f"{std} for {clients} clients")
        own.require(none == 0, "noise_std must be 0 at a noise_variance of 0", f"{none} for {clients} clients")


def _check_draws(channel: Channel) -> None:
    """Check means over rounds, each of another seed, so that a channel may change slowly over a run."""
    own, chances, transmitted, noise = Inspector(channel, f"{DRAWS} draws"), [], [], []
    for draw in range(DRAWS):
        streams = RandomStreams(draw)
        chance = channel.transmission_probability(CLIENTS, streams)
        shape = tuple(chance.shape)
        own.require(shape == (CLIENTS,), "transmission_probability must have a row per client", f"shape {shape}")
        valid = bool(((chance >= 0) & (chance <= 1)).all())
        own.require(valid, "transmission_probability must be in [0, 1]", chance.tolist())
        state = channel.links(range(CLIENTS), CLIENTS, draw, streams)
        chances.append(chance.double())
        transmitted.append(state.transmits.double())
        noise.append(state.noise_scale**2)
    _check_frequency(own, torch.stack(chances), torch.stack(transmitted))
    energy = torch.tensor(noise, dtype=torch.float64)
    off, error = abs(float(energy.mean()) - 1), float(energy.std()) / math.sqrt(DRAWS)
    promise = "noise_scale² must be 1 on average"
    own.require(off <= ERRORS * error + ALIGNED, promise, f"{float(energy.mean()):.3g}, standard error {error:.2g}")


def _check_frequency(own: Inspector, chances: Tensor, transmitted: Tensor) -> None:
    expected, frequency = chances.mean(dim=0), transmitted.mean(dim=0)
    error = (chances * (1 - chances)).sum(dim=0).sqrt() / DRAWS
    unlikely = torch.where(error > 0, 2 / DRAWS, 1e-12)  # near 0 and 1 the standard error is no guide
    off = (frequency - expected).abs() > ERRORS * error + unlikely
    for client in off.nonzero().flatten().tolist():
        numbers = f"client {client}: {frequency[client]:.3f}, not {expected[client]:.3f} ± {error[client]:.2g}"
        own.require(False, "clients must transmit as often as transmission_probability says", numbers)


def _check_transmission(channel: Channel, power: float, round: int) -> None:
    own = Inspector(channel, f"round {round}, power {power:g}")
    state = channel.links(range(CLIENTS), CLIENTS, round, RandomStreams(0))
    if not state.transmits.any():
        return
    signals, state = _signals(state), state.at(state.transmits)
    received, usage = _transmit(channel, signals, state, round, power)
    most = float(usage.client_power.max())
    own.require(most <= power * (1 + MARGIN), "no client may exceed its power budget", f"spent {most:.6g} of {power:g}")
    finite = all(bool(value.isfinite().all()) for value in received.values())
    own.require(finite, "the estimates must be finite")
    if _aligned(state):
        means = {name: signal.mean(dim=0) for name, signal in signals.items()}
        exact, _ = _transmit(channel, signals, state, round, math.inf)
        promise = "aligned signals must give the exact mean at infinite power"
        own.require_alike(promise, exact, means, "signal", ROUNDING)


def _check_noise(channel: Channel) -> None:
    """Check the noise of aligned signals against theory: (c ν σ / (n √P_l)) z, c = max_i (b_i ‖s_i‖)."""
    own, errors, power = Inspector(channel), [], 2.0
    for round in range(DRAWS // 4):
        state = channel.links(range(CLIENTS), CLIENTS, round, RandomStreams(0))
        if channel.noise_variance == 0 or not state.transmits.any() or not _aligned(state.at(state.transmits)):
            continue
        signals, state = _signals(state), state.at(state.transmits)
        received, _ = _transmit(channel, signals, state, round, power)
        for (name, signal), share in zip(signals.items(), SHARES.tolist(), strict=True):
            strongest = float((norms({name: signal}, len(signal))[:, 0] * state.precoding).max())
            noise = channel.noise_std(CLIENTS) * state.noise_scale
            std = strongest * noise / (len(signal) * math.sqrt(power * share))
            errors.append((received[name] - signal.mean(dim=0)).flatten() / std)
    if errors:
        _check_normal(own, torch.cat(errors))


def _check_normal(own: Inspector, errors: Tensor) -> None:
    mean, variance, count = float(errors.mean()), float(errors.var()), len(errors)
    own.require(abs(mean) <= ERRORS / math.sqrt(count), "noise must have mean 0", f"{mean:.2g} of {count} values")
    off = abs(variance - 1) <= ERRORS * math.sqrt(2 / count)
    own.require(off, "noise must have the variance of theory", f"{variance:.4g} times it, of {count} values")


def _rows(state: ChannelState) -> Tensors:
    return {"precoding": state.precoding, "gain": state.gain, "snr_gain": state.snr_gain}


def _aligned(state: ChannelState) -> bool:
    return bool(((state.precoding * state.gain - 1).abs() <= ALIGNED).all())


def _signals(state: ChannelState) -> Tensors:
    """Draw signals of the transmitters."""
    generator, count = RandomStreams(5).generator("signals"), int(state.transmits.sum())
    return {block.name: torch.randn(count, *block.shape, generator=generator, dtype=torch.float64) for block in BLOCKS}


def _transmit(
    channel: Channel, signals: Tensors, state: ChannelState, round: int, power: float
) -> tuple[Tensors, ChannelUsage]:
    """Send signals over the state of their transmitters."""
    transmitters = tuple(range(len(state.gain)))
    ctx = RoundContext(
        blocks=BLOCKS,
        round=round,
        phase=0,
        updates=round,
        power=power,
        noise_std=0.0 if math.isinf(power) else channel.noise_std(CLIENTS),
        clients=CLIENTS,
        participants=transmitters,
        transmitters=transmitters,
        averaged=len(transmitters),
        bits=(0.0,) * len(transmitters),
        streams=RandomStreams(0),
    )
    received, usage = transmit(signals, norms(signals, len(transmitters)), power * SHARES, state, ctx)
    return received.values, usage
