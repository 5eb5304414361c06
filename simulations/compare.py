"""Several strategies over one channel: a table and a picture."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from laser_fl.config import RunConfig, parse
from laser_fl.data.metrics import Metric, metrics_in
from laser_fl.registry import SCHEMES
from laser_fl.schemes.base import Scheme
from laser_fl.storage.files import METRICS
from simulations.figures.curves import COLOURS
from simulations.reading import read_csv
from simulations.side_by_side import Outcome
from simulations.texts import Listing

HIGHLIGHTED = ("sgd", "z-sgd", "laser")
BOLD: dict[str, Any] = {"lw": 2.2, "zorder": 3}
FAINT: dict[str, Any] = {"lw": 1.2, "alpha": 0.55}
AXES = {
    "round": "round",
    "channel_uses": "channel uses",
    "energy": "energy of all clients and the server",
    "latency_seconds": "time on the air (s)",
}
SCORES = {"test": "last", "ema_test": "averaged", "best_ema_test": "best avg."}


def frame(outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Return all summaries, a row per strategy."""
    return pd.DataFrame([{"strategy": name, "reason": o.reason, **o.summary} for name, o in outcomes.items()])


def listing(outcomes: Mapping[str, Outcome], config: RunConfig) -> Listing:
    """Return the scores, the values sent and their cost, a row per strategy."""
    metric = _metric(outcomes)
    numbers = (*SCORES.values(), "sent", "ratio", "power", "time")
    scale = f"{metric.label}; " if metric else ""
    return Listing(
        title=_title(config),
        heads=("strategy", *numbers),
        rows=[_row(name, outcome, metric, config) for name, outcome in outcomes.items()],
        numbers=numbers,
        caption=f"{scale}values sent and power: per client, in rounds in which anybody transmits",
    )


def _row(name: str, outcome: Outcome, metric: Metric | None, config: RunConfig) -> Sequence[str]:
    summary = outcome.summary
    if not summary or metric is None:
        return (name, "failed", *[""] * (len(SCORES) + 3))
    digits = 1 if metric.in_percent else 2
    return (
        name,
        *(f"{metric.factor * float(summary[f'{score}_{metric.name}']):.{digits}f}" for score in SCORES),
        f"{summary['uplink_floats_per_round']:,.0f}",
        "nothing sent" if math.isinf(ratio := float(summary["compression_ratio"])) else f"{ratio:.0f}x",
        "no noise" if is_noiseless(name) or math.isinf(config.power) else f"{summary['max_power_used']:.4g}",
        f"{summary['seconds_total']:.0f} s",
    )


def picture(outcomes: Mapping[str, Outcome], config: RunConfig, folder: Path, over: str = "round") -> Path | None:
    """Draw the test scores; LASER and its two references stand out.

    Args:
        outcomes: of the strategies, by name.
        config: of all runs but for the strategy; the title is made of it.
        folder: for the file, which is named after the metric.
        over: the horizontal axis, a key of AXES.

    Returns:
        The file; None where no run was evaluated.
    """
    files = {name: outcome.folder / METRICS for name, outcome in outcomes.items()}
    metrics = {name: read_csv(path, growing=True) for name, path in files.items() if path.is_file()}
    metric = next((metric for table in metrics.values() for metric in metrics_in(table.columns)), None)
    if metric is None:
        return None
    with matplotlib.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for name, table in metrics.items():
            _draw(axes, name, table, metric, over)
        axes.plot([], [], color="grey", lw=1, ls="--", label="averaged weights")
        axes.set(xlabel=AXES[over], xscale="linear" if over == "round" else "log", title=_title(config))
        axes.set(ylabel=f"test {metric.label}", yscale=metric.scale(axes))
        if metric.in_percent:
            axes.set_ylim(0, 100)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right" if metric.best is max else "upper right", frameon=False, ncols=2)
        path = folder / f"{metric.name}.png"
        figure.savefig(path, dpi=150)
    return path


def _draw(axes: Axes, name: str, table: pd.DataFrame, metric: Metric, over: str) -> None:
    """Draw one run's curves."""
    current, averaged = (metric.factor * table[f"{kind}_{metric.name}"] for kind in ("test", "ema_test"))
    style = {"color": COLOURS.get(name, "grey"), **(BOLD if name in HIGHLIGHTED else FAINT)}
    if over == "energy" and is_noiseless(name):  # the energy is in the gradient's unit
        axes.axhline(current.iloc[-1], ls=":", label=f"{name} (last)", **style)
        return
    axes.plot(table[over], current, label=name, **style)
    if name in HIGHLIGHTED:
        axes.plot(table[over], averaged, **style | {"lw": 1.0, "ls": "--", "alpha": 0.6})


def _metric(outcomes: Mapping[str, Outcome]) -> Metric | None:
    """Return the metric of the completed runs; None where there is none."""
    return next((metric for outcome in outcomes.values() for metric in metrics_in(outcome.summary)), None)


def is_noiseless(name: str) -> bool:
    """Return True for a strategy that is defined on ideal channels at any power; False for an unknown one."""
    if name not in SCHEMES:
        return False
    scheme: Scheme = SCHEMES.build(name, parse({}))
    return scheme.traits.noiseless


def _title(config: RunConfig) -> str:
    return f"{config.task}, {config.model}, {config.clients} clients, {config.channel} at power {config.power:g}"
