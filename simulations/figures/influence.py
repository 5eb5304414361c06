"""The channel influence factors of LASER and Z-SGD over power: Eq. (4), and both measured through the air."""

from functools import cache

import matplotlib
import pandas as pd
import torch
from matplotlib.figure import Figure as Picture

from laser_fl.config import parse
from laser_fl.rng import RandomStreams
from laser_fl.theory import influence_laser_bound, influence_z_sgd
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import STYLE
from simulations.influence import measured_influence
from simulations.look import style_of

ROWS, COLUMNS, RANK = 512, 4608, 4  # ResNet18's largest matrix, at the paper's rank
POWERS = tuple(10.0**exponent for exponent in range(1, 9))
TOLERANCE = 0.05  # relative difference of one draw from an expectation


@cache
def curves() -> pd.DataFrame:
    """Compute theory and measurement per power; the gradient has the rank that LASER sends."""
    streams = RandomStreams(0)
    left = torch.randn(ROWS, RANK, dtype=torch.float64, generator=streams.generator("left"))
    right = torch.randn(RANK, COLUMNS, dtype=torch.float64, generator=streams.generator("right"))
    keys = {"clients": 1, "learning-rate": 1.0, "rank": RANK, "factor-exchange": "one-shot"}
    rows = []
    for power in POWERS:
        measured = {
            name: measured_influence(parse(keys | {"strategy": name, "power": power}), left @ right)
            for name in ("z-sgd", "laser")
        }
        rows.append(
            {
                "power": power,
                "z-sgd": influence_z_sgd(power, ROWS, COLUMNS),
                "z-sgd measured": measured["z-sgd"],
                "laser, at most": influence_laser_bound(power, ROWS, COLUMNS, RANK),
                "laser measured": measured["laser"],
            }
        )
    return pd.DataFrame(rows)


def judged(results: pd.DataFrame) -> pd.DataFrame:
    """Return the curves; verdict: ``holds`` where the measurements agree with the theory, else ``does not``."""
    table = curves()
    exact = (table["z-sgd measured"] / table["z-sgd"] - 1).abs() <= TOLERANCE
    bounded = table["laser measured"] <= table["laser, at most"] * (1 + TOLERANCE)
    return table.assign(verdict=(exact & bounded).map({True: "holds", False: "does not"}))


def draw(results: pd.DataFrame) -> Picture:
    """Draw lines for theory, dots for measurements."""
    table = curves()
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        axes.plot(table["power"], table["z-sgd"], label="Z-SGD, mn / P", **style_of("z-sgd").for_matplotlib())
        bound = "LASER, at most (Eq. 4)"
        axes.plot(table["power"], table["laser, at most"], label=bound, **style_of("laser").for_matplotlib())
        for name in ("z-sgd", "laser"):
            style = style_of(name)
            axes.plot(table["power"], table[f"{name} measured"], style.marker, ms=6, color=style.colour)
        axes.plot([], [], "o", ms=6, color="grey", label="measured")
        axes.set(xlabel="power", xscale="log", ylabel="channel influence factor λ", yscale="log")
        axes.set_title(f"a gradient of {ROWS} x {COLUMNS} and rank {RANK}")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return picture


SCALE = Scale((), "seconds; nothing is trained", {"scores": judged})
INFLUENCE = Figure("Eq. (4): channel influence factors", {"full": SCALE, "small": SCALE}, draw)
