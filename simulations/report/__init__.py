"""One page of HTML, with everything in it, for runs, comparisons, sweeps and reproductions."""

import base64
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
from simulations.results import varied
from simulations.sweep import NOT_THE_RUN
from simulations.texts import shown

PLOTLY = {"displaylogo": False, "responsive": True, "showSendToCloud": False}
MOST_AT_ONCE = 10  # rows of the table of runs; a longer one is folded
MOST_RUNS = 200  # rows of that table at most
SENTENCE = 50  # letters; a text of so many may be broken into lines
GOOD, BAD = ("within", "better", "holds", "completed"), ("worse", "does not", "failed", "interrupted", "unfinished")
STYLES = dict.fromkeys(GOOD, "good") | dict.fromkeys(BAD, "bad")


@dataclass(frozen=True)
class Cell:
    """A cell of a table. style: a CSS class of the page."""

    text: str
    style: str = ""


@dataclass(frozen=True)
class Sheet:
    """A table as the page shows it."""

    heads: list[str]
    rows: list[list[Cell]]


@dataclass(frozen=True)
class Section:
    """The page's section on one folder. picture: a PNG in base64. details: folded tables. missing: number of runs."""

    title: str
    tables: list[tuple[str, Sheet]]
    charts: list[tuple[str, Markup]]
    picture: str = ""
    details: list[tuple[str, Sheet]] = field(default_factory=list)
    missing: int = 0


def write(folders: Sequence[Path], out: Path) -> list[Path]:
    """Write the page of all `folders`, in their order, to `out`, and their pictures beside it; return all files.

    Raises:
        DataError: a folder has nothing to report, or a file that is damaged.
        OSError: the page or a picture cannot be written.
    """
    records = [read(folder) for folder in folders]
    out.parent.mkdir(parents=True, exist_ok=True)
    stems = _stems(folders, out.parent)
    pictures = [pictures_of(record, stem) for record, stem in zip(records, stems, strict=True)]
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
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return [out, *(path for drawn in pictures for path in drawn)]


def _stems(folders: Sequence[Path], parent: Path) -> list[Path]:
    """Return the paths of the folders' pictures without suffix: the folder's name, numbered where a name repeats."""
    names = [folder.resolve().name for folder in folders]
    return [parent / (n if names.index(n) == i else f"{n}-{i + 1}") for i, n in enumerate(names)]


def _section(record: Record, pictures: Sequence[Path]) -> Section:
    tables = [(part.capitalize(), _sheet(table)) for part, table in record.verdicts.items()]
    if record.kind == "run":
        tables.append(("Result", _pairs(record.runs[0].summary)))
    details: list[tuple[str, Sheet]] = []
    if record.kind != "run" and record.runs:
        most = min(len(record.runs), MOST_RUNS)
        of = f", {most} of {len(record.runs)}" if most < len(record.runs) else ""
        (tables if most <= MOST_AT_ONCE else details).append((f"Runs{of}", _runs_sheet(record.runs[:most])))
    details.append(("Configuration" + ("" if record.kind == "run" else " that all runs share"), _config_sheet(record)))
    details.append(("Environment and revision", _environment_sheet(record)))
    drawn = [(heading, Markup(_html(chart))) for heading, chart in charts(record)]
    png = base64.b64encode(pictures[0].read_bytes()).decode() if pictures else ""
    return Section(record.title, tables, drawn, png, [pair for pair in details if pair[1].rows], record.missing)


def _html(chart: object) -> str:
    return str(plotly.io.to_html(chart, include_plotlyjs=False, full_html=False, config=PLOTLY))


def _runs_sheet(runs: Sequence[RunRecord]) -> Sheet:
    """Return a row per run: its varied keys and its scores."""
    keys = varied(pd.DataFrame([run.config for run in runs]), NOT_THE_RUN)
    rows = [
        {"run": run.label, "status": run.summary["status"]} | {key: run.config.get(key) for key in keys} | run.summary
        for run in runs
    ]
    table = pd.DataFrame(rows)
    columns = [column for column in ("max_power_used", "compression_ratio") if column in table]
    scores = [str(column) for column in table if "test_" in str(column)]
    return _sheet(table[["run", "status", *keys, *columns, *scores]])


def _config_sheet(record: Record) -> Sheet:
    """Return the keys that all runs share, and their defaults where these differ."""
    defaults = parse({}).to_flat()
    if record.runs:
        table = pd.DataFrame([run.config for run in record.runs])
    else:
        table = record.results[[key for key in defaults if key in record.results]]
    differ = varied(table)
    rows = []
    for key in table:
        value = str(table[key].iloc[0])
        default = str(defaults.get(str(key), ""))
        rows += [] if key in differ else [{"key": key, "value": value, "default": "" if default == value else default}]
    return _sheet(pd.DataFrame(rows))


def _environment_sheet(record: Record) -> Sheet:
    """Return, per entry of the environment, every value that occurs."""
    environments = [run.environment for run in record.runs]
    if not environments and "revision" in record.results:
        environments = [{"revision": revision} for revision in record.results["revision"]]
    names = list(dict.fromkeys(name for environment in environments for name in environment))
    found = {name: sorted({str(environment.get(name, "unknown")) for environment in environments}) for name in names}
    return _pairs({name: ", ".join(values) for name, values in found.items()})


def _pairs(values: dict[str, object]) -> Sheet:
    return _sheet(pd.DataFrame([{"what": name, "value": value} for name, value in values.items()], dtype=object))


def _sheet(table: pd.DataFrame) -> Sheet:
    rows = [[_cell(value) for value in row] for row in table.itertuples(index=False)]
    return Sheet([str(column) for column in table.columns], rows)


def _cell(value: object) -> Cell:
    """Return the cell of a number or a text; verdicts and statuses have their colours."""
    if not isinstance(value, str):
        return Cell(shown(value))
    return Cell(value, STYLES.get(value, "word" if len(value) < SENTENCE else "text"))
