"""Figures 3 and 7: power that falls or rises over the run, at the same mean power."""

from dataclasses import replace
from functools import partial

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as Picture

from simulations.figures import cifar
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import STYLE, curve, finish
from simulations.figures.judges import Claim, Claims, Scores
from simulations.figures.naming import name_curves
from simulations.look import style_of

STRATEGIES = ("laser", "z-sgd")
POWERS = tuple(250.0 * 2**i for i in range(10))
EQUAL = 1.0  # a difference of so many points of accuracy counts as "the same"


def draw(results: pd.DataFrame, policies: tuple[str, ...]) -> Picture:
    """Draw a colour per policy; LASER thick with long dashes, Z-SGD with short ones."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        for index, policy in enumerate(policies):
            for strategy in STRATEGIES:
                runs = results[(results["power-policy"] == policy) & (results["strategy"] == strategy)]
                style = replace(style_of(strategy), colour=style_of("", index).colour)
                curve(axes, runs, style, label=f"{strategy}, {policy}")
        finish(axes, results)
        name_curves(axes)
    return picture


def _constant_is_best(means: "pd.Series[float]") -> tuple[str, bool]:
    table = means.unstack("power-policy")
    behind = table.drop(columns="constant").max(axis=1) - table["constant"]
    worst = behind.rename("points").sort_values().reset_index().iloc[-1]
    text = f"behind by at most {worst['points']:.1f} ({worst['strategy']} at {worst['power']:g})"
    return text, bool(worst["points"] <= EQUAL)


def _laser_does_not_care(means: "pd.Series[float]") -> tuple[str, bool]:
    table = means.xs("laser", level="strategy").unstack("power-policy")
    spread = table.max(axis=1) - table.min(axis=1)
    return f"policies differ by at most {spread.max():.1f}", bool(spread.max() <= EQUAL)


def _laser_gains(means: "pd.Series[float]") -> tuple[str, bool]:
    gain = means.xs("laser", level="strategy") - means.xs("z-sgd", level="strategy")
    return f"ahead by {gain.min():.1f} to {gain.max():.1f}", bool((gain > 0).all())


def _rising_is_no_better(means: "pd.Series[float]") -> tuple[str, bool]:
    table = means.unstack("power-policy")
    gain = pd.concat([table[f"{shape}-up"] - table[f"{shape}-down"] for shape in SHAPES])
    return f"ahead by at most {gain.max():.1f}", bool(gain.max() <= EQUAL)


def _falling_helps_z_sgd(means: "pd.Series[float]") -> tuple[str, bool]:
    table = means.xs("z-sgd", level="strategy").unstack("power-policy")
    lowest = table.loc[table.index.min()]
    gains = [float(lowest[f"{shape}-down"] - lowest[f"{shape}-up"]) for shape in SHAPES]
    return f"ahead by {min(gains):.1f} to {max(gains):.1f}", min(gains) > 0


SHAPES = ("steps", "linear")
FALLING, RISING = (tuple(f"{shape}-{way}" for shape in SHAPES) for way in ("down", "up"))
CELLS = ("strategy", "power", "power-policy")
CLAIMS = (
    Claim("constant power is best, for LASER and for Z-SGD", _constant_is_best),
    Claim("LASER does the same with every policy", _laser_does_not_care),
    Claim("LASER does better than Z-SGD with every policy, at every power", _laser_gains),
)
CLAIMS_ON_BOTH = (
    Claim("power that rises does no better than power that falls", _rising_is_no_better),
    Claim("at the lowest power, falling power helps Z-SGD against rising (by 4 to 5 points)", _falling_helps_z_sgd),
)


def figure(
    title: str,
    policies: tuple[str, ...],
    drawn: tuple[str, ...],
    claims: tuple[Claim, ...],
    times: tuple[str, str],
) -> Figure:
    """Build a figure of constant power and some other policies.

    Args:
        title: of the figure.
        policies: besides constant power.
        drawn: those of the policies that the picture shows.
        claims: of the paper.
        times: stated durations of the runs at full and at small scale.
    """

    def scale(name: str, powers: tuple[float, ...], seeds: tuple[int, ...], time: str) -> Scale:
        over = {"strategy": list(STRATEGIES), "power": powers, "power-policy": ("constant", *policies)}
        grid = cifar.grid(name, over, seeds=seeds)
        return Scale((grid,), time, {"scores": Scores(CELLS), "claims": Claims(claims, grid, CELLS)})

    full, small = times
    scales = {"full": scale("full", POWERS, (0, 1, 2), full), "small": scale("small", (80.0, 320.0), (0, 1), small)}
    return Figure(title, scales, partial(draw, policies=("constant", *drawn)))


FIGURE3 = figure(
    "Figure 3: decreasing power on CIFAR-10",
    FALLING,
    drawn=FALLING,
    claims=CLAIMS,
    times=(
        "about 500 GPU hours (720 runs of 42 minutes), estimated for an H100",
        "16 minutes on 2 cores, beside other work, with the runs of figure2 done",
    ),
)
FIGURE7 = figure(
    "Figure 7: increasing power on CIFAR-10",
    (*FALLING, *RISING),
    drawn=RISING,
    claims=CLAIMS + CLAIMS_ON_BOTH,
    times=(
        "about 840 GPU hours (1,200 runs of 42 minutes), estimated for an H100",
        "15 minutes on 2 cores, beside other work, with the runs of figure3 done",
    ),
)
