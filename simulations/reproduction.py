"""A reproduction's folder: the results, the tables that judge them, the picture."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.config import parse
from laser_fl.errors import ConfigError, did_you_mean
from simulations import presets
from simulations.figures import FIGURES
from simulations.figures.base import Figure
from simulations.identity import NOT_THE_RUN
from simulations.results import results
from simulations.sweep import Grid, Run, runs_of

FIGURE = "figure.json"


@dataclass(frozen=True)
class Reproduction:
    """A figure at a scale, and the user's changes to it.

    overrides: keys with other values than the figure's. only: keys whose values were restricted.
    """

    name: str
    scale: str
    overrides: Mapping[str, str] = field(default_factory=dict)
    only: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @classmethod
    def asked(
        cls, name: str, scale: str, overrides: Mapping[str, str], only: Mapping[str, Sequence[str]]
    ) -> "Reproduction":
        """Check a user's request, and return it.

        Args:
            name: of the figure.
            scale: full or small.
            overrides: values by config key.
            only: the values to run, by key of the figure.

        Raises:
            ConfigError: an unknown figure, an override of a key that is the figure's own, or a key in `only` that is
                not.
        """
        if name not in FIGURES:
            hint = did_you_mean(name, FIGURES)
            raise ConfigError(f"figure: must be one of {', '.join(FIGURES)}, got {name!r}{hint}")
        made = cls(name, scale, overrides, only)
        if (wishes := {**overrides, **only}) and not made._grids:
            key = min(wishes)
            raise ConfigError(f"{key}: must not be set, for {name} runs nothing, got {wishes[key]!r}")
        if own := made.figure.keys(scale) & overrides.keys():
            key = min(own)
            raise ConfigError(f"{key}: must be left to the figure, which sets it itself, got {overrides[key]!r}")
        if unknown := only.keys() - made.figure.keys(scale):
            known, key = sorted(made.figure.keys(scale)), min(unknown)
            rule = f"must name one of the figure's own keys, {', '.join(known)}"
            raise ConfigError(f"--only: {rule}, got {key!r}{did_you_mean(key, known)}")
        return made

    @classmethod
    def read(cls, folder: Path) -> "Reproduction":
        """Read the reproduction of a folder."""
        return cls(**json.loads((folder / FIGURE).read_text()))

    @property
    def figure(self) -> Figure:
        """The figure."""
        figure: Figure = FIGURES.load(self.name)
        return figure

    @property
    def title(self) -> str:
        """The figure's title, with the scale and all changes."""
        return ", ".join([self.figure.title, self.scale, *self.changes])

    @property
    def changes(self) -> list[str]:
        """The changes to the figure; the device and the places of files are none."""
        aside = ("device", *NOT_THE_RUN)
        changed = [f"{key}={value}" for key, value in self.overrides.items() if key not in aside]
        return changed + [f"only {key}={','.join(values)}" for key, values in self.only.items()]

    @property
    def default_folder(self) -> Path:
        """The folder runs/<name>-<scale>, with -changed behind it where there are changes."""
        return Path("runs") / f"{self.name}-{self.scale}{'-changed' if self.changes else ''}"

    @property
    def grids(self) -> list[Grid]:
        """The grids of the figure's runs, with the overrides."""
        ours = self.overrides
        return [replace(grid, fixed={**presets.beside(grid.fixed, ours), **ours}) for grid in self._grids]

    def runs(self, root: Path) -> list[Run]:
        """Return the requested runs of the figure, in folders below `root`. Raises ConfigError where none is left."""
        runs = runs_of(self.grids, root)
        wanted = {key: [_read(key, value, runs) for value in values] for key, values in self.only.items()}
        left = [r for r in runs if all(r.config.to_flat()[key] in values for key, values in wanted.items())]
        if runs and not left:
            raise ConfigError(f"--only: must leave some of the figure's {len(runs)} runs, got {dict(self.only)}")
        return left

    def tables(self, folder: Path) -> dict[str, Path]:
        """Return the files of the tables that judge it, by name."""
        return {part: folder / f"{part}.csv" for part in self.figure.scales[self.scale].tables}

    def pictures(self, folder: Path) -> tuple[Path, Path]:
        """Return the files of the pictures for the screen and for print."""
        return folder / f"{self.name}.png", folder / f"{self.name}.pdf"

    def write(self, runs: Sequence[Run], folder: Path) -> dict[str, pd.DataFrame]:
        """Write the results, tables and pictures of the completed runs; return the tables."""
        folder.mkdir(parents=True, exist_ok=True)
        table = results(runs, folder, self.grids) if runs else pd.DataFrame()
        judged = {part: judge(table) for part, judge in self.figure.scales[self.scale].tables.items()}
        for part, path in self.tables(folder).items():
            judged[part].to_csv(path, index=False)
        picture = self.figure.draw(table)
        if self.changes:
            picture.suptitle(self.title, fontsize="small", wrap=True)
        for path in self.pictures(folder):
            picture.savefig(path, dpi=150)
        (folder / FIGURE).write_text(json.dumps(asdict(self), indent=2) + "\n")
        return judged

    @property
    def _grids(self) -> tuple[Grid, ...]:
        return self.figure.scales[self.scale].grids


def _read(key: str, value: str, runs: Sequence[Run]) -> Any:
    """Parse a value as the config has it. Raises ConfigError for one that no run could have."""
    refused = ConfigError(f"{key}: there are no runs")
    for run in runs:
        try:
            return parse(run.config.to_flat() | {key: value}).to_flat()[key]
        except ConfigError as error:
            refused = error
    raise refused
