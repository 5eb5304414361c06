"""What a figure is: the runs it needs, and how it is drawn from their results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Picture

Values = dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """Runs that share some keys and differ in others.

    base: keys of all runs. over: per key, its values; the runs are their product.
    """

    base: Mapping[str, Any]
    over: Mapping[str, Sequence[Any]]

    def __iter__(self) -> Iterator[Values]:
        """The keys of each run."""
        for values in product(*self.over.values()):
            yield dict(self.base) | dict(zip(self.over, values, strict=True))


@dataclass(frozen=True)
class Figure:
    """A picture and the runs behind it.

    draw: (a row per run: its keys, and its summary) -> picture.
    """

    preset: str
    grids: tuple[Grid, ...]
    draw: Callable[[pd.DataFrame], Picture]

    @property
    def keys(self) -> set[str]:
        """The keys that the figure sets itself."""
        return {key for grid in self.grids for key in (*grid.base, *grid.over)}

    @property
    def runs(self) -> list[Values]:
        """The keys of all runs, each once."""
        unique = {repr(sorted(values.items())): values for grid in self.grids for values in grid}
        return list(unique.values())
