"""Drawings of a score over power, a curve per strategy: most of the paper's figures."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator, NullLocator

from simulations.figures.judges import scored
from simulations.results import AVERAGED, FINAL, metric_of

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
MOST_TICKS = 10
NAMES = {AVERAGED: "best average", FINAL: "final"}
COLOURS = {
    "laser": "C2", "z-sgd": "C1", "sgd": "C0", "signum": "C3", "random-k": "C4", "sketch": "C5", "a-dsgd": "C6",
    "d-dsgd": "C7", "laser-adaptive": "C8",
}  # fmt: skip


def over_power(results: pd.DataFrame, scores: Sequence[str] = (AVERAGED,)) -> Picture:
    """Draw the score of every strategy over power, noiseless SGD as a line across; a panel for each of `scores`."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4 * len(scores), 4.2), layout="constrained")
        for axes, score in zip(picture.subplots(1, len(scores), squeeze=False).flat, scores, strict=True):
            across(axes, results, score)
            rest = scored(results, score)
            for strategy in dict.fromkeys(rest["strategy"][rest["strategy"] != "sgd"]):
                runs = rest[rest["strategy"] == strategy]
                curve(axes, runs, color=COLOURS[strategy], label=strategy, score=score)
            finish(axes, results, score=score)
            axes.legend(frameon=False, loc="best" if axes.get_yscale() == "linear" else "upper right")
    return picture


def across(axes: Axes, results: pd.DataFrame, score: str = AVERAGED) -> None:
    """Draw noiseless SGD as a line across, where it was run.

    Args:
        axes: to draw on.
        results: a row per run.
        score: a key of NAMES.
    """
    runs = scored(results, score)
    runs = runs[runs["strategy"] == "sgd"]
    if len(runs):
        axes.axhline(runs["score"].mean(), color=COLOURS["sgd"], ls="--", label="sgd, no noise")


def curve(
    axes: Axes, runs: pd.DataFrame, label: str | None, over: str = "power", score: str = AVERAGED, **style: Any
) -> None:
    """Draw the mean over seeds, and one standard deviation as a band.

    Args:
        axes: to draw on.
        runs: of the curve, a row each.
        label: for the legend; None: no entry.
        over: the column along the axis.
        score: a key of NAMES.
        **style: of the line, with its color.
    """
    means = scored(runs, score).groupby(over)["score"].agg(["mean", "std"])
    axes.plot(means.index, means["mean"], marker="o", ms=3, label=label, **style)
    low, high = means["mean"] - means["std"], means["mean"] + means["std"]
    axes.fill_between(means.index, low, high, color=style["color"], alpha=0.15, lw=0)


def finish(
    axes: Axes,
    results: pd.DataFrame,
    over: str = "power",
    label: str = "power per client and round",
    score: str = AVERAGED,
) -> None:
    """Name the axes, which are logarithmic where the metric's scale is, and write their ticks as plain numbers.

    Args:
        axes: to finish.
        results: a row per run.
        over: the column along the axis.
        label: of that axis.
        score: a key of NAMES.
    """
    metric = metric_of(results, score)
    axes.set(ylabel=f"test {metric.label}, {NAMES[score]}")
    if metric.scale(axes) == "log":
        axes.set(yscale="log")
        axes.yaxis.set(major_locator=MaxNLocator(6), major_formatter="{x:g}", minor_locator=NullLocator())
    axes.set(xlabel=label, xscale="log")
    ticks = sorted(value for value in results[over].unique() if value < float("inf"))
    if len(ticks) <= MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(alpha=0.3)
