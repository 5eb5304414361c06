"""The results of many runs as one table."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.config import RunConfig
from laser_fl.data.metrics import Metric, metrics_in
from laser_fl.errors import TrainingError
from laser_fl.storage.files import ENVIRONMENT
from simulations.identity import NOT_THE_RUN, has_own_data
from simulations.sweep import Grid, Run

RESULTS = "results.parquet"
SEARCHED = "best-of"  # the column that names the keys whose best values were chosen
AVERAGED, FINAL = "best_ema_test", "test"  # scores: the best of the averaged weights, and that of the last weights


def results(runs: Sequence[Run], root: Path, grids: Sequence[Grid] = ()) -> pd.DataFrame:
    """Write and return the table of all completed runs: a row each of keys, summary, folder and git revision.

    Where a grid has best-of keys, the column ``chosen`` marks the runs with their best value: that with which most
    runs have completed, of those the best mean over seeds, and of equal ones the first.

    Args:
        runs: completed or not.
        root: folder for the table.
        grids: of the runs.
    """
    rows = []
    for run in runs:
        here = {"run": run.label, "folder": str(run.folder), "revision": _revision(run)}
        rows.append(here | run.config.to_flat() | (run.summary or {"status": "missing"}))
    table = pd.DataFrame(rows).apply(_numbers)
    keys = list(dict.fromkeys(key for grid in grids for key in grid.best_of))
    if keys and (table["status"] == "completed").any():
        table["chosen"] = _chosen(table, [run.config for run in runs], keys)
        table[SEARCHED] = ",".join(keys)
    table = table[table["status"] == "completed"].reset_index(drop=True)
    root.mkdir(parents=True, exist_ok=True)
    part = root / f".{RESULTS}.part"
    table.to_parquet(part, index=False)
    part.replace(root / RESULTS)
    return table


def metric_of(table: pd.DataFrame, score: str = AVERAGED) -> Metric:
    """Return the metric of the runs of one task: that of which the table has this score.

    Raises:
        TrainingError: no run was evaluated.
    """
    for metric in metrics_in(table.columns, score):
        return metric
    raise TrainingError(f"results: must hold an evaluated run, got {len(table)} runs without")


def by_metric(table: pd.DataFrame) -> dict[Metric, pd.DataFrame]:
    """Split the evaluated runs by their metric; each part is without the columns of the other metrics."""
    metrics = metrics_in(table.columns, AVERAGED)
    parts = {metric: table[table[f"{AVERAGED}_{metric.name}"].notna()] for metric in metrics}
    return {metric: runs.dropna(axis=1, how="all") for metric, runs in parts.items() if len(runs)}


def best_of(table: pd.DataFrame) -> list[str]:
    """Return the keys whose best values were chosen."""
    return str(table[SEARCHED].iloc[0]).split(",") if SEARCHED in table else []


def varied(table: pd.DataFrame, aside: Sequence[str] = ()) -> list[str]:
    """Return the config keys that differ between rows, the strategy first.

    aside: keys that do not count; the data's folder counts all the same where the data are whatever it holds.
    """
    keys = [field.alias or name for name, field in RunConfig.model_fields.items()]
    if "task" in table and any(map(has_own_data, table["task"])):
        aside = [key for key in aside if key != "data-dir"]
    differ = [key for key in keys if key in table and key not in aside and table[key].astype(str).nunique() > 1]
    return sorted(differ, key=lambda key: key != "strategy")


def _revision(run: Run) -> str:
    try:
        return str(json.loads((run.folder / ENVIRONMENT).read_text())["revision"])
    except (OSError, ValueError, KeyError):
        return ""


def _numbers(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Convert a column to numbers where it can be: JSON has infinity as text."""
    if (column.astype(str) == "").any():
        return column
    try:
        return pd.to_numeric(column)
    except (ValueError, TypeError):
        return column


def _chosen(table: pd.DataFrame, configs: Sequence[RunConfig], keys: Sequence[str]) -> "pd.Series[bool]":
    """Mark the runs whose best-of keys did best. configs: of the rows; a summary may have other values."""
    asked = pd.DataFrame([config.to_flat() for config in configs])
    cells = _tuples(asked, varied(asked, (*keys, "seed", *NOT_THE_RUN)))
    values = _tuples(asked, keys)
    signed = [metric.sign * runs[f"{AVERAGED}_{metric.name}"] for metric, runs in by_metric(table).items()]
    merit = pd.concat(signed).reindex(table.index) if signed else pd.Series(math.nan, index=table.index)
    scores = merit.where(table["status"] == "completed").groupby([cells, values], sort=False)
    ranks = list(zip(scores.transform("count"), scores.transform("mean").fillna(-math.inf), strict=True))
    winners: dict[Any, tuple[Any, Any]] = {}
    for cell, value, rank in zip(cells, values, ranks, strict=True):
        if cell not in winners or rank > winners[cell][0]:
            winners[cell] = rank, value
    chosen = [winners[cell][1] == value for cell, value in zip(cells, values, strict=True)]
    return pd.Series(chosen, index=table.index)


def _tuples(table: pd.DataFrame, columns: Sequence[str]) -> "pd.Series[Any]":
    rows = table[list(columns)].itertuples(index=False, name=None) if len(columns) else [()] * len(table)
    return pd.Series(list(rows), index=table.index, dtype=object)
