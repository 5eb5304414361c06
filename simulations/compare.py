"""Several strategies over one channel: a table and a picture."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.figure import Figure
from rich.table import Table

from laser_fl.config import RunConfig
from laser_fl.run_folder import METRICS

ACCURACIES = {"test_accuracy": "last", "ema_test_accuracy": "averaged", "best_ema_test_accuracy": "best avg."}


@dataclass(frozen=True)
class Outcome:
    """One strategy's run. summary: as in summary.json; empty where the run failed with `reason`."""

    folder: Path
    summary: Mapping[str, Any]
    reason: str = ""


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
            f"{summary['compression_ratio']:.0f}x",
            "no noise" if float(summary["mean_snr_db"]) == math.inf else f"{summary['max_power_used']:.4g}",
            f"{summary['seconds_total']:.0f} s",
        )
    return result


def picture(outcomes: Mapping[str, Outcome], config: RunConfig, path: Path) -> None:
    """Draw test accuracy over rounds: strong lines the current weights, faint dashes their average."""
    with matplotlib.rc_context({"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for index, (name, outcome) in enumerate(outcomes.items()):
            if not (outcome.folder / METRICS).is_file():
                continue
            metrics = pd.read_csv(outcome.folder / METRICS)
            color = f"C{index}"
            axes.plot(metrics["round"], 100 * metrics["test_accuracy"], color=color, lw=2, label=name)
            axes.plot(metrics["round"], 100 * metrics["ema_test_accuracy"], color=color, lw=1, ls="--", alpha=0.6)
        axes.plot([], [], color="grey", lw=1, ls="--", label="averaged weights")
        axes.set(xlabel="round", ylabel="test accuracy (%)", title=_title(config))
        axes.set_ylim(top=100)
        axes.grid(alpha=0.3)
        axes.legend(loc="lower right", frameon=False)
        figure.savefig(path, dpi=150)


def _title(config: RunConfig) -> str:
    return f"{config.task}, {config.model}, {config.clients} clients, {config.channel} at power {config.power:g}"
