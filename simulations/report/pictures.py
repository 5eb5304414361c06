"""Pictures in the paper's style, for the screen and for print."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Picture

from simulations.figures.curves import COLOURS, STYLE, curve, finish
from simulations.report.charts import Group, curves_over_power, grouped, means_of
from simulations.report.folders import Record


def pictures_of(record: Record, stem: Path) -> tuple[Path, ...]:
    """A PNG and a PDF named `stem`, or those that a reproduction has already; none where there is nothing to draw."""
    if record.pictures:
        return record.pictures
    if len(record.results) and record.results["power"].nunique() > 1:
        picture = over_power(record)
    elif evaluated := grouped([run for run in record.runs if run.metric]):
        picture = over_rounds(evaluated)
    else:
        return ()
    files = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    for file in files:
        picture.savefig(file, dpi=150)
    return files


def over_power(record: Record) -> Picture:
    """The score over power, a curve per combination of the other keys that vary."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        for index, (label, rows) in enumerate(curves_over_power(record.results).items()):
            colour = COLOURS.get(label, f"C{index}")
            if (rows["strategy"] == "sgd").all():
                axes.axhline(rows["score"].mean(), color=colour, ls="--", label=f"{label}, no noise")
            else:
                curve(axes, rows, label, color=colour)
        finish(axes, record.results)
        axes.legend(frameon=False)
    return picture


def over_rounds(groups: Mapping[str, Group]) -> Picture:
    """The score of the averaged weights, and thinner of the current ones, the mean over seeds."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        for index, (label, runs) in enumerate(groups.items()):
            means, metric = means_of(runs), runs[0].metric
            factor = 100 if metric == "accuracy" else 1
            colour = COLOURS.get(label, f"C{index}")
            axes.plot(means["round"], factor * means[f"ema_test_{metric}"], color=colour, label=label)
            axes.plot(means["round"], factor * means[f"test_{metric}"], color=colour, lw=0.7, alpha=0.6)
        accuracy = metric == "accuracy"
        axes.set(xlabel="round", ylabel="test accuracy (%)" if accuracy else f"test {metric}")
        axes.set_yscale("linear" if accuracy else "log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return picture
