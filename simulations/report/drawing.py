"""The pieces of an interactive chart: lines, bands of one standard deviation, names at the lines' ends.

A chart has no colours of its own for text and grid: the page's script gives it those of the reader's colour scheme, and
takes the curves' colours in it from their ``meta``.
"""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from simulations.look import DIRECT_LABELS_ABOVE, FAINT_OPACITY, FAINT_WIDTH, CurveStyle, spread
from simulations.report.colours import TEXT, in_both_schemes

HEIGHT, TOP, BOTTOM = 420, 36, 56  # in pixels; the tool bar lies in the upper margin, beside the curves
RIGHT = 20  # pixels
PAD = 0.04  # of the range, between curves and frame
MOST_LABELS = 20  # that have room beside each other
LABEL, LETTER = 15, 6.8  # pixels: height of a label, width of its letters on average
MARKERS = 8  # of a curve at most, whatever the number of its points
BAND_OPACITY = 0.18
FAR, CLOSE = 0.3, 0.03  # parts of the axis: of a label's end from the margin, of a label in the chart from its end
FEW_DECADES = 3  # of a logarithmic axis; it has ticks at 2 and 5, too
SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "v": "triangle-down", "<": "triangle-left",
           "D": "diamond", "P": "cross", "X": "x", "*": "star"}  # fmt: skip


def line(
    chart: go.Figure,
    x: "pd.Series[float]",
    y: "pd.Series[float]",
    style: CurveStyle,
    name: str,
    beside: str = "",
    **more: Any,
) -> None:
    """Add a curve.

    Args:
        chart: takes the curve.
        x: of its points.
        y: likewise.
        style: of the curve.
        name: of the curve; it is in the legend, where all curves of the name are switched on and off.
        beside: of a curve that accompanies the main one of its name, for example ``current weights``; it is thin.
        **more: of plotly's trace.
    """
    thin = {"color": style.colour, "dash": "solid", "width": FAINT_WIDTH}
    marker = {"symbol": SYMBOLS.get(style.marker, "circle"), "size": 8, "maxdisplayed": MARKERS}
    chart.add_scatter(
        x=x,
        y=y,
        name=f"{name}, {beside}" if beside else name,
        legendgroup=name,
        showlegend=not beside,
        mode="lines" if beside else "lines+markers",
        **{
            "line": (thin if beside else style.for_plotly()) | more.pop("line", {}),
            "marker": marker,
            "opacity": FAINT_OPACITY if beside else 1.0,
            "meta": in_both_schemes(style.colour),
        }
        | more,
    )


def band(chart: go.Figure, x: "pd.Series[float]", mean: "pd.Series[float]", std: "pd.Series[float]", **of: Any) -> None:
    """Shade one standard deviation to both sides of a mean, where it is known.

    Args:
        chart: takes the band.
        x: of the points.
        mean: at the points.
        std: standard deviation at the points; NaN where there is one seed only.
        **of: style and name of the curve.
    """
    known = std.notna() & mean.notna()
    at, low, high = (values[known].tolist() for values in (x, mean - std, mean + std))
    if not at:
        return
    style, name = of["style"], of["name"]
    chart.add_scatter(
        x=at + at[::-1],
        y=high + low[::-1],
        name=f"{name}, one standard deviation",
        legendgroup=name,
        showlegend=False,
        mode="lines",
        line={"width": 0, "color": style.colour},
        fill="toself",
        fillcolor=style.colour,
        opacity=BAND_OPACITY,
        hoverinfo="skip",
        zorder=-1,
        meta=in_both_schemes(style.colour),
    )


def finish(chart: go.Figure, x: str, y: str, caption: str = "", log_x: bool = False) -> go.Figure:
    """Name the axes, and the curves at their ends where a legend would be hard to follow.

    Args:
        chart: with all its curves.
        x: name of the axis.
        y: likewise.
        caption: a sentence below the chart.
        log_x: True for a logarithmic axis.
    """
    chart.update_layout(
        template="none",
        height=HEIGHT,
        margin={"l": 64, "r": RIGHT, "t": TOP, "b": BOTTOM},
        hovermode="closest",
        showlegend=False,  # the page's own can be reached by keyboard
        xaxis={"title": {"text": x}, "automargin": True},
        yaxis={"title": {"text": y}, "automargin": True},
        meta={"caption": caption, "labels": [], "narrow": RIGHT},
    )
    if log_x:
        chart.update_xaxes(_logarithmic(pd.concat([pd.Series(trace.x, dtype=float) for trace in chart.data])))
    named = [trace for trace in chart.data if trace.showlegend]
    if DIRECT_LABELS_ABOVE < len(named) <= MOST_LABELS:
        name_at_the_ends(chart, named, log_x)
    return chart


def name_at_the_ends(chart: go.Figure, curves: Sequence[Any], log_x: bool) -> None:
    """Write the curves' names to the right of them, at the heights of their ends, without any two touching.

    Args:
        chart: the chart.
        curves: traces to be named.
        log_x: True where the horizontal axis is logarithmic.
    """
    points = pd.concat([_points(trace, log_x) for trace in chart.data])
    (left, right), (low, high) = _padded(points["x"]), _padded(points["y"])
    ends = [(trace, *_points(trace, log_x).iloc[-1]) for trace in curves if len(_points(trace, log_x))]
    places = _places([(x, y) for _, x, y in ends], (left, right), (low, high))
    colours = [in_both_schemes(str(trace.line.color), TEXT) for trace, *_ in ends]
    labels = [
        {"x": x, "y": y, "ax": at, "ay": height, "axref": "x", "ayref": "y", "xanchor": "left", "text": trace.name,
         "font": {"color": colour["light"], "size": 12}, "arrowcolor": colour["light"], "arrowhead": 0,
         "arrowwidth": 0.8, "standoff": 5}
        for (trace, x, y), (at, height), colour in zip(ends, places, colours, strict=True)
    ]  # fmt: skip
    room = int(LETTER * max(len(label["text"]) for label in labels)) + RIGHT
    chart.update_layout(annotations=labels, meta=chart.layout.meta | {"labels": colours}, margin={"r": room})
    chart.update_xaxes(range=[left, right]).update_yaxes(range=[low, high])


def _places(
    ends: Sequence[tuple[float, float]], width: tuple[float, float], height: tuple[float, float]
) -> list[tuple[float, float]]:
    """Return the places of labels: in the margin, or for curves that end far from it, close to their ends.

    Args:
        ends: of the curves.
        width: the horizontal axis's range.
        height: the vertical one's.
    """
    (left, right), (low, high) = width, height
    gap = (high - low) * LABEL / (HEIGHT - TOP - BOTTOM)
    places: dict[int, tuple[float, float]] = {}
    for inner in (False, True):
        chosen = [i for i, (x, _) in enumerate(ends) if (right - x > FAR * (right - left)) == inner]
        for i, at in zip(chosen, spread([ends[i][1] for i in chosen], gap, low, high), strict=True):
            places[i] = (ends[i][0] + CLOSE * (right - left) if inner else right, at)
    return [places[i] for i in range(len(ends))]


def _logarithmic(x: "pd.Series[float]") -> dict[str, Any]:
    """Return ticks of a logarithmic axis, all with their whole numbers."""
    known = x[x > 0].dropna()
    if known.empty:
        return {"type": "log"}
    first, last = math.floor(math.log10(known.min())), math.ceil(math.log10(known.max()))
    steps = (1, 2, 5) if last - first <= FEW_DECADES else (1,)
    values = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return {"type": "log", "tickvals": values, "ticktext": [_tick(value) for value in values]}


def _tick(value: float) -> str:
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _points(trace: Any, log_x: bool) -> pd.DataFrame:
    """Return a trace's points that are drawn; x as the axis counts it."""
    points = pd.DataFrame({"x": list(trace.x), "y": list(trace.y)}, dtype=float)
    if log_x:
        points["x"] = [math.log10(x) if x > 0 else math.nan for x in points["x"]]
    return points.dropna()


def _padded(values: "pd.Series[float]") -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    pad = PAD * (high - low) or 1.0
    return low - pad, high + pad
