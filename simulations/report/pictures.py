"""Pictures in the paper's style, for the screen and for print."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from laser_fl.data.metrics import Metric
from simulations.figures.curves import BOTH_WEIGHTS, STYLE, both_weights, curve, finish
from simulations.figures.naming import name_curves
from simulations.look import drawing_order, style_of
from simulations.report.charts import Group, curves_over_power, evaluated_runs, means_of, over_powers
from simulations.report.folders import Record


def pictures_of(record: Record, stem: Path) -> tuple[Path, ...]:
    """Draw a PNG and a PDF named `stem`; return them, or those that a reproduction has, or () for nothing to draw."""
    if record.pictures:
        return record.pictures
    if tables := over_powers(record):
        picture = over_power(tables)
    elif evaluated := evaluated_runs(record):
        picture = over_rounds(evaluated)
    else:
        return ()
    files = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    for file in files:
        picture.savefig(file, dpi=150)
    return files


def over_power(tables: Mapping[Metric, pd.DataFrame]) -> Picture:
    """Draw the score over power, a curve per combination of the other keys that vary; a panel per metric."""
    with matplotlib.rc_context(STYLE):
        picture, panels = _panels(len(tables))
        for axes, results in zip(panels, tables.values(), strict=True):
            curves = curves_over_power(results)
            for index, label in enumerate(drawing_order(curves)):
                rows, style = curves[label], style_of(label, index)
                if (rows["strategy"] == "sgd").all():
                    axes.axhline(rows["score"].mean(), label=f"{label}, no noise", **style.for_matplotlib())
                else:
                    curve(axes, rows, style, label)
            finish(axes, results)
            name_curves(axes)
    return picture


def over_rounds(evaluated: Mapping[Metric, Mapping[str, Group]]) -> Picture:
    """Draw the mean score over seeds of the averaged weights, and thinner of the current ones; a panel per metric."""
    with matplotlib.rc_context(STYLE):
        picture, panels = _panels(len(evaluated))
        for axes, (metric, groups) in zip(panels, evaluated.items(), strict=True):
            for index, label in enumerate(drawing_order(groups)):
                means = means_of(groups[label])
                averaged, current = (metric.factor * means[f"{kind}_{metric.name}"] for kind in ("ema_test", "test"))
                both_weights(axes, means["round"], averaged, current, style_of(label, index), label)
            axes.set(xlabel="round", ylabel=f"test {metric.label}", yscale=metric.scale(axes))
            axes.set_title(BOTH_WEIGHTS, fontsize=9, loc="left")
            axes.grid(alpha=0.3)
            name_curves(axes)
    return picture


def _panels(count: int) -> tuple[Picture, Iterable[Axes]]:
    """Return a picture, and its `count` panels beside each other."""
    picture = Picture(figsize=(6.4 * count, 4.2), layout="constrained")
    return picture, picture.subplots(1, count, squeeze=False).flat
