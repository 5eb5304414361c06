"""Figure 6: the energy share of the eight largest singular values of each gradient matrix, by epoch, without noise."""

from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure as Picture

from laser_fl.storage.files import SPECTRUM
from simulations import presets
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import MARKER_SIZE, STYLE
from simulations.figures.judges import verdict
from simulations.look import style_of
from simulations.reading import read_csv
from simulations.sweep import Grid

TOP = 8
LAYERS = {  # ours for the paper's "first hidden", "central" and "last hidden" layers, and the numbers of its text
    "layer1.0.conv1.weight": ("first hidden", 80.0),
    "layer3.0.conv1.weight": ("central", 55.0),
    "layer4.1.conv2.weight": ("last hidden", 80.0),
}
TOLERANCE = 10.0  # the paper's text rounds the curves of its picture over all epochs


def energies(results: pd.DataFrame) -> pd.DataFrame:
    """Return the energies in %, a row per seed, evaluation and matrix."""
    tables = [
        read_csv(Path(folder) / SPECTRUM, ("epoch", "energy")).assign(seed=seed)
        for folder, seed in zip(results["folder"], results["seed"], strict=True)
    ]
    table = pd.concat(tables, ignore_index=True)
    return table.assign(energy=100 * table["energy"])


def judged(results: pd.DataFrame) -> pd.DataFrame:
    """Return the mean over the run, and its standard deviation over seeds, per matrix, beside the paper's for three.

    The choice of the layers for the paper's "first hidden", "central" and "last hidden" is our reading.
    """
    per_seed = energies(results).groupby(["block", "seed"], sort=False)["energy"].mean()
    grouped = per_seed.groupby("block", sort=False)
    table = pd.DataFrame({"mean": grouped.mean(), "std": grouped.std()}).reset_index()
    known = [LAYERS.get(block, ("", float("nan"))) for block in table["block"]]
    table["layer"] = [name for name, _ in known]
    table["paper"] = [value for _, value in known]
    table["tol."] = TOLERANCE
    words = {"within": "within", "better": "above", "worse": "below", "": ""}
    table["verdict"] = [words[verdict(ahead, TOLERANCE)] for ahead in (table["mean"] - table["paper"]).tolist()]
    return table


def draw(results: pd.DataFrame) -> Picture:
    """Draw a curve per matrix, mean over seeds; the three that the paper shows stand out."""
    table = energies(results).groupby(["block", "epoch"], sort=False)["energy"].mean().reset_index()
    with matplotlib.rc_context(STYLE):
        picture = Picture(figsize=(6.4, 4.2), layout="constrained")
        axes = picture.subplots()
        for block, rows in table.groupby("block", sort=False):
            if block not in LAYERS:
                axes.plot(rows["epoch"], rows["energy"], color="grey", lw=0.6, alpha=0.5)
        for index, (block, (name, _)) in enumerate(LAYERS.items()):
            rows, style = table[table["block"] == block], style_of("", index)
            marks: Any = {"marker": style.marker, "ms": MARKER_SIZE, "label": f"{name}, {block}"}
            axes.plot(rows["epoch"], rows["energy"], **marks, **style.for_matplotlib())
        axes.plot([], [], color="grey", lw=0.6, alpha=0.5, label="the other matrices")
        axes.set(xlabel="epoch", ylabel=f"energy in the top {TOP} components (%)", ylim=(0, 100))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8)
    return picture


# The paper does not state the step size; this is the largest of those that it searches.
NOISELESS = {"strategy": "sgd", "power": float("inf"), "learning-rate": 0.05, "spectrum-rank": TOP}
SMALL = {"width": 32, "rounds": 24, "evaluate-every": 4, "evaluate-examples": 500, "device": "cpu", "threads": 1}


def _scale(seeds: tuple[int, ...], changes: dict[str, object], time: str) -> Scale:
    return Scale((Grid(presets.load("cifar10") | NOISELESS | changes, {"seed": seeds}),), time, {"scores": judged})


FIGURE6 = Figure(
    title=f"Figure 6: energy of the gradients' top {TOP} components on CIFAR-10 (%)",
    scales={
        "full": _scale((0, 1, 2), {}, "about 2 GPU hours (3 runs of 42 minutes), estimated for an H100"),
        "small": _scale((0, 1), SMALL, "12 minutes on 2 cores, beside other work"),
    },
    draw=draw,
    own=("spectrum-rank",),
)
