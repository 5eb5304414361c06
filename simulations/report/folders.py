"""What lies in the folders of runs, comparisons, sweeps and reproductions, read for a report."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.errors import DataError
from laser_fl.files import CONFIG, ENVIRONMENT, LEDGER, METRICS, SUMMARY
from laser_fl.tasks.base import BEST
from simulations.compare import COMPARISON
from simulations.reproduction import FIGURE, Reproduction
from simulations.results import RESULTS


@dataclass(frozen=True)
class RunRecord:
    """What one run's folder holds; of a run that was killed, what there is.

    label: what tells it from the others of its kind. metrics: a row per evaluation. ledger: a row per round.
    """

    label: str
    folder: Path
    config: dict[str, Any]
    summary: dict[str, Any]
    environment: dict[str, Any]
    metrics: pd.DataFrame
    ledger: pd.DataFrame

    @classmethod
    def read(cls, label: str, folder: Path) -> "RunRecord":
        """Read it all."""
        return cls(
            label,
            folder,
            _json(folder / CONFIG),
            _json(folder / SUMMARY) or {"status": "unfinished"},
            _json(folder / ENVIRONMENT),
            _csv(folder / METRICS),
            _csv(folder / LEDGER),
        )

    @property
    def metric(self) -> str | None:
        """What is measured of it, a key of BEST; None before the first evaluation."""
        return next((name for name in BEST if f"test_{name}" in self.metrics), None)


@dataclass(frozen=True)
class Record:
    """A folder that a report is made of.

    kind: run, comparison, sweep or reproduction. runs: those whose folders are there; of best-of keys, the chosen.
    results: a row per run of a sweep or a reproduction. verdicts: the tables of a reproduction. pictures: for the
    screen and for print, where they were drawn before. missing: number of runs that are in the results only.
    """

    kind: str
    title: str
    runs: tuple[RunRecord, ...]
    results: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdicts: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()
    missing: int = 0


def read(folder: Path) -> Record:
    """What `folder` holds.

    Raises:
        DataError: it holds no run, comparison, sweep or reproduction, or one that cannot be read.
    """
    folder = folder.resolve()
    try:
        if (folder / FIGURE).is_file():
            return _reproduction(folder)
        if (folder / RESULTS).is_file():
            table = pd.read_parquet(folder / RESULTS)
            runs, missing = _runs_of(table, folder)
            return Record("sweep", folder.name, runs, table, missing=missing)
        if (folder / COMPARISON).is_file():
            names = pd.read_csv(folder / COMPARISON)["strategy"]
            return Record("comparison", folder.name, tuple(RunRecord.read(n, folder / n) for n in names))
        if (folder / CONFIG).is_file():
            return Record("run", folder.name, (RunRecord.read(folder.name, folder),))
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"report: must be readable ({reason}), got {str(folder)!r}") from None
    raise DataError(f"report: must be the folder of a run, comparison, sweep or reproduction, got {str(folder)!r}")


def _reproduction(folder: Path) -> Record:
    made = Reproduction.read(folder)
    file = folder / RESULTS
    table = pd.read_parquet(file) if file.is_file() else pd.DataFrame()
    verdicts = {part: pd.read_csv(path) for part, path in made.tables(folder).items()}
    runs, missing = _runs_of(table, folder)
    return Record("reproduction", made.title, runs, table, verdicts, made.pictures(folder), missing)


def _runs_of(table: pd.DataFrame, folder: Path) -> tuple[tuple[RunRecord, ...], int]:
    """Give the table's runs that count and are where they were, or beside the folder, and how many are not."""
    rows = table[table["chosen"]] if "chosen" in table else table
    found = []
    for row in rows.to_dict("records"):
        places = Path(str(row["folder"])), folder / str(row["run"]), folder.parent / "reproduce" / str(row["run"])
        place = next((place for place in places if (place / CONFIG).is_file()), None)
        if place is not None:
            found.append(RunRecord.read(str(row["run"]), place))
    return tuple(found), len(rows) - len(found)


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path) if path.is_file() else pd.DataFrame()
