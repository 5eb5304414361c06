"""Accuracy over power: LASER and Z-SGD over every channel, and the digital rival beside them.

On MNIST with the paper's setting, mean of three seeds.
"""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from simulations.figures.base import Figure, Grid

POWERS = (0.1, 0.3, 1.0, 3.0, 10.0)
STRONG = (100.0, 1000.0, 10000.0)
SEEDS = (0, 1, 2)
SCORE = "best_ema_test_accuracy"
AIR: dict[str, dict[str, Any]] = {
    "ideal (awgn)": {"channel": "awgn"},
    "Rayleigh, truncated inversion": {"channel": "fading", "gain-threshold": 0.1},
    "blind, 16 antennas": {"channel": "blind", "antennas": 16},
    "blind, 256 antennas": {"channel": "blind", "antennas": 256},
}
ANALOG = {"laser": "LASER", "z-sgd": "Z-SGD"}


def draw(results: pd.DataFrame) -> Picture:
    """Two panels: the channels, and analog against digital up to powers at which bits get through."""
    with matplotlib.rc_context({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}):
        picture = Picture(figsize=(10, 4.2), layout="constrained")
        left, right = picture.subplots(1, 2)
        for index, (label, keys) in enumerate(AIR.items()):
            chosen = results[(results[list(keys)] == pd.Series(keys)).all(axis=1)]
            for strategy, line in zip(ANALOG, ("-", "--"), strict=True):
                curve = chosen[(chosen.strategy == strategy) & chosen.power.isin(POWERS)]
                _curve(
                    left,
                    curve,
                    color=f"C{index}",
                    ls=line,
                    lw=2.5 if index == 0 else 1.2,
                    label=label if line == "-" else None,
                )
        for strategy, colour in (("laser", "C2"), ("z-sgd", "C1"), ("d-dsgd", "C4")):
            curve = results[(results.strategy == strategy) & (results.channel == "awgn")]
            _curve(right, curve, color=colour, ls="--" if strategy == "z-sgd" else "-", label=strategy)
        left.plot([], [], color="grey", label="solid: LASER, dashed: Z-SGD")
        left.set(title="over every channel", ylabel="test accuracy, best average (%)")
        right.set(title="analog and digital, ideal channel")
        for axes in (left, right):
            axes.set(xlabel="power per client and round", xscale="log")
            axes.grid(alpha=0.3)
            axes.legend(loc="lower right", frameon=False)
    return picture


def _curve(axes: Axes, runs: pd.DataFrame, label: str | None, **style: Any) -> None:
    """The mean over seeds, and one standard deviation as a band."""
    scores = 100 * runs.groupby("power")[SCORE].agg(["mean", "std"])
    axes.plot(scores.index, scores["mean"], marker="o", ms=3, label=label, **style)
    low, high = scores["mean"] - scores["std"], scores["mean"] + scores["std"]
    axes.fill_between(scores.index, low, high, color=style["color"], alpha=0.15, lw=0)


CHANNELS = Figure(
    preset="mnist",
    grids=(
        *(Grid(keys, {"strategy": list(ANALOG), "power": POWERS, "seed": SEEDS}) for keys in AIR.values()),
        Grid({"channel": "awgn"}, {"strategy": [*ANALOG, "d-dsgd"], "power": POWERS + STRONG, "seed": SEEDS}),
    ),
    draw=draw,
)
