"""A score over power, a curve per strategy: most of the paper's figures."""

from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator, NullLocator

from simulations.figures.judges import scored
from simulations.results import score_of

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
MOST_TICKS = 10
COLOURS = {
    "laser": "C2", "z-sgd": "C1", "sgd": "C0", "signum": "C3", "random-k": "C4", "sketch": "C5", "a-dsgd": "C6",
    "d-dsgd": "C7", "laser-adaptive": "C8",
}  # fmt: skip


def over_power(results: pd.DataFrame) -> Picture:
    """The score of every strategy over power, noiseless SGD as a line across."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        across(axes, results)
        rest = scored(results)
        for strategy in dict.fromkeys(rest["strategy"][rest["strategy"] != "sgd"]):
            curve(axes, rest[rest["strategy"] == strategy], color=COLOURS[strategy], label=strategy)
        finish(axes, results)
        axes.legend(frameon=False, loc="best" if axes.get_yscale() == "linear" else "upper right")
    return picture


def across(axes: Axes, results: pd.DataFrame) -> None:
    """Noiseless SGD as a line across, where it was run."""
    runs = scored(results)
    runs = runs[runs["strategy"] == "sgd"]
    if len(runs):
        axes.axhline(runs["score"].mean(), color=COLOURS["sgd"], ls="--", label="sgd, no noise")


def curve(axes: Axes, runs: pd.DataFrame, label: str | None, over: str = "power", **style: Any) -> None:
    """The mean over seeds, and one standard deviation as a band. over: the column along the axis."""
    means = scored(runs).groupby(over)["score"].agg(["mean", "std"])
    axes.plot(means.index, means["mean"], marker="o", ms=3, label=label, **style)
    low, high = means["mean"] - means["std"], means["mean"] + means["std"]
    axes.fill_between(means.index, low, high, color=style["color"], alpha=0.15, lw=0)


def finish(axes: Axes, results: pd.DataFrame, over: str = "power", label: str = "power per client and round") -> None:
    """Name the axes, which are logarithmic but for accuracies, and write their ticks as plain numbers.

    over: the column along the axis.
    """
    _, best = score_of(results)
    if best is max:
        axes.set(ylabel="test accuracy, best average (%)")
    else:
        axes.set(ylabel="perplexity, best average", yscale="log")
        axes.yaxis.set(major_locator=MaxNLocator(6), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.set(xlabel=label, xscale="log")
    ticks = sorted(value for value in results[over].unique() if value < float("inf"))
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
