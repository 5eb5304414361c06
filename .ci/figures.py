"""Draw the pictures of docs/concepts from the library's own code.

$ python .ci/figures.py               # all, into docs/figures
$ python .ci/figures.py round snr     # some of them
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path[0] = str(ROOT)

import laser_fl as lf  # noqa: E402
from simulations.look import style_of  # noqa: E402

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
FEW, MANY = style_of("laser").colour, style_of("z-sgd").colour
GREY = "#555555"
NAME = "weight"  # of the only tensor of a model
WIDTH = 128  # of the small network's layers


def aggregated(signals: Tensor, power: float, **options: Any) -> tuple[Tensor, lf.OverTheAir]:
    """Send one round of gradients, (clients, *shape), through the air; return the update, and the air afterwards."""
    model = {NAME: torch.zeros(signals.shape[1:])}
    ota = lf.OverTheAir(model, power=power, clients=len(signals), **{"scheme": "z-sgd", **options})
    update = ota.aggregate({NAME: signals})
    assert update is not None
    return update[NAME], ota


def a_round() -> Figure:
    """Draw the signals of three clients, what the server receives, and the mean that it makes of it."""
    places, power = torch.linspace(0, 1, 60), 60.0
    signals = torch.stack([(2 * torch.pi * (places + shift)).sin() + tilt * places for shift, tilt in TUNES])
    estimate, _ = aggregated(signals, power)
    amplitude = power**0.5 / signals.norm(dim=1).max()
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    sent, received, mean = figure.subplots(1, 3)
    for signal, dash in zip(signals, ("-", "--", ":"), strict=True):
        sent.plot(amplitude * signal, color=GREY, ls=dash)
    received.plot(amplitude * signals.sum(dim=0), color=GREY)
    received.plot(len(signals) * amplitude * estimate, ".", color=MANY)
    mean.plot(signals.mean(dim=0), color=GREY, label="true mean")
    mean.plot(estimate, ".", color=FEW, label="estimate")
    mean.legend(frameon=False, fontsize=9)
    titles = "1. three clients transmit", "2. the air adds up, with noise", "3. the server scales back"
    for axes, title in zip((sent, received, mean), titles, strict=True):
        axes.set(title=title, xlabel="value")
    return figure


TUNES = (0.0, 0.3), (0.06, -0.2), (-0.05, 0.5)


def sharing() -> Figure:
    """Draw the same power on 10 values and on 1,000, with the noise."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    for axes, count, colour in zip(figure.subplots(1, 2, sharey=True), (10, 1000), (FEW, MANY), strict=True):
        signs = torch.ones(1, count)
        signs[:, 1::2] = -1
        estimate, ota = aggregated(signs, power=100.0)
        height = (100.0 / count) ** 0.5
        axes.axhspan(-1, 1, color="0.9", label="noise, ± one standard deviation")
        shown = slice(0, 40)
        axes.plot(height * signs[0, shown], "_", color=GREY, ms=9, label="transmitted")
        axes.plot(height * estimate[shown], ".", color=colour, ms=8, label="received")
        some = "" if count <= 40 else " (40 of them shown)"
        axes.set(title=f"{count:,} values{some}: SNR {ota.ledger[-1].snr_db:.0f} dB", xlabel="value")
    axes.legend(frameon=False, fontsize=9, loc="upper right")
    return figure


def snr() -> Figure:
    """Draw the SNR over power as the ledger measures it, and as the formula has it."""
    clients, powers = 16, np.logspace(-2, 3, 6)
    figure = Figure(figsize=(6.4, 3.6), layout="constrained")
    axes = figure.subplots()
    for count, colour, marker in ((2_000, FEW, "o"), (200_000, MANY, "s")):
        same = torch.randn(1, count, generator=torch.Generator().manual_seed(0)).expand(clients, count)
        measured = [aggregated(same, float(power))[1].ledger[-1].snr_db for power in powers]
        axes.plot(powers, 10 * np.log10(clients**2 * powers / count), color=colour)
        axes.plot(powers, measured, marker, color=colour)
        axes.annotate(f"   {count:,} values", (powers[-1], measured[-1] + 1), color=colour, va="bottom")
    axes.axhline(0, color=GREY, lw=0.8, ls=":")
    axes.annotate("signal as strong as noise", (powers[0], 0.5), color=GREY, fontsize=9, va="bottom")
    axes.set(xscale="log", xlabel="power per client and round, P", ylabel="SNR (dB)", xlim=(None, 6e4))
    axes.set_xticks(powers)
    axes.set_xticks([], minor=True)
    return figure


def side_channel() -> Figure:
    """Draw how many values go over the air, beside it and down, in a round of Z-SGD and of LASER."""
    names = ("over the air, up", "side channel", "model and bases, down")
    figure = Figure(figsize=(7, 2.9), layout="constrained")
    axes = figure.subplots()
    for offset, scheme, colour, hatch in ((0.2, "z-sgd", MANY, ""), (-0.2, "laser", FEW, "//")):
        record = ledger_of(scheme)[-1]
        counts = record.uplink_floats, record.side_channel_floats, record.downlink_floats
        places = np.arange(3)[::-1] + offset
        axes.barh(places, counts, 0.38, color=colour, hatch=hatch, edgecolor="white", label=scheme)
        for place, count in zip(places, counts, strict=True):
            axes.annotate(f" {count:,}", (count, place), va="center", fontsize=9)
    axes.set(xscale="log", xlim=(1, 3e6), xlabel="values in a round, per client")
    axes.set_yticks(np.arange(3)[::-1], names)
    axes.legend(frameon=False, loc="upper right")
    return figure


def network() -> nn.Sequential:
    """Return a small network, always with the same weights."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, 8))


def batches(round: int, clients: int = 8) -> list[tuple[Tensor, Tensor]]:
    """Return a batch for each client: noisy points of eight classes."""
    draw = torch.Generator().manual_seed(round)
    labels = torch.randint(8, (clients, 32), generator=draw)
    points = torch.eye(8)[labels].repeat(1, 1, 8) + 0.8 * torch.randn(clients, 32, 64, generator=draw)
    return list(zip(points, labels, strict=True))


def trained(scheme: str, rounds: int, **options: Any) -> tuple[nn.Module, lf.OverTheAir]:
    """Train the small network; return it with the air that it was trained over."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    ota = lf.OverTheAir(model, scheme=scheme, clients=8, rounds=rounds, **options)
    for round in range(rounds):
        gradients = lf.gradients(model, nn.functional.cross_entropy, batches(round))
        lf.step(optimizer, model, ota.aggregate(gradients))
    return model, ota


def ledger_of(scheme: str) -> Any:
    """Return the ledger of two rounds of training."""
    return trained(scheme, 2)[1].ledger


def error_feedback() -> Figure:
    """Draw how much of a constant gradient has arrived: with a memory, and without."""
    rounds, count = 60, 20
    ota = lf.OverTheAir({NAME: torch.zeros(count)}, scheme="random-k", compression_factor=0.1, power=1e9, clients=1)
    ones = {NAME: torch.ones(1, count)}
    updates = torch.stack([ota.aggregate(ones)[NAME][0] for _ in range(rounds)])  # type: ignore[index]
    rows = np.arange(1, rounds + 1)
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    axes.plot(rows, rows, color=GREY, lw=1, label="the gradients, added up")
    axes.step(rows, updates.cumsum(0), where="post", color=FEW, label="arrived, with a memory")
    axes.step(rows, updates.clamp(max=1).cumsum(0), where="post", color=MANY, ls="--", label="arrived, without")
    axes.set(xlabel="round", ylabel="sum of one value")
    axes.legend(frameon=False)
    return figure


def low_rank() -> Figure:
    """Draw a gradient, the two factors that LASER's approximation of it consists of, and how much they hold."""
    model, _ = trained("sgd", 60)
    gradient = lf.gradients(model, nn.functional.cross_entropy, batches(1000))["2.weight"].mean(dim=0)
    approximation = approximated(gradient)
    left, values, right = torch.linalg.svd(approximation)
    figure = Figure(figsize=(9, 3.0), layout="constrained")
    whole, factors, energy = figure.subplots(1, 3, width_ratios=(1, 1.25, 1.2))
    limit = float(gradient.abs().quantile(0.995))
    heat(whole, gradient, limit, f"the gradient: {gradient.numel():,} values")
    thick, columns = 5, left[:, :2] * values[:2].sqrt()
    rows = right[:2] * values[:2].sqrt().unsqueeze(1)
    canvas = torch.full((WIDTH, WIDTH + 30), float("nan"))
    canvas[:, : 2 * thick] = columns.repeat_interleave(thick, dim=1)
    canvas[: 2 * thick, 30:] = rows.repeat_interleave(thick, dim=0)
    heat(factors, canvas, float(columns.abs().quantile(0.99)), f"two factors: {4 * WIDTH:,} values")
    factors.text(20, 2 * thick, "×", fontsize=14, ha="center")
    held = gradient_energy(gradient)
    ranks = np.arange(1, 17)
    energy.plot(ranks, 100 * held[:16], "o-", color=GREY, ms=3, label="best of this rank")
    share = 100 * (1 - (gradient - approximation).norm() ** 2 / gradient.norm() ** 2)
    energy.plot([2], [share], "D", color=FEW, ms=8, label="LASER, rank 2")
    energy.set(xlabel="rank", ylabel="energy held (%)", ylim=(0, 105), title="how much a low rank holds")
    energy.legend(frameon=False, loc="lower right")
    return figure


def approximated(gradient: Tensor) -> Tensor:
    """Return what LASER delivers of a gradient without noise, once its factors have come to rest."""
    ota = lf.OverTheAir({NAME: torch.zeros(gradient.shape)}, scheme="laser", rank=2, power=float("inf"), clients=1)
    update = torch.zeros_like(gradient)
    for _ in range(20):
        state = ota.state_dict()
        ota.load_state_dict(state | {"memory": {}})  # the gradient alone, without what waits
        update = ota.aggregate({NAME: gradient.unsqueeze(0)})[NAME]  # type: ignore[index]
    return update


def gradient_energy(gradient: Tensor) -> np.ndarray:
    """Return the shares of the energy that the best approximations hold, by rank."""
    energy = torch.linalg.svdvals(gradient).square()
    shares: np.ndarray = (energy.cumsum(0) / energy.sum()).numpy()
    return shares


def heat(axes: Axes, matrix: Tensor, limit: float, title: str) -> None:
    """Draw a matrix in two colours, one for each sign."""
    axes.imshow(matrix, cmap="PuOr", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set(title=title, xticks=[], yticks=[])
    for side in axes.spines.values():
        side.set_visible(False)


def verified() -> Figure:
    """Draw the power that clients really used beside the budget of each round."""
    _, ota = trained("laser", 60, power=10.0, power_policy="steps-up")
    rounds = [record.round for record in ota.ledger]
    figure = Figure(figsize=(6.4, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.step(rounds, [r.power_budget for r in ota.ledger], where="mid", color=GREY, label="limit of the round")
    axes.plot(rounds, [r.max_power_used for r in ota.ledger], ".", color=FEW, label="largest power of any client")
    axes.set(xlabel="round", ylabel="power", ylim=(0, None))
    axes.legend(frameon=False, loc="upper left")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "round": a_round,
    "sharing": sharing,
    "snr": snr,
    "side-channel": side_channel,
    "error-feedback": error_feedback,
    "low-rank": low_rank,
    "verified": verified,
}


def main(names: list[str], folder: Path = ROOT / "docs/figures") -> None:
    """Draw the pictures of these names, or all."""
    torch.set_num_threads(1)
    for name in names or PICTURES:
        with matplotlib.rc_context(STYLE):
            PICTURES[name]().savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main(sys.argv[1:])
