"""A reproduction's folder: the results, the tables that judge them, the picture."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from simulations.figures import FIGURES
from simulations.figures.base import Figure
from simulations.sweep import Grid, Run, results

FIGURE = "figure.json"


@dataclass(frozen=True)
class Reproduction:
    """A figure at a scale, in a folder."""

    name: str
    scale: str
    folder: Path

    @classmethod
    def read(cls, folder: Path) -> "Reproduction":
        """What `folder` holds. Raises OSError where it holds none."""
        return cls(**json.loads((folder / FIGURE).read_text()), folder=folder)

    @property
    def figure(self) -> Figure:
        """What it makes."""
        figure: Figure = FIGURES.load(self.name)
        return figure

    @property
    def tables(self) -> dict[str, Path]:
        """The tables that judge it, by name."""
        return {part: self.folder / f"{part}.csv" for part in self.figure.scales[self.scale].tables}

    @property
    def pictures(self) -> tuple[Path, Path]:
        """For the screen and for print."""
        return self.folder / f"{self.name}.png", self.folder / f"{self.name}.pdf"

    @property
    def files(self) -> list[Path]:
        """The tables and the pictures."""
        return [*self.tables.values(), *self.pictures]

    def write(self, runs: Sequence[Run], grids: Sequence[Grid]) -> dict[str, pd.DataFrame]:
        """Write everything; returns the tables."""
        self.folder.mkdir(parents=True, exist_ok=True)
        table = results(runs, self.folder, grids) if runs else pd.DataFrame()
        judged = {part: judge(table) for part, judge in self.figure.scales[self.scale].tables.items()}
        for part, path in self.tables.items():
            judged[part].to_csv(path, index=False)
        picture = self.figure.draw(table)
        for path in self.pictures:
            picture.savefig(path, dpi=150)
        (self.folder / FIGURE).write_text(json.dumps({"name": self.name, "scale": self.scale}))
        return judged
