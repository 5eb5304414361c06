"""Table 3: the size of a client's message per round for GPT-2."""

from functools import cache

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as Picture

from laser_fl.config import parse
from simulations import presets
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import STYLE
from simulations.figures.judges import verdict
from simulations.look import style_of
from simulations.volume import model_blocks, volumes

PAPER = {"z-sgd": (496, 1), "signum": (15, 33), "random-k": (99, 5), "sketch": (99, 5), "laser": (3, 165)}  # MB, factor
ROUNDING = 0.5  # the paper's numbers are whole


@cache
def sizes() -> pd.DataFrame:
    """Return MB per client and round; LASER's are of both factors, as the paper counts them.

    The paper's factors of reduction come from rounded sizes. It has no number for A-DSGD, which it did not run.
    """
    base = presets.load("gpt2-wikitext103") | {"factor-exchange": "two-phase"}
    blocks = model_blocks("gpt2", parse(base))
    full = sum(block.size for block in blocks)
    rows = []
    for name, (paper, factor) in PAPER.items():
        (volume,) = volumes(parse(base | {"strategy": name}), blocks)
        row = {
            "strategy": name,
            "MB": volume.digital_bytes / 1e6,
            "paper": paper,
            "reduction": full * 4 / volume.digital_bytes,
        }
        rows.append(row | {"paper reduction": factor, "verdict": verdict(paper - volume.digital_bytes / 1e6, ROUNDING)})
    return pd.DataFrame(rows)


def judged(results: pd.DataFrame) -> pd.DataFrame:
    """Return the sizes; nothing is trained for them."""
    return sizes()


def draw(results: pd.DataFrame) -> Picture:
    """Draw a bar per strategy."""
    table = sizes()
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 3.2), layout="constrained")
        axes = picture.subplots()
        bars = axes.barh(table["strategy"], table["MB"], color=[style_of(name).colour for name in table["strategy"]])
        axes.bar_label(bars, [f"{size:,.1f}" for size in table["MB"]], padding=3)
        axes.plot(table["paper"], table["strategy"], "k|", ms=14, label="paper")
        axes.set(xlabel="MB per client and round", xscale="log", xlim=(1, 2000))
        axes.invert_yaxis()
        axes.legend(frameon=False)
    return picture


SCALE = Scale((), "seconds; nothing is trained", {"scores": judged})
TABLE3 = Figure("Table 3: what a client sends for GPT-2 (MB per round)", {"full": SCALE, "small": SCALE}, draw)
