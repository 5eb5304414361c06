"""Accuracy over power: LASER and Z-SGD over every channel, and the digital rival beside them.

The task is MNIST with the paper's setting.
"""

from dataclasses import replace
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as Picture

from simulations import presets
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import STYLE, curve, finish
from simulations.figures.judges import Scores
from simulations.figures.naming import name_curves
from simulations.look import style_of
from simulations.sweep import Grid

POWERS = (0.1, 0.3, 1.0, 3.0, 10.0)
STRONG = (100.0, 1000.0, 10000.0)
AIR: dict[str, dict[str, Any]] = {
    "ideal (awgn)": {"channel": "awgn"},
    "Rayleigh, truncated inversion": {"channel": "fading", "gain-threshold": 0.1},
    "blind, 16 antennas": {"channel": "blind", "antennas": 16},
    "blind, 256 antennas": {"channel": "blind", "antennas": 256},
}
SHORT = {"ideal (awgn)": "ideal", "Rayleigh, truncated inversion": "Rayleigh"}
STRATEGIES = ("laser", "z-sgd")


def draw(results: pd.DataFrame) -> Picture:
    """Draw two panels: the channels, and analog against digital up to powers at which bits get through."""
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(12, 4.2), layout="constrained")
        left, right = picture.subplots(1, 2)
        for index, (label, keys) in enumerate(AIR.items()):
            over = results[(results[list(keys)] == pd.Series(keys)).all(axis=1) & results["power"].isin(POWERS)]
            for strategy in STRATEGIES:
                style = replace(style_of(strategy), colour=style_of("", index).colour)
                name = f"{strategy}, {SHORT.get(label, label)}"
                curve(left, over[over["strategy"] == strategy], style, label=name)
        for strategy in (*STRATEGIES, "d-dsgd"):
            runs = results[(results["strategy"] == strategy) & (results["channel"] == "awgn")]
            curve(right, runs, style_of(strategy), label=strategy)
        left.set_title("over every channel")
        right.set_title("analog and digital, ideal channel")
        for axes, runs in ((left, results[results["power"].isin(POWERS)]), (right, results)):
            finish(axes, runs)
            name_curves(axes)
    return picture


def _scale(seeds: tuple[int, ...], time: str, **changes: Any) -> Scale:
    base = presets.load("mnist") | {"evaluate-every": 2} | {k.replace("_", "-"): v for k, v in changes.items()}
    over = {"strategy": list(STRATEGIES), "power": POWERS, "seed": seeds}
    strong = {"strategy": [*STRATEGIES, "d-dsgd"], "power": POWERS + STRONG, "seed": seeds}
    grids = [Grid(base | keys, over) for keys in AIR.values()]
    scores = Scores(("channel", "antennas", "strategy", "power"))
    return Scale((*grids, Grid(base | AIR["ideal (awgn)"], strong)), time, {"scores": scores})


CHANNELS = Figure(
    title="accuracy over power, channel by channel",
    scales={
        "full": _scale((0, 1, 2), "27 minutes on 2 cores"),
        "small": _scale((0,), "3 minutes on 2 cores", epochs=15),
    },
    draw=draw,
)
