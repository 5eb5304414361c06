"""Tables that say how far results are from the paper: scores, the power that a target takes, its sentences."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from simulations.results import score_of, varied


@dataclass(frozen=True)
class Scores:
    """The score of every cell over seeds: mean, standard deviation, best; beside the paper's and a verdict on the mean.

    cells: the keys that make a cell. paper: the paper's values by them. tolerance: in points of accuracy, or the part
    of a perplexity. Accuracies are in %. Where values of some keys were searched, the chosen ones stand, too.
    The paper reports the best of three runs for its baselines (App. G), which is what ``best`` is of ours.
    """

    cells: tuple[str, ...] = ("strategy", "power")
    paper: Mapping[Any, float] = field(default_factory=dict)
    tolerance: float = 0.0

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """A row per cell; verdict: ``within`` the tolerance of the paper, else ``better`` or ``worse``."""
        _, best = score_of(results)
        results = scored(results)
        grouped = results.groupby(list(self.cells), sort=False)
        score = grouped["score"]
        columns = {"mean": score.mean(), "std": score.std(), "best": score.agg(best), "seeds": score.count()}
        searched = varied(results, (*self.cells, "seed", "out-dir", "data-dir")) if "chosen" in results else []
        columns |= {key: grouped[key].first() for key in searched}
        table = pd.DataFrame(columns).reset_index()
        if not self.paper:
            return table
        cells = [tuple(row) for row in table[list(self.cells)].itertuples(index=False)]
        table["paper"] = [self.paper.get(cell, math.nan) for cell in cells]
        ahead = table["mean"] - table["paper"] if best is max else (table["paper"] - table["mean"]) / table["paper"]
        table["tol."] = self.tolerance
        table["verdict"] = [verdict(value, self.tolerance) for value in ahead.tolist()]
        return table


@dataclass(frozen=True)
class Reductions:
    """Per target, the power that LASER and Z-SGD need for it, and their ratio, beside the paper's.

    The ratio is that of the mean curves; low and high are its extremes over single seeds, of which ``seeds`` have one.
    Where the grid of powers ends before a curve reaches the target, the true ratio is ``at least`` or ``at most`` what
    is said (``bound``, of the mean curves). Verdict: ``within`` a factor of `tolerance` of the paper, else ``better``
    or ``worse``; none where a bound leaves it open.

    targets: in %, or perplexities. paper: (LASER's power, Z-SGD's) by target; for other targets, which the paper does
    not have, the median of its ratios stands. Source: paper, Tables 1, 6 and 11.
    """

    targets: Sequence[float]
    paper: Mapping[float, tuple[float, float]]
    tolerance: float = 2.0

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """A row per target."""
        return pd.DataFrame([self._row(scored(results), target) for target in self.targets])

    def _row(self, results: pd.DataFrame, target: float) -> dict[str, float | str]:
        ratio, bound = reduction(results, target)
        single = [reduction(runs, target)[0] for _, runs in results.groupby("seed")]
        finite = [value for value in single if math.isfinite(value)]
        typical = float(np.median([z_sgd / laser for laser, z_sgd in self.paper.values()]))
        laser, z_sgd = self.paper.get(target, (1.0, typical))
        judged = verdict(math.log(ratio * laser / z_sgd), math.log(self.tolerance))
        settled = {"": True, "at least": judged == "better", "at most": judged == "worse"}[bound]
        return {
            "target": target,
            "laser": power_needed(results, "laser", target),
            "z-sgd": power_needed(results, "z-sgd", target),
            "ratio": ratio,
            "low": min(finite, default=math.nan),
            "high": max(finite, default=math.nan),
            "seeds": len(finite),
            "bound": bound,
            "paper": z_sgd / laser,
            "tol.": self.tolerance,
            "verdict": judged if settled else "",
        }


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
        """A row per claim; verdict: ``holds`` or ``does not``, or ``incomplete`` where a cell of the table is empty."""
        _, best = score_of(results)
        noisy = scored(results)
        noisy = noisy[noisy["strategy"] != "sgd"]
        means = noisy.groupby(list(self.cells))["score"].mean() * (1 if best is max else -1)
        complete = len(means) == math.prod(noisy[key].nunique() for key in self.cells)
        rows = []
        for claim in self.claims:
            ours, holds = claim.check(means) if complete else ("", False)
            judged = ("holds" if holds else "does not") if complete else "incomplete"
            rows.append({"claim": claim.text, "ours": ours, "verdict": judged})
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
    powers = results["power"][results["strategy"] == "z-sgd"]
    least = results["power"].min()
    if math.isinf(laser) or powers.empty or max(laser, z_sgd) <= least:
        return math.nan, ""
    if math.isinf(z_sgd):
        return float(powers.max() / laser), "at least"
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
