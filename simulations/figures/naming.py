"""Names of curves: a legend for few, and for many a name at the end of each."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from simulations.look import DIRECT_LABELS_ABOVE, spread

INK = "#222222"
FONT_SIZE, LINE_HEIGHT, POINTS_PER_INCH = 9, 1.3, 72
AXES_SHARE = 0.75  # of a panel's height, about
FAR = 0.9  # of the axes' width
SAMPLE, NAME_AT = (1.04, 1.1), 1.11  # to the right of the axes, of their width


def name_curves(axes: Axes, always_direct: bool = False) -> None:
    """Name the labelled curves of finished axes: in a legend, or where there are many, at their ends.

    always_direct: True where the names stand at the ends however few there are.
    """
    named = [line for line in axes.lines if not str(line.get_label()).startswith("_") and len(_ends(line))]
    if not always_direct and len(named) <= DIRECT_LABELS_ABOVE:
        axes.legend(frameon=False, loc="best" if axes.get_yscale() == "linear" else "upper right", handlelength=3.5)
        return
    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # they stay what the names are placed by
    ends = [_on_axes(axes, line) for line in named]
    for line, end, height in zip(named, ends, _heights(axes, [y for _, y in ends]), strict=True):
        _lead(axes, line, end, height)
        _sample(axes, line, height)
        where: Any = {"transform": axes.transAxes, "va": "center_baseline", "fontsize": FONT_SIZE, "color": INK}
        axes.text(NAME_AT, height, str(line.get_label()), **where)


def _lead(axes: Axes, line: Line2D, end: tuple[float, float], height: float) -> None:
    """Draw a thin line from a curve's end to its name, dotted where it might be taken for the curve.

    Args:
        axes: of the curve.
        line: the curve.
        end: of it, as shares of the axes' width and height.
        height: of the name, likewise.
    """
    look: Any = {"color": line.get_color(), "lw": 0.8, "ls": ":" if end[0] < FAR else "-", "zorder": 1}
    xs, ys = (end[0], 1, SAMPLE[0]), (end[1], end[1], height)
    axes.plot(xs, ys, transform=axes.transAxes, label="_leader", clip_on=False, **look)


def _sample(axes: Axes, line: Line2D, height: float) -> None:
    """Draw a short piece of a curve before its name, as in a legend."""
    sample = Line2D([], [])
    sample.update_from(line)
    middle = sum(SAMPLE) / 2
    sample.set(data=((SAMPLE[0], middle, SAMPLE[1]), (height,) * 3), markevery=[1], label="_sample")
    sample.set(transform=axes.transAxes, clip_on=False)
    axes.add_artist(sample)


def _heights(axes: Axes, ends: list[float]) -> list[float]:
    """Return the heights of the names, which do not touch, as shares of the axes' height."""
    figure = axes.get_figure(root=True)
    spec = axes.get_subplotspec()
    rows = spec.get_gridspec().nrows if spec is not None else 1
    points = (figure.get_figheight() if figure is not None else 1.0) * POINTS_PER_INCH * AXES_SHARE / rows
    return spread(ends, FONT_SIZE * LINE_HEIGHT / points, 0.0, 1.0)


def _ends(line: Line2D) -> np.ndarray:
    """Return the finite points (points, 2) of a curve."""
    points: np.ndarray = np.array(line.get_xydata(), dtype=float)
    whole: np.ndarray = points[np.isfinite(points).all(axis=1)]
    return whole


def _on_axes(axes: Axes, line: Line2D) -> tuple[float, float]:
    """Return the end of a curve, as shares of the axes' width and height."""
    place = line.get_transform().transform(_ends(line)[-1])
    x, y = axes.transAxes.inverted().transform(place)
    return float(np.clip(x, 0, 1)), float(np.clip(y, 0, 1))
