"""What lies in the folders of runs, comparisons, sweeps and reproductions, read for a report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.errors import DataError
from laser_fl.run_folder import CONFIG, ENVIRONMENT, LEDGER, METRICS, SUMMARY
from laser_fl.tasks.base import BEST
from simulations.compare import COMPARISON
from simulations.reproduction import FIGURE, Reproduction
from simulations.sweep import RESULTS


@dataclass(frozen=True)
class RunRecord:
    """One run's folder. label: what tells it from the others of its kind."""

    label: str
    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        """Every key."""
        return _json(self.folder / CONFIG)

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The result; of a run that was killed there is none."""
        return _json(self.folder / SUMMARY) or {"status": "unfinished"}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """Versions, machine, revision."""
        return _json(self.folder / ENVIRONMENT)

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """A row per evaluation."""
        return _csv(self.folder / METRICS)

    @cached_property
    def ledger(self) -> pd.DataFrame:
        """A row per round."""
        return _csv(self.folder / LEDGER)

    @property
    def metric(self) -> str | None:
        """What is measured of it, a key of BEST; None before the first evaluation."""
        return next((name for name in BEST if f"test_{name}" in self.metrics), None)


@dataclass(frozen=True)
class Record:
    """A folder that a report is made of.

    kind: run, comparison, sweep or reproduction. results: a row per run of a sweep or a reproduction.
    verdicts: the tables of a reproduction. pictures: for the screen and for print, where they were drawn before.
    """

    kind: str
    title: str
    runs: tuple[RunRecord, ...]
    results: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdicts: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()


def read(folder: Path) -> Record:
    """What `folder` holds.

    Raises:
        DataError: it holds no run, comparison, sweep or reproduction.
    """
    try:
        if (folder / FIGURE).is_file():
            return _reproduction(Reproduction.read(folder))
        if (folder / RESULTS).is_file():
            table = pd.read_parquet(folder / RESULTS)
            return Record("sweep", folder.name, _runs_of(table, folder), table)
        if (folder / COMPARISON).is_file():
            names = pd.read_csv(folder / COMPARISON)["strategy"]
            runs = tuple(RunRecord(name, folder / name) for name in names if (folder / name / CONFIG).is_file())
            return Record("comparison", folder.name, runs)
        if (folder / CONFIG).is_file():
            return Record("run", folder.name, (RunRecord(folder.name, folder),))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"report: must be readable ({error}), got {str(folder)!r}") from None
    raise DataError(f"report: must be the folder of a run, comparison, sweep or reproduction, got {str(folder)!r}")


def _reproduction(made: Reproduction) -> Record:
    file = made.folder / RESULTS
    table = pd.read_parquet(file) if file.is_file() else pd.DataFrame()
    verdicts = {part: pd.read_csv(path, keep_default_na=True) for part, path in made.tables.items()}
    title = f"{made.figure.title}, {made.scale}"
    return Record("reproduction", title, _runs_of(table, made.folder), table, verdicts, made.pictures)


def _runs_of(table: pd.DataFrame, folder: Path) -> tuple[RunRecord, ...]:
    """Those of the table's runs whose folders are still where they were, or have moved along with it."""
    found = []
    for row in table.to_dict("records"):
        for place in (Path(str(row["folder"])), folder / str(row["run"])):
            if (place / CONFIG).is_file():
                found.append(RunRecord(str(row["run"]), place))
                break
    return tuple(found)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()
