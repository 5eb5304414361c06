"""Tables of how far results are from the paper: scores, the power that a target takes, the paper's claims."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from simulations.results import AVERAGED, best_of, metric_of
from simulations.sweep import Grid


@dataclass(frozen=True)
class Scores:
    """The score of every cell over seeds: mean, standard deviation, best; beside the paper's and a verdict on the mean.

    cells: the keys that make a cell. paper: the paper's values by them. tolerance: in points of accuracy, or the part
    of a perplexity. Accuracies are in %. Where values of some keys were searched, the table has the chosen ones, too.
    The paper reports the best of three runs for its baselines (App. G); ``best`` is the same of our runs.
    score: AVERAGED or FINAL.
    """

    cells: tuple[str, ...] = ("strategy", "power")
    paper: Mapping[Any, float] = field(default_factory=dict)
    tolerance: float = 0.0
    score: str = AVERAGED

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return a row per cell; verdict: ``within`` the tolerance of the paper, else ``better`` or ``worse``."""
        metric = metric_of(results, self.score)
        results = scored(results, self.score)
        grouped = results.groupby(list(self.cells), sort=False)
        score = grouped["score"]
        columns = {"mean": score.mean(), "std": score.std(), "best": score.agg(metric.best), "seeds": score.count()}
        columns |= {key: grouped[key].first() for key in best_of(results)}
        table = pd.DataFrame(columns).reset_index()
        if not self.paper:
            return table
        cells = [tuple(row) for row in table[list(self.cells)].itertuples(index=False)]
        table["paper"] = [self.paper.get(cell, math.nan) for cell in cells]
        ahead = metric.sign * (table["mean"] - table["paper"]) / (1 if metric.in_percent else table["paper"])
        table["tol."] = self.tolerance
        table["verdict"] = [verdict(value, self.tolerance) for value in ahead.tolist()]
        return table


@dataclass(frozen=True)
class Reductions:
    """The power that LASER and Z-SGD need per target, and their ratio, beside the paper's.

    The ratio is that of the mean curves, which need not lie among those of the single seeds; low and high are the
    extremes of these, as far as the grid of powers settles them (``seeds`` of them). Where the grid ends before a mean
    curve reaches the target, the true ratio is ``at least`` or ``at most`` the given one (``bound``). Verdict:
    ``within`` a factor of `tolerance` of the paper, else ``better`` or ``worse``; none where a bound leaves it open.

    targets: in %, or perplexities. paper: (LASER's power, Z-SGD's) by target; for other targets, which the paper does
    not have, the median of its ratios stands. score: AVERAGED or FINAL. Source: paper, Tables 1, 6 and 11.
    """

    targets: Sequence[float]
    paper: Mapping[float, tuple[float, float]]
    tolerance: float = 2.0
    score: str = AVERAGED

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return a row per target."""
        runs = scored(results, self.score)
        return pd.DataFrame([self._row(runs, target) for target in self.targets])

    def _row(self, results: pd.DataFrame, target: float) -> dict[str, float | str]:
        ratio, bound = reduction(results, target)
        single = [reduction(runs, target) for _, runs in results.groupby("seed")]
        finite = [value for value, bound_of_seed in single if math.isfinite(value) and not bound_of_seed]
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
    """A claim of the paper in our words, and its check on results.

    check: mean score by cells, signed so that larger is better -> (our numbers as text, True where the claim holds).
    """

    text: str
    check: Callable[["pd.Series[float]"], tuple[str, bool]]


@dataclass(frozen=True)
class Claims:
    """Claims of the paper on a figure of which it gives no numbers.

    grid: the runs that the claims are about. cells: the keys by which the checks look scores up.
    score: AVERAGED or FINAL.
    """

    claims: tuple[Claim, ...]
    grid: Grid
    cells: tuple[str, ...] = ("strategy", "power")
    score: str = AVERAGED

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return a row per claim; verdict: ``holds``, ``does not``, or ``incomplete`` where a cell has no score."""
        sign = metric_of(results, self.score).sign
        means = sign * scored(results, self.score).groupby(list(self.cells))["score"].mean()
        asked = list(dict.fromkeys(tuple(values[key] for key in self.cells) for values in self.grid))
        complete = set(asked) <= set(means.index)
        rows = []
        for claim in self.claims:
            ours, holds = claim.check(means.loc[asked].sort_index()) if complete else ("", False)
            judged = ("holds" if holds else "does not") if complete else "incomplete"
            rows.append({"claim": claim.text, "ours": ours, "verdict": judged})
        return pd.DataFrame(rows)


def scored(results: pd.DataFrame, score: str = AVERAGED) -> pd.DataFrame:
    """Return the results that count (of best-of keys, the chosen values), with a column ``score``: % or perplexity."""
    metric = metric_of(results, score)
    chosen = results[results["chosen"]] if "chosen" in results else results
    return chosen.assign(score=metric.factor * chosen[f"{score}_{metric.name}"])


def verdict(ahead: float, tolerance: float) -> str:
    """Return ``within``, ``better`` or ``worse``; "" where there is nothing to compare with (`ahead` is NaN)."""
    if math.isnan(ahead):
        return ""
    if abs(ahead) <= tolerance:
        return "within"
    return "better" if ahead > 0 else "worse"


def reduction(results: pd.DataFrame, target: float) -> tuple[float, str]:
    """Return Z-SGD's power over LASER's at equal score, and its bound.

    The bound is ``at least`` or ``at most`` where the true ratio is only known to be that, else "". The ratio is NaN
    where neither reaches the target, or both do at their least powers already.
    """
    laser, z_sgd = (power_needed(results, strategy, target) for strategy in ("laser", "z-sgd"))
    powers = results.groupby("strategy")["power"].agg(["min", "max"])
    if not {"laser", "z-sgd"} <= set(powers.index) or min(laser, z_sgd) == math.inf:
        return math.nan, ""
    least, most = powers["min"], powers["max"]
    if math.isinf(z_sgd):
        return float(most["z-sgd"] / laser), "at least"
    if math.isinf(laser):
        return float(z_sgd / most["laser"]), "at most"
    cut = laser <= least["laser"], z_sgd <= least["z-sgd"]
    if all(cut):
        return math.nan, ""
    return z_sgd / laser, {(True, False): "at least", (False, True): "at most", (False, False): ""}[cut]


def power_needed(results: pd.DataFrame, strategy: str, target: float) -> float:
    """Return the least power at which the strategy's mean score reaches a target, by log-interpolation.

    The least power of the grid stands for all below it.

    Args:
        results: a row per run, with a column ``score``.
        strategy: its name.
        target: in the score's unit, % or perplexity.

    Returns:
        The power; inf where none reaches the target.
    """
    means = results[results["strategy"] == strategy].groupby("power")["score"].mean().sort_index()
    ahead = (metric_of(results).sign * (means - target)).to_numpy()
    reached = np.flatnonzero(ahead >= -1e-9)  # equal runs have means that are equal but for their last bits
    if len(reached) == 0:
        return math.inf
    first = int(reached[0])
    if first == 0:
        return float(means.index[0])
    share = -ahead[first - 1] / (ahead[first] - ahead[first - 1])
    below, above = means.index[first - 1], means.index[first]
    return float(below * (above / below) ** share)
