"""Figures: the runs that one needs at each scale, its drawing, and the tables that judge the runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure as Picture

from simulations.sweep import Grid

Judge = Callable[[pd.DataFrame], pd.DataFrame]


@dataclass(frozen=True)
class Scale:
    """The runs of a figure at one scale. time: their stated duration. tables: by name, made of the results."""

    grids: tuple[Grid, ...]
    time: str
    tables: Mapping[str, Judge]


@dataclass(frozen=True)
class Figure:
    """A table or figure: at each scale its runs and its tables, and its picture.

    draw: (a row per run, its keys and its summary) -> picture. own: keys that belong to it besides those it varies.
    """

    title: str
    scales: Mapping[str, Scale]
    draw: Callable[[pd.DataFrame], Picture]
    own: tuple[str, ...] = ()

    def keys(self, scale: str) -> set[str]:
        """Return the keys that only the figure may set: strategy, power, those that vary over its runs, its own."""
        grids = self.scales[scale].grids
        varied = {key for grid in grids for key in (*grid.over, *grid.best_of)}
        fixed = {key for grid in grids for key in grid.fixed}
        differ = {key for key in fixed if len({repr(grid.fixed.get(key)) for grid in grids}) > 1}
        return {"strategy", "power", *self.own} | varied | differ
