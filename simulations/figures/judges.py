"""Tables that say how far results are from the paper: scores, the power that a target takes, its sentences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from simulations.sweep import score_of


@dataclass(frozen=True)
class Scores:
    """Mean and standard deviation of the score over seeds, per cell, beside the paper's value and a verdict.

    cells: the keys that make a cell. paper: the paper's values by them; compared at `tolerance`, in the
    score's unit. Accuracies are in %. Verdict: ``within`` the tolerance of the paper, else ``better`` or ``worse``.
    """

    cells: tuple[str, ...] = ("strategy", "power")
    paper: Mapping[Any, float] = field(default_factory=dict)
    tolerance: float = 0.0

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """A row per cell."""
        _, best = score_of(results)
        grouped = scored(results).groupby(list(self.cells), sort=False)["score"]
        columns = {"mean": grouped.mean(), "std": grouped.std(), "seeds": grouped.count()}
        table = pd.DataFrame(columns).reset_index()
        if not self.paper:
            return table
        cells = [tuple(row) for row in table[list(self.cells)].itertuples(index=False)]
        table["paper"] = [self.paper.get(cell, math.nan) for cell in cells]
        ahead = (1 if best is max else -1) * (table["mean"] - table["paper"])
        table["verdict"] = [verdict(value, self.tolerance) for value in ahead.tolist()]
        return table


@dataclass(frozen=True)
class Reductions:
    """Per target, the power that LASER and Z-SGD need for it, and their ratio, beside the paper's.

    The ratio is that of the mean curves; low and high are its extremes over seeds. Where LASER reaches a target
    at the least power already, or Z-SGD does not at the largest, the true ratio is at least what is said
    (``bound``). Verdict: ``within`` a factor of `tolerance` of the paper, else ``better`` or ``worse``.

    targets: in %, or perplexities. paper: (LASER's power, Z-SGD's) by target; for other targets the median of
    its ratios stands. Source: paper, Tables 1, 6 and 11.
    """

    targets: Sequence[float]
    paper: Mapping[float, tuple[float, float]]
    tolerance: float

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """A row per target."""
        results = scored(results)
        typical = float(np.median([z / laser for laser, z in self.paper.values()]))
        rows = []
        for target in self.targets:
            ratio, bound = reduction(results, target)
            seeds = [reduction(runs, target)[0] for _, runs in results.groupby("seed")]
            laser, z_sgd = self.paper.get(target, (1.0, typical))
            ahead = math.log(ratio * laser / z_sgd) if math.isfinite(ratio) else math.nan
            row = {
                "target": target,
                "laser": power_needed(results, "laser", target),
                "z-sgd": power_needed(results, "z-sgd", target),
                "reduction": ratio,
                "low": min(seeds),
                "high": max(seeds),
                "bound": bound,
                "paper": z_sgd / laser,
                "verdict": verdict(ahead, math.log(self.tolerance)),
            }
            rows.append(row)
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper in our words, and how to tell whether results bear it out.

    check: mean score by cells, as large as it is good -> (what there is instead of a number, whether it holds).
    """

    text: str
    check: Callable[["pd.Series[float]"], tuple[str, bool]]


@dataclass(frozen=True)
class Claims:
    """What the paper says of a figure of which it gives no numbers. cells: by which the checks look scores up."""

    claims: tuple[Claim, ...]
    cells: tuple[str, ...] = ("strategy", "power")

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """A row per claim; verdict: ``holds`` or ``does not``."""
        _, best = score_of(results)
        means = scored(results).groupby(list(self.cells))["score"].mean() * (1 if best is max else -1)
        rows = []
        for claim in self.claims:
            ours, holds = claim.check(means)
            rows.append({"claim": claim.text, "ours": ours, "verdict": "holds" if holds else "does not"})
        return pd.DataFrame(rows)


def scored(results: pd.DataFrame) -> pd.DataFrame:
    """The results that count (of best-of keys, the chosen values), with a column ``score``: % or perplexity."""
    score, _ = score_of(results)
    chosen = results[results["chosen"]] if "chosen" in results else results
    return chosen.assign(score=chosen[score] * (100 if score.endswith("accuracy") else 1))


def verdict(ahead: float, tolerance: float) -> str:
    """``within``, ``better`` or ``worse``; nothing where there is nothing to compare with."""
    if math.isnan(ahead):
        return ""
    if abs(ahead) <= tolerance:
        return "within"
    return "better" if ahead > 0 else "worse"


def reduction(results: pd.DataFrame, target: float) -> tuple[float, str]:
    """(Z-SGD's power over LASER's at equal score, whether the true ratio is ``at least`` or ``at most`` this).

    The ratio is NaN where neither reaches the target above the least power, or LASER does not at all.
    """
    laser, z_sgd = (power_needed(results, strategy, target) for strategy in ("laser", "z-sgd"))
    least, largest = results["power"][results["strategy"] == "laser"].agg(["min", "max"])
    if math.isinf(laser) or max(laser, z_sgd) <= least:
        return math.nan, ""
    if math.isinf(z_sgd):
        return float(largest / laser), "at least"
    bounds = {(True, False): "at least", (False, True): "at most"}
    return z_sgd / laser, bounds.get((laser <= least, z_sgd <= least), "")


def power_needed(results: pd.DataFrame, strategy: str, target: float) -> float:
    """The least power at which the strategy's mean score reaches `target`, by log-interpolation; inf where none does.

    results: with a column ``score``. The least power of the grid stands for all below it.
    """
    _, best = score_of(results)
    means = results[results["strategy"] == strategy].groupby("power")["score"].mean().sort_index()
    ahead = (means - target if best is max else target - means).to_numpy()
    powers = np.log(means.index.to_numpy(dtype=float))
    reached = np.flatnonzero(ahead >= 0)
    if len(reached) == 0:
        return math.inf
    first = int(reached[0])
    if first == 0:
        return float(means.index[0])
    share = -ahead[first - 1] / (ahead[first] - ahead[first - 1])
    return float(np.exp(powers[first - 1] + share * (powers[first] - powers[first - 1])))
