"""The tables of a page: human names and units first; raw keys are in the folded ones."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from laser_fl.config import parse
from laser_fl.data.metrics import Metric
from simulations.identity import NOT_THE_RUN
from simulations.look import BYTES_PER_VALUE, quantity
from simulations.ranking import score_in_words
from simulations.report.answers import ending, power_share
from simulations.report.charts import Group, has_budget
from simulations.report.folders import Record, RunRecord
from simulations.report.scores import metric_of_run, score_of
from simulations.results import varied
from simulations.texts import shown

SENTENCE = 50  # letters; a text of so many may be broken into lines
GOOD = ("within", "better", "holds", "completed")
BAD = ("worse", "does not", "failed", "interrupted", "unfinished", "diverged")
SETTINGS = (
    "engine",
    "task",
    "model",
    "strategy",
    "seed",
    "clients",
    "power",
    "parameters",
    "device",
    "status",
    "reason",
)
BYTES = "uplink_bytes_per_round"
OF_RUNS = ("uplink_floats_per_round", BYTES, "total_channel_uses", "total_uplink_energy", "max_power_used",
           "seconds_total")  # fmt: skip
LIMITED = (
    "max_power_used",
    "total_uplink_energy",
    "total_downlink_energy",
)  # in units of noise, where there is any
WIDTHS = {"pairs": 3, "some": 6, "many": 13}  # columns at most
SCORE_NAMES = {"best_ema_test": "best", "test": "last"}
NO_BUDGET = "no budget"
OF_VERDICTS = {"mean": "mean over seeds", "std": "standard deviation", "best": "best seed", "tol.": "tolerance"}


@dataclass(frozen=True)
class Cell:
    """A cell of a table. style: a CSS class of the page."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table as the page shows it. rows: the first cell of each is its head."""

    heads: list[str]
    rows: list[list[Cell]]

    @property
    def width(self) -> str:
        """The CSS class of its number of columns, by which the rows become cards on narrow screens, or always."""
        return next((name for name, most in WIDTHS.items() if len(self.heads) <= most), "cards")


def sheet(table: pd.DataFrame, names: Mapping[str, str] | None = None) -> Sheet:
    """Return a table as it is; names: heads for its columns, where they have others."""
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return Sheet([(names or {}).get(str(column), str(column)) for column in table.columns], rows)


def verdicts(table: pd.DataFrame) -> Sheet:
    """Return a table that judges a reproduction."""
    named = {str(column): OF_VERDICTS.get(str(column), quantity(str(column)).name) for column in table.columns}
    return sheet(table, named)


def result(run: RunRecord) -> Sheet:
    """Return a run's scores and costs, with names and units."""
    numbers = _with_bytes(run)
    rows = [[Cell("how it ended"), _cell(ending(run))]]
    rows += [[Cell(quantity(key).name), Cell(_shown(run, key, value))] for key, value in numbers.items()
             if key not in SETTINGS and value is not None]  # fmt: skip
    return Sheet(["number", "value"], rows)


def summary(run: RunRecord) -> Sheet:
    """Return everything in a run's summary, by the keys that it has there."""
    rows = [[Cell(key), Cell(_raw(run, key, value))] for key, value in run.summary.items()]
    return Sheet(["key", "value"], rows)


def of_runs(runs: Sequence[RunRecord]) -> Sheet:
    """Return a row per run: the keys that vary, how it ended, its scores and its costs."""
    keys = varied(pd.DataFrame([run.config for run in runs]), NOT_THE_RUN)
    first = keys[0] if keys else "run"
    metrics = list(dict.fromkeys(metric for run in runs if (metric := metric_of_run(run))))
    scores = [f"{kind}_{metric.name}" for metric in metrics for kind in ("best_ema_test", "ema_test", "test")]
    columns = [*scores, *OF_RUNS]
    heads = [quantity(key).name for key in [first, *keys[1:]]] + ["ended", *(quantity(key).head for key in columns)]
    return Sheet(heads, [_row(run, keys, columns) for run in runs])


def over_seeds(groups: Mapping[str, Group]) -> Sheet:
    """Return a row per group of runs that differ in their seeds: mean and standard deviation of scores, mean costs."""
    metrics = list(dict.fromkeys(metric for runs in groups.values() for r in runs if (metric := metric_of_run(r))))
    heads = [f"{SCORE_NAMES[kind]} {metric.label}" for metric in metrics for kind in SCORE_NAMES]
    costs = [quantity(key).head for key in OF_RUNS]
    rows = []
    for label, runs in groups.items():
        scores = [_mean_score(runs, metric, kind) for metric in metrics for kind in SCORE_NAMES]
        cells = [Cell(text, "number") for text in (str(len(runs)), *scores, *(_mean(runs, key) for key in OF_RUNS))]
        rows.append([Cell(label), *cells])
    return Sheet(["setting", "seeds", *heads, *costs], rows)


def _mean_score(runs: Group, metric: Metric, kind: str) -> str:
    values = [score_of(run, metric, kind) for run in runs if metric_of_run(run) == metric]
    return score_in_words(values, metric).removesuffix(f" {metric.unit}") if values else ""


def _mean(runs: Group, key: str) -> str:
    """Return the mean of a cost over runs; of powers the largest."""
    if key in LIMITED and not has_budget(runs[0]):
        return NO_BUDGET
    values = [float(value) for run in runs if (value := _with_bytes(run).get(key)) is not None]
    together = max if key == "max_power_used" else statistics.mean
    return quantity(key).bare(together(values)) if values else ""


def _row(run: RunRecord, keys: Sequence[str], columns: Sequence[str]) -> list[Cell]:
    numbers = _with_bytes(run)
    named = [_cell(run.config.get(key, "")) for key in keys] or [_cell(run.label)]
    values = [Cell(_short(run, key, numbers.get(key, math.nan)), "number") for key in columns]
    return [*named, _cell(ending(run)), *values]


def settings(record: Record) -> Sheet:
    """Return the config keys that all runs share, and their defaults where these differ."""
    defaults = parse({}).to_flat()
    if record.runs:
        table = pd.DataFrame([run.config for run in record.runs])
    else:
        table = record.results[[key for key in defaults if key in record.results]]
    differ = varied(table)
    rows = []
    for key in table:
        value, default = str(table[key].iloc[0]), str(defaults.get(str(key), ""))
        rows += [] if key in differ else [{"key": key, "value": value, "default": "" if default == value else default}]
    return sheet(pd.DataFrame(rows))


def environment(record: Record) -> Sheet:
    """Return, per entry of the environment, every value that occurs."""
    found = [run.environment for run in record.runs]
    if not found and "revision" in record.results:
        found = [{"revision": revision} for revision in record.results["revision"]]
    names = list(dict.fromkeys(name for entries in found for name in entries))
    values = {name: sorted({str(entries.get(name, "unknown")) for entries in found}) for name in names}
    return Sheet(["part", "version"], [[Cell(name), _cell(", ".join(each))] for name, each in values.items()])


def _with_bytes(run: RunRecord) -> dict[str, Any]:
    """Return a run's summary, in which the bytes stand behind the values sent."""
    numbers: dict[str, Any] = {}
    for key, value in run.summary.items():
        numbers[key] = value
        if key == "uplink_floats_per_round":
            numbers[BYTES] = BYTES_PER_VALUE * float(value)
    return numbers


def _raw(run: RunRecord, key: str, value: object) -> str:
    return NO_BUDGET if key == "max_power_used" and not has_budget(run) else shown(value)


def _shown(run: RunRecord, key: str, value: object) -> str:
    """Return a number with its unit; powers with the part of the budget that they are, where there is one."""
    if key in LIMITED and not has_budget(run):
        return NO_BUDGET
    text = quantity(key).shown(value)
    share = power_share(run) if key == "max_power_used" else math.nan
    return text if math.isnan(share) else f"{text} ({100 * share:.4g} % of the budget)"


def _short(run: RunRecord, key: str, value: object) -> str:
    if key in LIMITED and not has_budget(run) and run.summary:
        return NO_BUDGET
    return quantity(key).bare(value)


def _cell(value: object) -> Cell:
    """Return the cell of a number or a text; verdicts and statuses have their colours."""
    if not isinstance(value, str):
        return Cell(shown(value), "number")
    if value.startswith(GOOD):
        return Cell(value, "good")
    return Cell(value, "bad" if value.startswith(BAD) else "word" if len(value) < SENTENCE else "text")
