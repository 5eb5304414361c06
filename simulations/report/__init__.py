"""One page of HTML, with everything in it, for runs, comparisons, sweeps and reproductions."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from simulations.report import tables
from simulations.report.answers import Answer, answers
from simulations.report.charts import POINTS, charts, grouped
from simulations.report.figures import Shown, shown_chart
from simulations.report.folders import Record, read
from simulations.report.pictures import pictures_of
from simulations.report.tables import Sheet

MOST_AT_ONCE = 10  # rows of the table of runs; a longer one is folded
MOST_GROUPS = 40  # rows of the table of means over seeds; a longer one is left out
MOST_RUNS = 200  # rows of that table at most


@dataclass(frozen=True)
class Section:
    """The page's section on one folder. picture: a PNG in base64. details: folded tables. missing: number of runs."""

    title: str
    folder: str
    answers: list[Answer]
    tables: list[tuple[str, Sheet]]
    charts: list[Shown]
    picture: str
    details: list[tuple[str, Sheet]]
    missing: int


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
    page = rendered([_section(record, drawn) for record, drawn in zip(records, pictures, strict=True)])
    part = out.with_name(f".{out.name}.part")
    part.write_text(page, encoding="utf-8")
    part.replace(out)
    return [out, *(path for drawn in pictures for path in drawn)]


def rendered(sections: Sequence[Section]) -> str:
    """Return the page, which needs no other file."""
    templates = Environment(
        loader=PackageLoader("simulations.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    return templates.get_template("page.html.j2").render(
        title=sections[0].title if len(sections) == 1 else f"Report on {len(sections)} folders",
        sections=sections,
        plotly=Markup(get_plotlyjs()),
        version=version("laser-fl"),
        points=POINTS,
    )


def _stems(folders: Sequence[Path], parent: Path) -> list[Path]:
    """Return the paths of the folders' pictures without suffix: the folder's name, numbered where a name repeats."""
    names = [folder.resolve().name for folder in folders]
    return [parent / (n if names.index(n) == i else f"{n}-{i + 1}") for i, n in enumerate(names)]


def _section(record: Record, pictures: Sequence[Path]) -> Section:
    one = record.kind == "run"
    shown = [(part.capitalize(), tables.verdicts(table)) for part, table in record.verdicts.items()]
    details: list[tuple[str, Sheet]] = []
    if one:
        shown.append(("Result", tables.result(record.runs[0])))
        details.append(("All numbers, by their keys in summary.json", tables.summary(record.runs[0])))
    elif runs := [*record.runs, *record.failed]:
        groups = grouped(record.runs)
        if len(groups) < len(record.runs) and len(groups) <= MOST_GROUPS:
            shown.append(("Means over seeds", tables.over_seeds(groups)))
        most = min(len(runs), MOST_RUNS)
        of = f", {most} of {len(runs)}" if most < len(runs) else ""
        (shown if most <= MOST_AT_ONCE else details).append((f"Runs{of}", tables.of_runs(runs[:most])))
    details.append(("Configuration" + ("" if one else " that all runs share"), tables.settings(record)))
    details.append(("Environment and revision", tables.environment(record)))
    return Section(
        title=record.title,
        folder=str(record.folder),
        answers=answers(record),
        tables=shown,
        charts=[shown_chart(heading, chart) for heading, chart in charts(record)],
        picture=base64.b64encode(pictures[0].read_bytes()).decode() if pictures else "",
        details=[pair for pair in details if pair[1].rows],
        missing=record.missing,
    )
