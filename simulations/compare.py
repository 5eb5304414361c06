"""Several strategies over one channel: a table and a picture."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from laser_fl.config import RunConfig, parse
from laser_fl.files import METRICS
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Scheme
from laser_fl.tables import from_fields
from simulations.figures.curves import COLOURS
from simulations.side_by_side import Outcome

COMPARISON = "comparison.csv"
HIGHLIGHTED = ("sgd", "z-sgd", "laser")
BOLD: dict[str, Any] = {"lw": 2.2, "zorder": 3}
FAINT: dict[str, Any] = {"lw": 1.2, "alpha": 0.55}
AXES = {
    "round": "round",
    "channel_uses": "channel uses",
    "energy": "energy of all clients and the server",
    "latency_seconds": "time on the air (s)",
}
ACCURACIES = {"test_accuracy": "last", "ema_test_accuracy": "averaged", "best_ema_test_accuracy": "best avg."}


def frame(outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """All summaries, a row per strategy."""
    return pd.DataFrame([{"strategy": name, "reason": o.reason, **o.summary} for name, o in outcomes.items()])


def table(outcomes: Mapping[str, Outcome], config: RunConfig) -> Table:
    """Accuracy, what was sent and what it cost, a row per strategy."""
    result = Table(title=_title(config), caption="accuracy in %; values sent and power: per client and round")
    result.add_column("strategy", no_wrap=True)
    for head in (*ACCURACIES.values(), "sent", "ratio", "power", "time"):
        result.add_column(head, justify="right", no_wrap=True)
    for name, outcome in outcomes.items():
        summary = outcome.summary
        if not summary:
            result.add_row(name, "failed")
            continue
        result.add_row(
            name,
            *(f"{100 * summary[column]:.1f}" for column in ACCURACIES),
            f"{summary['uplink_floats_per_round']:,.0f}",
            "silent" if math.isinf(ratio := float(summary["compression_ratio"])) else f"{ratio:.0f}x",
            "no noise" if is_noiseless(name) or math.isinf(config.power) else f"{summary['max_power_used']:.4g}",
            f"{summary['seconds_total']:.0f} s",
        )
    return result


def picture(outcomes: Mapping[str, Outcome], config: RunConfig, path: Path, over: str = "round") -> None:
    """Draw test accuracy; LASER and its two references stand out from the other baselines.

    over: a key of AXES.
    """
    with matplotlib.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, outcome in outcomes.items():
            if not (outcome.folder / METRICS).is_file():
                continue
            metrics = pd.read_csv(outcome.folder / METRICS)
            style = {"color": COLOURS.get(name, "grey"), **(BOLD if name in HIGHLIGHTED else FAINT)}
            if over == "energy" and is_noiseless(name):  # its energy is in the gradient's unit
                axes.axhline(100 * metrics["test_accuracy"].iloc[-1], ls=":", label=f"{name} (last)", **style)
                continue
            axes.plot(metrics[over], 100 * metrics["test_accuracy"], label=name, **style)
            if name in HIGHLIGHTED:
                faint = style | {"lw": 1.0, "ls": "--", "alpha": 0.6}
                axes.plot(metrics[over], 100 * metrics["ema_test_accuracy"], **faint)
        axes.plot([], [], color="grey", lw=1, ls="--", label="averaged weights")
        axes.set(
            xlabel=AXES[over],
            xscale="linear" if over == "round" else "log",
            ylabel="test accuracy (%)",
            title=_title(config),
        )
        axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False, ncols=2)
        figure.savefig(path, dpi=150)


def is_noiseless(name: str) -> bool:
    """Whether a strategy is defined on ideal links, whatever the power."""
    scheme: Scheme = from_fields(SCHEMES.load(name), parse({}))
    return scheme.promises.noiseless


def _title(config: RunConfig) -> str:
    return f"{config.task}, {config.model}, {config.clients} clients, {config.channel} at power {config.power:g}"
