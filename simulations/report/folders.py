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
from simulations.report.titles import title_of
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
    failed: runs that are in no results, with their summaries only. folder: what all is read from.
    """

    kind: str
    title: str
    runs: tuple[RunRecord, ...]
    results: pd.DataFrame = field(default_factory=pd.DataFrame)
    verdicts: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    pictures: tuple[Path, ...] = ()
    missing: int = 0
    failed: tuple[RunRecord, ...] = ()
    folder: Path = Path()

    @property
    def counted(self) -> tuple[RunRecord, ...]:
        """The runs that count: of results whose folders are not all here, one per row, without curves."""
        if not self.missing or self.results.empty:
            return self.runs
        rows = self.results[self.results["chosen"]] if "chosen" in self.results else self.results
        return tuple(_of_row(row.dropna().to_dict()) for _, row in rows.iterrows())


def read(folder: Path) -> Record:
    """Read the record in `folder`.

    Raises:
        DataError: it has no run, comparison, sweep or reproduction, or one that cannot be read.
    """
    folder = folder.resolve()
    if (folder / FIGURE).is_file():
        return _reproduction(folder)
    if (folder / RESULTS).is_file():
        return _sweep(folder)
    if (folder / COMPARISON).is_file():
        return _comparison(folder)
    if (folder / CONFIG).is_file():
        run = RunRecord.read(folder.name, folder)
        return Record("run", title_of([run.config]), (run,), folder=folder)
    raise DataError(f"report: must be the folder of a run, comparison, sweep or reproduction, got {str(folder)!r}")


def _sweep(folder: Path) -> Record:
    table = _results(folder)
    runs, missing = _runs_of(table, folder)
    others = [path.parent for path in sorted(folder.glob(f"*/{CONFIG}")) if path.parent.name not in set(table["run"])]
    failed = tuple(_without_tables(place) for place in others)
    title = title_of(table.to_dict("records"))
    return Record("sweep", title, runs, table, missing=missing, failed=failed, folder=folder)


def _comparison(folder: Path) -> Record:
    with naming(folder / COMPARISON):
        table = read_csv(folder / COMPARISON)
        names = [str(name) for name in table["strategy"]]
        reasons = table["reason"].tolist() if "reason" in table else [""] * len(names)
    places = {name: folder / folder_name(name) for name in names}
    there = {name: place for name, place in places.items() if (place / CONFIG).is_file()}
    runs = tuple(RunRecord.read(name, place) for name, place in there.items())
    failed = tuple(
        _failed(name, places[name], reason)
        for name, reason in zip(names, reasons, strict=True)
        if isinstance(reason, str) and reason and name not in there
    )
    missing = len(names) - len(there) - len(failed)
    title = title_of([run.config for run in runs])
    return Record("comparison", title, runs, missing=missing, failed=failed, folder=folder)


def _failed(name: str, place: Path, reason: str) -> RunRecord:
    """Return the record of a run that never began."""
    summary = {"status": "failed", "reason": reason}
    return RunRecord(name, place, {"strategy": name}, summary, {}, pd.DataFrame(), pd.DataFrame())


def _without_tables(place: Path) -> RunRecord:
    """Read the settings and the summary of a run that has not been completed."""
    config = read_json(place / CONFIG, "strategy", "power")
    summary = {"status": "unfinished"}
    if (place / SUMMARY).is_file():
        summary = read_json(place / SUMMARY, "status")
    return RunRecord(place.name, place, config, summary, {}, pd.DataFrame(), pd.DataFrame())


def _of_row(row: dict[Any, Any]) -> RunRecord:
    """Return the record of a row of the results, which has a run's settings and summary."""
    return RunRecord(str(row["run"]), Path(str(row["folder"])), row, row, {}, pd.DataFrame(), pd.DataFrame())


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
    return Record("reproduction", title, runs, table, verdicts, made.pictures(folder), missing, folder=folder)


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
