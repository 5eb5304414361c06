"""Pictures in the paper's style, for the screen and for print."""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure as Picture

from simulations.figures.curves import COLOURS, STYLE, over_power
from simulations.report.folders import Record, RunRecord


def pictures_of(record: Record, stem: Path) -> tuple[Path, ...]:
    """A PNG and a PDF named `stem`, or those that a reproduction has already; none where there is nothing to draw."""
    if record.pictures:
        return record.pictures
    if len(record.results) and record.results["power"].nunique() > 1:
        picture = over_power(record.results)
    elif evaluated := [run for run in record.runs if run.metric]:
        picture = over_rounds(evaluated)
    else:
        return ()
    files = stem.with_name(f"{stem.name}.png"), stem.with_name(f"{stem.name}.pdf")
    for file in files:
        picture.savefig(file, dpi=150)
    return files


def over_rounds(runs: list[RunRecord]) -> Picture:
    """The score of the averaged weights, and thinner of the current ones, a colour per run."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        for index, run in enumerate(runs):
            factor = 100 if run.metric == "accuracy" else 1
            colour = COLOURS.get(str(run.config["strategy"]), "C9") if len(runs) > 1 else f"C{index}"
            rounds = run.metrics["round"]
            axes.plot(rounds, factor * run.metrics[f"ema_test_{run.metric}"], color=colour, label=run.label)
            axes.plot(rounds, factor * run.metrics[f"test_{run.metric}"], color=colour, lw=0.7, alpha=0.6)
        accuracy = runs[0].metric == "accuracy"
        axes.set(xlabel="round", ylabel="test accuracy (%)" if accuracy else f"test {runs[0].metric}")
        axes.set_yscale("linear" if accuracy else "log")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return picture
