"""Drawings of a score over power, a curve per strategy: most of the paper's figures; and of one over rounds."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture
from matplotlib.ticker import MaxNLocator, NullLocator

from simulations.figures.judges import scored
from simulations.figures.naming import name_curves
from simulations.look import CurveStyle, drawing_order, style_of
from simulations.results import AVERAGED, FINAL, metric_of

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
MOST_TICKS = 10
NAMES = {AVERAGED: "best average", FINAL: "final"}
BOTH_WEIGHTS = "thick: averaged weights; thin: current weights"
MARKER_SIZE = 4.5
MARKERS_APART = 0.2  # of the picture's diagonal, on curves with many points


def over_power(results: pd.DataFrame, scores: Sequence[str] = (AVERAGED,)) -> Picture:
    """Draw the score of every strategy over power, noiseless SGD as a line across; a panel for each of `scores`."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4 * len(scores), 4.2), layout="constrained")
        for axes, score in zip(picture.subplots(1, len(scores), squeeze=False).flat, scores, strict=True):
            across(axes, results, score)
            rest = scored(results, score)
            for strategy in drawing_order(dict.fromkeys(rest["strategy"][rest["strategy"] != "sgd"])):
                curve(axes, rest[rest["strategy"] == strategy], style_of(strategy), label=strategy, score=score)
            finish(axes, results, score=score)
            name_curves(axes)
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
        axes.axhline(runs["score"].mean(), label="sgd, no noise", **style_of("sgd").for_matplotlib())


def curve(
    axes: Axes,
    runs: pd.DataFrame,
    style: CurveStyle,
    label: str | None,
    over: str = "power",
    score: str = AVERAGED,
) -> None:
    """Draw the mean over seeds, and one standard deviation as a band.

    Args:
        axes: to draw on.
        runs: of the curve, a row each.
        style: of the curve.
        label: its name; None: it has none.
        over: the column along the axis.
        score: a key of NAMES.
    """
    means = scored(runs, score).groupby(over)["score"].agg(["mean", "std"])
    axes.plot(means.index, means["mean"], marker=style.marker, ms=MARKER_SIZE, label=label, **style.for_matplotlib())
    low, high = means["mean"] - means["std"], means["mean"] + means["std"]
    axes.fill_between(means.index, low, high, color=style.colour, alpha=0.15, lw=0)


def both_weights(
    axes: Axes,
    over: "pd.Series[Any]",
    averaged: "pd.Series[Any]",
    current: "pd.Series[Any]",
    style: CurveStyle,
    label: str,
) -> None:
    """Draw the scores of the averaged weights, and thin and faint those of the current ones.

    Args:
        axes: to draw on.
        over: positions along the axis.
        averaged: scores of the averaged weights.
        current: scores of the current weights.
        style: of the curve.
        label: its name.
    """
    start = 0.02 * len(axes.lines)  # markers of two curves that are one do not cover each other
    marks: Any = {"marker": style.marker, "ms": MARKER_SIZE, "markevery": (start % MARKERS_APART, MARKERS_APART)}
    axes.plot(over, current, zorder=1, **style.for_matplotlib(current=True))
    axes.plot(over, averaged, label=label, **marks, **style.for_matplotlib())


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
