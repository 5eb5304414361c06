"""A chart as the page has it: data for the script, a legend, a caption, and the same content as text and table."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import plotly.graph_objects as go
from markupsafe import Markup

from simulations.look import digits
from simulations.report.tables import Cell, Sheet

MOST_POINTS = 12  # of a curve in the table
MOST_CURVES = 30  # in the table
MOST_COLUMNS = 8  # of curves; more are below each other
MOST_NAMED = 12  # curves in the text alternative


@dataclass(frozen=True)
class Entry:
    """An entry of a legend. dashes: lengths on and off, as SVG has them; nothing for a solid line."""

    name: str
    light: str
    dark: str
    dashes: str


@dataclass(frozen=True)
class Shown:
    """A chart as the page shows it. data: JSON of plotly's. many: True where the curves are named at their ends."""

    heading: str
    data: Markup
    words: str
    caption: str
    legend: Sequence[Entry]
    values: Sheet
    many: bool


def shown_chart(heading: str, chart: go.Figure) -> Shown:
    """Return a chart with all that readers need who do not see it, or have no mouse."""
    meta = chart.layout.meta
    legend = [_entry(trace) for trace in _named(chart)]
    data = Markup(chart.to_json().replace("<", "\\u003c"))  # else a text could end the script
    return Shown(heading, data, _words(heading, chart), meta["caption"], legend, _values(chart), bool(meta["labels"]))


def _named(chart: go.Figure) -> list[Any]:
    return [trace for trace in chart.data if trace.showlegend]


def _entry(trace: Any) -> Entry:
    dash = str(trace.line.dash)
    return Entry(trace.name, **trace.meta, dashes="" if dash == "solid" else dash.replace("px", ""))


def _words(heading: str, chart: go.Figure) -> str:
    """Return the text alternative: the axes, and where every curve begins and ends."""
    axes = f"{chart.layout.yaxis.title.text} over {chart.layout.xaxis.title.text}"
    named = _named(chart)
    parts = [f"{trace.name} from {first} to {last}" for trace in named[:MOST_NAMED] for first, last in _ends(trace)]
    more = [f"and {len(named) - MOST_NAMED} more curves"] if len(named) > MOST_NAMED else []
    return f"{heading}. Line chart of {axes}: {'; '.join([*parts, *more])}. Arrow keys go along the curves."


def _ends(trace: Any) -> list[tuple[str, str]]:
    values = [float(value) for value in trace.y if not math.isnan(value)]
    return [(digits(values[0]), digits(values[-1]))] if values else []


def _values(chart: go.Figure) -> Sheet:
    """Return some points of all curves, the last among them: a column per curve where these are few and share x."""
    curves = [trace for trace in chart.data if trace.fill is None][:MOST_CURVES]
    points = [
        (trace.name, _some(pd.DataFrame({"x": list(trace.x), "y": list(trace.y)}, dtype=float))) for trace in curves
    ]
    x, y = chart.layout.xaxis.title.text, chart.layout.yaxis.title.text
    if 0 < len(points) <= MOST_COLUMNS and len({tuple(table["x"]) for _, table in points}) == 1:
        columns = [points[0][1]["x"], *(table["y"] for _, table in points)]
        rows = [[_number(value) for value in row] for row in zip(*columns, strict=True)]
        return Sheet([x, *(name for name, _ in points)], rows)
    rows = [
        [Cell(name), _number(at), _number(value)]
        for name, table in points
        for at, value in zip(table["x"], table["y"], strict=True)
    ]
    return Sheet(["curve", x, y], rows)


def _number(value: float) -> Cell:
    return Cell("" if math.isnan(value) else digits(value), "number")


def _some(points: pd.DataFrame) -> pd.DataFrame:
    step = max(1, -(-len(points) // MOST_POINTS))
    return points.iloc[::-1].iloc[::step].iloc[::-1]
