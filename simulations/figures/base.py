"""What a figure is: the runs it needs at each scale, how they are drawn, and how far they are from the paper."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pandas as pd
from matplotlib.figure import Figure as Picture

from simulations.sweep import Grid, score_of


@dataclass(frozen=True)
class Scale:
    """The runs of a figure at one scale. time: what they take, stated."""

    grids: tuple[Grid, ...]
    time: str


@dataclass(frozen=True)
class Figure:
    """A table or figure, its runs at each scale, and its picture.

    draw: a row per run, its keys and its summary -> picture.
    paper: the paper's values by the keys in `cells`; judged at `tolerance`, in the score's unit.
    """

    title: str
    scales: Mapping[str, Scale]
    draw: Callable[[pd.DataFrame], Picture]
    cells: tuple[str, ...] = ("strategy", "power")
    paper: Mapping[tuple[object, ...], float] = field(default_factory=dict)
    tolerance: float = 0.0

    def keys(self, scale: str) -> set[str]:
        """The keys that vary over its runs, so that nobody else may set them."""
        grids = self.scales[scale].grids
        varied = {key for grid in grids for key in (*grid.over, *grid.best_of)}
        fixed = {key for grid in grids for key in grid.fixed}
        return varied | {key for key in fixed if len({repr(grid.fixed.get(key)) for grid in grids}) > 1}


def scores(results: pd.DataFrame, figure: Figure) -> pd.DataFrame:
    """Mean and standard deviation over seeds per cell, beside the paper's value and a verdict.

    Accuracies are in %. Verdict: ``within`` the tolerance of the paper, else ``better`` or ``worse``.
    """
    score, best = score_of(results)
    percent = 100 if score.endswith("accuracy") else 1
    chosen = results[results["chosen"]] if "chosen" in results else results
    grouped = chosen.groupby(list(figure.cells), sort=False)[score]
    table = pd.DataFrame(
        {"mean": percent * grouped.mean(), "std": percent * grouped.std(), "seeds": grouped.count()}
    ).reset_index()
    if not figure.paper:
        return table
    cells = [tuple(row) for row in table[list(figure.cells)].itertuples(index=False)]
    table["paper"] = [figure.paper.get(cell, math.nan) for cell in cells]
    ahead = (1 if best is max else -1) * (table["mean"] - table["paper"])
    table["verdict"] = [_verdict(value, figure.tolerance) for value in ahead.tolist()]
    return table


def _verdict(ahead: float, tolerance: float) -> str:
    if math.isnan(ahead):
        return ""
    if abs(ahead) <= tolerance:
        return "within"
    return "better" if ahead > 0 else "worse"
