"""Ours: laser-adaptive beside every other method over power, at one setting for all powers."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure as Picture

from simulations import presets
from simulations.figures import cifar
from simulations.figures.base import Figure, Judge, Scale
from simulations.figures.curves import STYLE, curve, finish
from simulations.figures.figure1 import SMALL as TEXT
from simulations.figures.figure1 import SMALL_POWERS
from simulations.figures.judges import Scores, power_needed, scored
from simulations.figures.naming import name_curves
from simulations.look import CurveStyle, style_of
from simulations.results import metric_of
from simulations.sweep import Grid

OURS, RIVAL = "laser-adaptive", "laser"
METHODS: dict[str, dict[str, Any]] = {
    OURS: {"strategy": "laser-adaptive"},
    RIVAL: {"strategy": "laser"},
    "laser, wiener": {"strategy": "laser", "receiver": "wiener"},
    "random-k": {"strategy": "random-k"},
    "random-k, 0.01": {"strategy": "random-k", "compression-factor": 0.01},
    "random-k, adaptive": {"strategy": "random-k", "compression-factor": 0.0, "receiver": "wiener"},
    "z-sgd": {"strategy": "z-sgd"},
    "z-sgd, wiener": {"strategy": "z-sgd", "receiver": "wiener"},
    "signum": {"strategy": "signum"},
    "sketch": {"strategy": "sketch"},
    "a-dsgd": {"strategy": "a-dsgd"},
}
ALL, BEST_FOUR = tuple(METHODS), (OURS, RIVAL, "random-k, adaptive", "z-sgd")
DASHES = {  # of variants, which have their strategy's colour
    "laser, wiener": "dot",
    "random-k, 0.01": "dot",
    "random-k, adaptive": "longdashdot",
    "z-sgd, wiener": "dot",
}
WIDTH_OF_OURS, WIDTH_OF_OTHERS = 3.0, 1.7
IMAGES, POWERS, SEEDS = ("mnist", "fashion-mnist"), (0.01, 0.1, 1.0, 10.0, 100.0), (0, 1, 2, 3, 4)
QUARTERS = tuple(power / 4 for power in POWERS[:3])  # a quarter of LASER's power, at which ours runs, too
TITLES = {
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10, small",
    "wikitext-2": "GPT-2, small",
}


def draw(results: pd.DataFrame) -> Picture:
    """Draw a panel per task, a curve per method; ours is the thick one."""
    results = named(results)
    tasks = list(results.groupby("task", sort=False))
    with matplotlib.rc_context(STYLE):
        wide, high = min(2, len(tasks)), math.ceil(len(tasks) / 2)
        picture = Picture(figsize=(1.0 + 5.2 * wide, 0.6 + 3.6 * high), layout="constrained")
        panels = picture.subplots(high, wide, squeeze=False).flat
        for axes, (task, everything) in zip(panels, tasks, strict=False):
            runs = only_its_own(everything)
            for method, some in runs.groupby("method", sort=False):
                curve(axes, some, style_of_method(str(method)), label=str(method))
            theirs = runs[runs["method"] != OURS]  # ours runs at quarters of their powers, too
            finish(axes, runs if theirs.empty else theirs)
            axes.set_title(TITLES.get(str(task), str(task)))
            name_curves(axes)
    return picture


def style_of_method(method: str) -> CurveStyle:
    """Return the look of a method's curve: its strategy's, with another dash for a variant; ours is the thick one."""
    style = style_of(method.partition(",")[0])
    if method == OURS:
        return replace(style, width=WIDTH_OF_OURS)
    return replace(style, dash=DASHES.get(method, style.dash), width=min(style.width, WIDTH_OF_OTHERS))


@dataclass(frozen=True)
class ByTask:
    """A judge of one task's results, applied to every task."""

    judge: Judge

    def __call__(self, results: pd.DataFrame) -> pd.DataFrame:
        """Return the judge's rows, with the task as the first column."""
        tables = [
            self.judge(only_its_own(runs)).assign(task=task)
            for task, runs in named(results).groupby("task", sort=False)
        ]
        table = pd.concat(tables, ignore_index=True)
        return table[["task", *(column for column in table if column != "task")]]


def standing(results: pd.DataFrame) -> pd.DataFrame:
    """Return, per power, how far ours is ahead of the best other method, in units of the score.

    spread: of the difference, from the standard deviations over seeds; verdict: ``ahead`` or ``behind`` by more than
    that, else ``level``; none where there is one seed.
    """
    sign = metric_of(results).sign
    cells = scored(results).groupby(["method", "power"])["score"]
    means, stds = cells.mean().unstack("method"), cells.std().unstack("method")
    others = sign * means.drop(columns=OURS, errors="ignore")
    if OURS not in means or others.dropna(how="all").empty:
        return pd.DataFrame(columns=["power", OURS, "best other", "its", "lead", "spread", "verdict"])
    others = others.dropna(how="all")
    means, stds = means.loc[others.index], stds.loc[others.index]
    table = pd.DataFrame({OURS: means[OURS], "best other": others.idxmax(axis=1), "its": sign * others.max(axis=1)})
    table["lead"] = sign * (table[OURS] - table["its"])
    column = stds.columns.get_indexer(pd.Index(table["best other"]))
    table["spread"] = np.hypot(stds[OURS], stds.to_numpy()[np.arange(len(stds)), column])
    level, ahead = table["lead"].abs() <= table["spread"], table["lead"] > 0
    table["verdict"] = np.select([table["spread"].isna(), level, ahead], ["", "level", "ahead"], "behind")
    return table.reset_index()


def savings(results: pd.DataFrame) -> pd.DataFrame:
    """Return, per power of LASER, the power at which ours is as good, and how many times less that is.

    ``at least`` where ours is as good at its least power already; ``at most`` where it is at none.
    """
    runs = scored(results)
    runs = runs.assign(strategy=runs["method"])
    table = runs[runs["strategy"] == RIVAL].groupby("power")["score"].mean().rename(RIVAL).reset_index()
    powers = runs[runs["strategy"] == OURS]["power"]
    if powers.empty:
        return pd.DataFrame(columns=["power", RIVAL, "needs", "times less", "bound"])
    table["needs"] = [power_needed(runs, OURS, target) for target in table[RIVAL]]
    table["times less"] = table["power"] / table["needs"].clip(upper=powers.max())
    table["bound"] = table["needs"].map({powers.min(): "at least", math.inf: "at most"}).fillna("")
    return table


def named(results: pd.DataFrame) -> pd.DataFrame:
    """Return the results with a column ``method``: of the methods whose keys fit a run, the one with most keys."""

    def method(run: "pd.Series[Any]") -> str:
        fitting = [name for name, keys in METHODS.items() if all(run[key] == value for key, value in keys.items())]
        return max(fitting, key=lambda name: len(METHODS[name]))

    return results.assign(method=results.apply(method, axis=1))


def only_its_own(runs: pd.DataFrame) -> pd.DataFrame:
    """Return a task's results without the columns of other tasks, such as their metrics."""
    return runs.dropna(axis=1, how="all")


def _grids(base: Mapping[str, Any], methods: Sequence[str], over: Mapping[str, Sequence[Any]]) -> tuple[Grid, ...]:
    return tuple(Grid({**base, **METHODS[method]}, over) for method in methods)


def _images(methods: Sequence[str], powers: Sequence[float], seeds: Sequence[int], **changes: Any) -> tuple[Grid, ...]:
    base, over = presets.load("mnist") | changes, {"power": powers, "seed": seeds}
    return tuple(grid for task in IMAGES for grid in _grids(base | {"task": task}, methods, over))


def _small(base: Mapping[str, Any], powers: Sequence[float]) -> tuple[Grid, ...]:
    seeds = (0, 1, 2)
    best = _grids(base, BEST_FOUR, {"power": powers, "seed": seeds})
    return *best, *_grids(base, (OURS,), {"power": (powers[0] / 4,), "seed": seeds})


SMALL_ONES = (*_small(cifar.grid("small", {}).fixed, (20.0, 80.0, 320.0)), *_small(TEXT, SMALL_POWERS))
TABLES: dict[str, Judge] = {
    "scores": ByTask(Scores(("method", "power"))),
    "standing": ByTask(standing),
    "savings": ByTask(savings),
}
ADAPTIVE = Figure(
    title="laser-adaptive and the others over power",
    scales={
        "full": Scale(
            (*_images(ALL, POWERS, SEEDS), *_images((OURS,), QUARTERS, SEEDS), *SMALL_ONES),
            "2 and a half hours on 2 cores",
            TABLES,
        ),
        "small": Scale(_images(ALL, (0.1, 1.0, 10.0), (0,), epochs=10), "3 minutes on 2 cores", TABLES),
    },
    draw=draw,
)
