"""The content of folders of runs, comparisons, sweeps and reproductions, read for a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.data.metrics import Metric, metrics_in
from laser_fl.errors import DataError
from laser_fl.storage.files import COMPARISON, CONFIG, ENVIRONMENT, LEDGER, METRICS, SUMMARY, folder_name
from simulations.reading import naming, read_csv, read_json, read_parquet, refuse_without_numbers
from simulations.reproduction import FIGURE, Reproduction
from simulations.results import RESULTS

METRICS_DRAWN = ("round", "train_loss", "energy", "channel_uses")
LEDGER_DRAWN = ("round", "power_budget", "max_power_used", "snr_db")


@dataclass(frozen=True)
class RunRecord:
    """The content of one run's folder; of a run that was killed, the files that there are.

    label: distinguishes it from the others of its kind. metrics: a row per evaluation. ledger: a row per round.
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
        """Read a run's folder. Raises DataError for a file that is damaged."""
        config = read_json(folder / CONFIG, "strategy", "power")
        with naming(folder / CONFIG):
            float(config["power"])
        summary: dict[str, Any] = {"status": "unfinished"}
        if (folder / SUMMARY).is_file():
            summary = read_json(folder / SUMMARY, "status")
        environment = read_json(folder / ENVIRONMENT) if (folder / ENVIRONMENT).is_file() else {}
        metrics = _table(folder / METRICS, METRICS_DRAWN, summary)
        with naming(folder / METRICS):
            names = [metric.name for metric in metrics_in(summary) or metrics_in(metrics.columns)]
            refuse_without_numbers(metrics, [f"{kind}_{name}" for name in names for kind in ("test", "ema_test")])
        ledger = _table(folder / LEDGER, LEDGER_DRAWN, summary)
        return cls(label, folder, config, summary, environment, metrics, ledger)

    @property
    def metric(self) -> Metric | None:
        """The metric of the run; None before the first evaluation."""
        return next(iter(metrics_in(self.metrics.columns)), None)


@dataclass(frozen=True)
class Record:
    """A folder that a report is made of.

    kind: run, comparison, sweep or reproduction. runs: those whose folders exist; of best-of keys, the chosen.
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
    """Read the record in `folder`.

    Raises:
        DataError: it has no run, comparison, sweep or reproduction, or one that cannot be read.
    """
    folder = folder.resolve()
    if (folder / FIGURE).is_file():
        return _reproduction(folder)
    if (folder / RESULTS).is_file():
        table = _results(folder)
        runs, missing = _runs_of(table, folder)
        return Record("sweep", folder.name, runs, table, missing=missing)
    if (folder / COMPARISON).is_file():
        with naming(folder / COMPARISON):
            names = [str(name) for name in read_csv(folder / COMPARISON)["strategy"]]
        places = {name: folder / folder_name(name) for name in names}
        there = {name: place for name, place in places.items() if (place / CONFIG).is_file()}
        records = tuple(RunRecord.read(name, place) for name, place in there.items())
        return Record("comparison", folder.name, records, missing=len(names) - len(there))
    if (folder / CONFIG).is_file():
        return Record("run", folder.name, (RunRecord.read(folder.name, folder),))
    raise DataError(f"report: must be the folder of a run, comparison, sweep or reproduction, got {str(folder)!r}")


def _reproduction(folder: Path) -> Record:
    with naming(folder / FIGURE):
        made = Reproduction.read(folder)
        tables, title = made.tables(folder), made.title
    table = _results(folder) if (folder / RESULTS).is_file() else pd.DataFrame()
    verdicts = {part: read_csv(path) for part, path in tables.items()}
    runs, missing = _runs_of(table, folder)
    for picture in made.pictures(folder):
        with naming(picture), picture.open("rb"):
            pass
    return Record("reproduction", title, runs, table, verdicts, made.pictures(folder), missing)


def _results(folder: Path) -> pd.DataFrame:
    return read_parquet(folder / RESULTS, "run", "folder", "strategy", "power")


def _runs_of(table: pd.DataFrame, folder: Path) -> tuple[tuple[RunRecord, ...], int]:
    """Return the table's runs that count, read from where they were or beside the folder, and how many are missing."""
    rows = table[table["chosen"]] if "chosen" in table else table
    found = []
    for row in rows.to_dict("records"):
        places = Path(str(row["folder"])), folder / str(row["run"]), folder.parent / "reproduce" / str(row["run"])
        place = next((place for place in places if (place / CONFIG).is_file()), None)
        if place is not None:
            found.append(RunRecord.read(str(row["run"]), place))
    return tuple(found), len(rows) - len(found)


def _table(path: Path, numbers: tuple[str, ...], summary: dict[str, Any]) -> pd.DataFrame:
    """Read a run's table; empty where there is no file yet. Raises DataError for one that is damaged or too short."""
    completed = summary["status"] == "completed"
    if not path.is_file() and not completed:
        return pd.DataFrame()
    table = read_csv(path, numbers, growing=not completed)
    rounds = summary.get("rounds")
    if completed and (last := table["round"].max()) != rounds:
        raise DataError(f"{path}: must be readable (it ends with round {last}, the run with {rounds})")
    return table
