"""Figure 5: LASER's accuracy over its rank, in three regimes of power."""

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as Picture

from simulations.figures import cifar
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import STYLE, curve, finish
from simulations.figures.judges import Claim, Claims, Scores
from simulations.figures.naming import name_curves
from simulations.look import style_of

RANKS = (1, 2, 4, 8)
POWERS = (500.0, 4000.0, 32000.0)  # low, medium, high; the paper's text does not name them


def draw(results: pd.DataFrame) -> Picture:
    """Draw a curve per power."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        for index, power in enumerate(sorted(results["power"].unique())):
            runs = results[results["power"] == power]
            curve(axes, runs, style_of("", index), over="rank", label=f"P = {power:g}")
        finish(axes, results, over="rank", label="rank")
        name_curves(axes)
    return picture


def _best_rank(means: "pd.Series[float]") -> tuple[str, bool]:
    best = means.unstack("rank").idxmax(axis=1)
    return ", ".join(f"{rank} at {power:g}" for power, rank in best.items()), bool(best.isin([4, 8]).all())


def _rank_one_is_worst(means: "pd.Series[float]") -> tuple[str, bool]:
    worst = means.unstack("rank").idxmin(axis=1)
    return ", ".join(f"worst is {rank} at {power:g}" for power, rank in worst.items()), bool((worst == 1).all())


def _high_rank_hurts_at_low_power(means: "pd.Series[float]") -> tuple[str, bool]:
    table = means.unstack("rank")
    loss = table.max(axis=1) - table[table.columns.max()]
    text = ", ".join(f"{points:.1f} points below the best at {power:g}" for power, points in loss.items())
    return text, bool(loss.iloc[0] > loss.iloc[1:].max())


CELLS = ("power", "rank")
CLAIMS = (
    Claim("rank 4 or 8 is best at every power", _best_rank),
    Claim("rank 1 is worst at every power", _rank_one_is_worst),
    Claim("the highest rank loses most at the lowest power", _high_rank_hurts_at_low_power),
)


def _scale(scale: str, powers: tuple[float, ...], seeds: tuple[int, ...], time: str) -> Scale:
    grid = cifar.grid(scale, {"strategy": ["laser"], "power": powers, "rank": RANKS}, seeds=seeds)
    return Scale((grid,), time, {"scores": Scores(CELLS), "claims": Claims(CLAIMS, grid, CELLS)})


FIGURE5 = Figure(
    title="Figure 5: rank and accuracy on CIFAR-10",
    scales={
        "full": _scale(
            "full", POWERS, (0, 1, 2), "about 100 GPU hours (144 runs of 42 minutes), estimated for an H100"
        ),
        "small": _scale(
            "small",
            (20.0, 80.0, 1280.0),
            (0, 1),
            "13 minutes on 2 cores, beside other work, with the runs of figure2 done",
        ),
    },
    draw=draw,
)
