"""A score over power, a curve per strategy: most of the paper's figures; and the power that a target takes."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from simulations.sweep import score_of

STYLE: Any = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
COLOURS = {
    "laser": "C2", "z-sgd": "C1", "sgd": "C0", "signum": "C3", "random-k": "C4", "sketch": "C5", "a-dsgd": "C6",
    "d-dsgd": "C7",
}  # fmt: skip


def over_power(results: pd.DataFrame) -> Picture:
    """The score of every strategy over power, noiseless SGD as a line across."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        chosen = results[results["chosen"]] if "chosen" in results else results
        for strategy in dict.fromkeys(chosen["strategy"]):
            runs = chosen[chosen["strategy"] == strategy]
            if strategy == "sgd":
                score, percent = axis_of(results)
                axes.axhline(percent * runs[score].mean(), color=COLOURS["sgd"], ls="--", label="sgd, no noise")
            else:
                curve(axes, runs, color=COLOURS[strategy], label=strategy)
        finish(axes, results)
        axes.legend(frameon=False)
    return picture


def curve(axes: Axes, runs: pd.DataFrame, label: str | None, **style: Any) -> None:
    """The mean over seeds, and one standard deviation as a band."""
    score, percent = axis_of(runs)
    means = percent * runs.groupby("power")[score].agg(["mean", "std"])
    axes.plot(means.index, means["mean"], marker="o", ms=3, label=label, **style)
    low, high = means["mean"] - means["std"], means["mean"] + means["std"]
    axes.fill_between(means.index, low, high, color=style["color"], alpha=0.15, lw=0)


def finish(axes: Axes, results: pd.DataFrame) -> None:
    """Name the axes."""
    _, percent = axis_of(results)
    label = "test accuracy, best average (%)" if percent == 100 else "perplexity, best average"
    axes.set(xlabel="power per client and round", xscale="log", ylabel=label)
    axes.grid(alpha=0.3)


def axis_of(results: pd.DataFrame) -> tuple[str, int]:
    """(the score's column, what to multiply it with)."""
    score, _ = score_of(results)
    return score, 100 if score.endswith("accuracy") else 1


def power_needed(results: pd.DataFrame, strategy: str, target: float) -> float:
    """The least power at which the strategy's mean score reaches `target`, by log-interpolation; inf where none does.

    target: in %, or a perplexity.
    """
    score, percent = axis_of(results)
    runs = results[(results["strategy"] == strategy) & results.get("chosen", True)]
    means = percent * runs.groupby("power")[score].mean().sort_index()
    ahead = means - target if percent == 100 else target - means
    powers, values = np.log(means.index.to_numpy(dtype=float)), ahead.to_numpy()
    reached = np.flatnonzero(values >= 0)
    if len(reached) == 0:
        return math.inf
    first = int(reached[0])
    if first == 0:
        return float(np.exp(powers[0]))
    before = values[first - 1]
    share = -before / (values[first] - before)
    return float(np.exp(powers[first - 1] + share * (powers[first] - powers[first - 1])))


def reductions(
    results: pd.DataFrame, targets: Sequence[float], paper: Mapping[float, float] | None = None
) -> pd.DataFrame:
    """Per target, the power that LASER and Z-SGD need and their ratio, beside the paper's.

    The lowest power of the grid stands for all below it, so that a ratio may be larger than is said.
    """
    rows = []
    for target in targets:
        laser, z_sgd = (power_needed(results, strategy, target) for strategy in ("laser", "z-sgd"))
        ratio = z_sgd / laser if math.isfinite(laser) else math.nan
        row = {"target": target, "laser": laser, "z-sgd": z_sgd, "reduction": ratio}
        rows.append(row | ({"paper": paper[target]} if paper and target in paper else {}))
    return pd.DataFrame(rows)
