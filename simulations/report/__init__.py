"""One page of HTML, with everything in it, for runs, comparisons, sweeps and reproductions."""

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import plotly.io
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from laser_fl.config import parse
from simulations.report.charts import POINTS, charts
from simulations.report.folders import Record, RunRecord, read
from simulations.report.pictures import pictures_of

PLOTLY = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
MOST_RUNS = 200  # rows of the table of runs
SUMMARY_COLUMNS = ("status", "strategy", "power", "seed", "rounds", "max_power_used", "compression_ratio")
GOOD, BAD = ("within", "better", "holds", "completed"), ("worse", "does not", "failed", "interrupted", "unfinished")
STYLES = dict.fromkeys(GOOD, "good") | dict.fromkeys(BAD, "bad")


@dataclass(frozen=True)
class Cell:
    """One of a table. style: a class of the page's."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table as it is shown."""

    heads: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Section:
    """What the page says of one folder. picture: a PNG in base64. details: tables to unfold."""

    title: str
    tables: list[tuple[str, Sheet]]
    charts: list[tuple[str, Markup]]
    picture: str = ""
    details: list[tuple[str, Sheet]] = field(default_factory=list)


def write(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write the page of all `folders`, in their order, to `out`, and their pictures beside it; returns all files.

    Raises:
        DataError: a folder holds nothing that a report can be made of.
    """
    records = [read(folder) for folder in folders]
    out.parent.mkdir(parents=True, exist_ok=True)
    pictures = [
        pictures_of(record, out.parent / folder.resolve().name) for record, folder in zip(records, folders, strict=True)
    ]
    templates = Environment(
        loader=PackageLoader("simulations.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    page = templates.get_template("page.html.j2").render(
        title=records[0].title if len(records) == 1 else "laser-fl report",
        sections=[_section(record, drawn) for record, drawn in zip(records, pictures, strict=True)],
        script=Markup(get_plotlyjs()),
        version=version("laser-fl"),
        points=POINTS,
    )
    part = out.with_name(f".{out.name}.part")
    part.write_text(page)
    part.replace(out)
    return [out, *(path for drawn in pictures for path in drawn)]


def _section(record: Record, pictures: Sequence[Path]) -> Section:
    tables = [(part.capitalize(), _sheet(table)) for part, table in record.verdicts.items()]
    if record.kind == "run":
        tables.append(("Result", _pairs(record.runs[0].summary)))
    elif record.runs:
        tables.append(("Runs", _runs_sheet(record.runs)))
    details = []
    if record.runs:
        details.append(("Configuration" + _shared(record), _config_sheet(record.runs)))
        details.append(("Environment and revision", _environment_sheet(record.runs)))
    drawn = [(heading, Markup(_html(chart))) for heading, chart in charts(record)]
    png = base64.b64encode(pictures[0].read_bytes()).decode() if pictures else ""
    return Section(record.title, tables, drawn, png, details)


def _html(chart: object) -> str:
    return str(plotly.io.to_html(chart, include_plotlyjs=False, full_html=False, config=PLOTLY))


def _runs_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """A row per run: what it was, and its scores."""
    table = pd.DataFrame([{"run": run.label, **run.summary} for run in runs[:MOST_RUNS]])
    scores = [column for column in table if "test_" in str(column)]
    return _sheet(table[["run", *(column for column in SUMMARY_COLUMNS if column in table), *scores]])


def _shared(record: Record) -> str:
    return "" if len(record.runs) == 1 else f" shared by all {len(record.runs)} runs"


def _config_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """The keys that all runs share, and what their defaults are where they differ."""
    defaults = parse({}).to_flat()
    first = runs[0].config
    rows = [
        {"key": key, "value": value, "default": "" if str(defaults.get(key)) == str(value) else defaults.get(key, "")}
        for key, value in first.items()
        if all(run.config.get(key) == value for run in runs)
    ]
    return _sheet(pd.DataFrame(rows))


def _environment_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """Every value that occurs."""
    names = list(dict.fromkeys(name for run in runs for name in run.environment))
    found = {name: sorted({str(run.environment.get(name, "unknown")) for run in runs}) for name in names}
    return _pairs({name: ", ".join(values) for name, values in found.items()})


def _pairs(values: dict[str, object]) -> Sheet:
    return _sheet(pd.DataFrame([{"what": name, "value": value} for name, value in values.items()]))


def _sheet(table: pd.DataFrame) -> Sheet:
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return Sheet([str(column) for column in table.columns], rows)


def _cell(value: object) -> Cell:
    """Numbers to four digits; a verdict or a status in its colour."""
    if isinstance(value, float):
        return Cell("" if math.isnan(value) else f"{value:.4g}")
    return Cell(str(value), STYLES.get(str(value), "text") if isinstance(value, str) else "")
