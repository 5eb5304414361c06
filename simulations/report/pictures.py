"""Pictures in the paper's style, for the screen and for print."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Picture

from laser_fl.data.metrics import Metric
from simulations.figures.curves import COLOURS, STYLE, curve, finish
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
            for index, (label, rows) in enumerate(curves_over_power(results).items()):
                colour = COLOURS.get(label, f"C{index}")
                if (rows["strategy"] == "sgd").all():
                    axes.axhline(rows["score"].mean(), color=colour, ls="--", label=f"{label}, no noise")
                else:
                    curve(axes, rows, label, color=colour)
            finish(axes, results)
            axes.legend(frameon=False)
    return picture


def over_rounds(evaluated: Mapping[Metric, Mapping[str, Group]]) -> Picture:
    """Draw the mean score over seeds of the averaged weights, and thinner of the current ones; a panel per metric."""
    with matplotlib.rc_context(STYLE):
        picture, panels = _panels(len(evaluated))
        for axes, (metric, groups) in zip(panels, evaluated.items(), strict=True):
            for index, (label, runs) in enumerate(groups.items()):
                means, colour = means_of(runs), COLOURS.get(label, f"C{index}")
                averaged, current = (metric.factor * means[f"{kind}_{metric.name}"] for kind in ("ema_test", "test"))
                axes.plot(means["round"], averaged, color=colour, label=label)
                axes.plot(means["round"], current, color=colour, lw=0.7, alpha=0.6)
            axes.set(xlabel="round", ylabel=f"test {metric.label}", yscale=metric.scale(axes))
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
    return picture


def _panels(count: int) -> tuple[Picture, Iterable[Axes]]:
    """Return a picture, and its `count` panels beside each other."""
    picture = Picture(figsize=(6.4 * count, 4.2), layout="constrained")
    return picture, picture.subplots(1, count, squeeze=False).flat
