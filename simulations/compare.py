"""Several strategies over one channel: a table and a picture."""

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from laser_fl.config import RunConfig, parse
from laser_fl.data.metrics import Metric, metrics_in
from laser_fl.registry import SCHEMES
from laser_fl.schemes.base import Scheme
from laser_fl.storage.files import LEDGER, METRICS
from simulations.figures.curves import BOTH_WEIGHTS, both_weights
from simulations.figures.naming import FONT_SIZE, INK, name_curves
from simulations.look import BYTES_PER_VALUE, compact, drawing_order, quantity, style_of
from simulations.reading import read_csv
from simulations.rising import risen
from simulations.run_result import rows_of
from simulations.side_by_side import Outcome
from simulations.standing import metric_of, stopped, verdict
from simulations.texts import Listing

AXES = {key: quantity(key).label for key in ("round", "channel_uses", "energy", "latency_seconds")}
SCORES = ("test", "ema_test", "best_ema_test")
COSTS = ("values", "bytes", "in all", "energy", "uses", "power", "time")
NONE = "–"
LINE_LENGTH = 100
UNITS = (
    f"values, bytes ({BYTES_PER_VALUE} a value): sent per client and round; in all: values per client until the end; "
    "uses: of the channel; energy: of all clients and the server, in the unit of the power."
)
GLOSSARY = (
    "averaged: of a moving average of the weights, which noise moves less than the last weights; power: the largest "
    "energy of a client in a round"
)
LOOK: Any = {"font.size": 11, "axes.spines.top": False, "axes.spines.right": False}
HALO = [patheffects.withStroke(linewidth=3, foreground="white")]
ROOM = 0.04  # of the range of the scores, above and below the curves


def frame(outcomes: Mapping[str, Outcome]) -> pd.DataFrame:
    """Return all summaries, a row per strategy."""
    return pd.DataFrame([{"strategy": name, "reason": o.reason, **o.summary} for name, o in outcomes.items()])


def listing(outcomes: Mapping[str, Outcome], config: RunConfig) -> Listing:
    """Return the scores and what they cost, a row per strategy; below, the winner, and the words in the heads."""
    metric = metric_of(outcomes)
    numbers = (*(quantity(f"{score}_accuracy").short for score in SCORES), *COSTS)
    below = [_verdict(outcomes, metric)] if metric else []
    below += [f"{name} {stopped(outcome)}." for name, outcome in outcomes.items() if not outcome.summary]
    below += [f"{name}: {notice}." for name, o in outcomes.items() if (notice := risen(rows_of(o.folder / METRICS)))]
    below += [f"{name}: nothing sent, since no message fits its power." for name in _silent(outcomes)]
    below += [f"{metric.label if metric else 'no score'}; {UNITS}", _glossary(outcomes, config)]
    return Listing(
        title=_title(config),
        heads=("strategy", *numbers),
        rows=[_row(name, outcome, metric, config) for name, outcome in outcomes.items()],
        numbers=numbers,
        caption="\n".join(textwrap.fill(line, LINE_LENGTH, break_on_hyphens=False) for line in below if line),
    )


def _row(name: str, outcome: Outcome, metric: Metric | None, config: RunConfig) -> Sequence[str]:
    summary = outcome.summary
    if not summary or metric is None:
        return (name, stopped(outcome).split()[0], *[NONE] * (len(SCORES) - 1 + len(COSTS)))
    scores = (quantity(f"{score}_{metric.name}").bare(summary[f"{score}_{metric.name}"]) for score in SCORES)
    return (name, *scores, *_costs(name, outcome, config))


def _costs(name: str, outcome: Outcome, config: RunConfig) -> Sequence[str]:
    """Return the cells of COSTS; power and energy without a limit are in the gradient's unit, and not shown."""
    summary = outcome.summary
    values, limited = float(summary["uplink_floats_per_round"]), _has_limit(name, config)
    energy = sum(float(summary.get(f"total_{way}_energy", math.nan)) for way in ("uplink", "downlink"))
    return (
        quantity("uplink_floats").bare(round(values)),
        quantity("uplink_bytes_per_round").shown(values * BYTES_PER_VALUE),
        compact(_values_in_all(outcome)),
        compact(energy) if limited else NONE,
        compact(float(summary.get("total_channel_uses", math.nan))),
        quantity("max_power_used").shown(summary["max_power_used"]) if limited else quantity("power").endless,
        quantity("seconds_total").shown(round(float(summary["seconds_total"]))),
    )


def _values_in_all(outcome: Outcome) -> float:
    """Return the number of values that each client sent in the whole run."""
    path = outcome.folder / LEDGER
    if path.is_file():
        return float(read_csv(path, ("uplink_floats",), growing=True)["uplink_floats"].sum())
    rounds = float(outcome.summary.get("rounds", math.nan))
    return float(outcome.summary["uplink_floats_per_round"]) * rounds


def _silent(outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return the strategies that never sent a value."""
    return [name for name, o in outcomes.items() if o.summary.get("uplink_floats_per_round") == 0]


def _has_limit(name: str, config: RunConfig) -> bool:
    return not is_noiseless(name) and config.power < math.inf


def is_noiseless(name: str) -> bool:
    """Return True for a strategy that is defined on ideal channels at any power; False for an unknown one."""
    if name not in SCHEMES:
        return False
    scheme: Scheme = SCHEMES.build(name, parse({}))
    return scheme.traits.noiseless


def _verdict(outcomes: Mapping[str, Outcome], metric: Metric) -> str:
    return verdict(outcomes, metric, [name for name in outcomes if is_noiseless(name)])


def _glossary(outcomes: Mapping[str, Outcome], config: RunConfig) -> str:
    limit = f", of {config.power:g} at most" if config.power < math.inf else ""
    free = not all(_has_limit(name, config) for name in outcomes)
    return f"{GLOSSARY}{limit}{'; no limit: ideal links, no noise' if free else ''}."


def picture(outcomes: Mapping[str, Outcome], config: RunConfig, folder: Path, over: str = "round") -> Path | None:
    """Draw the test scores of averaged weights, and thin those of the current ones; LASER is drawn on top.

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
    with matplotlib.rc_context(LOOK):
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        for name in drawing_order(metrics):
            _draw(axes, name, metrics[name], metric, over, list(outcomes).index(name))
        _finish(axes, metric, config, over)
        _mark_stopped(axes, outcomes, metrics, metric, over)
        name_curves(axes)
        path = folder / f"{metric.name}.png"
        figure.savefig(path, dpi=150, metadata=_described(outcomes, metric, config, over))
    return path


def _draw(axes: Axes, name: str, table: pd.DataFrame, metric: Metric, over: str, index: int) -> None:
    """Draw one run's curves."""
    current, averaged = (metric.factor * table[f"{kind}_{metric.name}"] for kind in ("test", "ema_test"))
    style = style_of(name, index)
    if over == "energy" and is_noiseless(name) and len(table):  # the energy is in the gradient's unit
        axes.axhline(averaged.iloc[-1], label=f"{name}, no noise", **style.for_matplotlib())
        return
    both_weights(axes, table[over], averaged, current, style, name)


def _finish(axes: Axes, metric: Metric, config: RunConfig, over: str) -> None:
    """Name the axes and the two kinds of curves, and leave a little room around these."""
    axes.set(xlabel=AXES[over])
    if over != "round":
        axes.set(xscale="log")
        plain = FuncFormatter(lambda value, _: compact(value))
        axes.xaxis.set(major_locator=LogLocator(subs=(1, 2, 5)), major_formatter=plain, minor_locator=NullLocator())
    axes.set(ylabel=quantity(f"test_{metric.name}").label, yscale=metric.scale(axes))
    axes.margins(x=0.01, y=ROOM)
    if metric.in_percent:
        low, high = axes.get_ylim()
        axes.set_ylim(max(0, low), min(100, high))
    axes.grid(alpha=0.3)
    axes.set_title(_title(config), loc="left", fontsize=12, pad=20)
    axes.text(0, 1.02, BOTH_WEIGHTS, transform=axes.transAxes, fontsize=FONT_SIZE, color=INK)


def _mark_stopped(
    axes: Axes, outcomes: Mapping[str, Outcome], tables: Mapping[str, pd.DataFrame], metric: Metric, over: str
) -> None:
    """Write at the ends of their curves, or into a corner, which strategies diverged or failed, and in which round.

    Args:
        axes: of the curves.
        outcomes: of the strategies, by name.
        tables: the metrics of those that were evaluated.
        metric: that is drawn.
        over: the horizontal axis.
    """
    nowhere = []
    for index, (name, outcome) in enumerate(outcomes.items()):
        if outcome.summary:
            continue
        words, look = f"{name} {stopped(outcome)}", style_of(name, index)
        if name not in tables or tables[name].empty or (over == "energy" and is_noiseless(name)):
            nowhere.append(words)
            continue
        last = tables[name].iloc[-1]
        end = last[over], metric.factor * last[f"ema_test_{metric.name}"]
        axes.plot(*end, "x", color=look.colour, ms=9, mew=2.5, label="_end")
        offset: Any = {"xytext": (8, 0), "textcoords": "offset points", "va": "center", "path_effects": HALO}
        axes.annotate(words, end, fontsize=FONT_SIZE, color=INK, zorder=5, **offset)
        _unname(axes, name)
    axes.text(0.98, 0.02, "\n".join(nowhere), transform=axes.transAxes, ha="right", fontsize=FONT_SIZE, color=INK)


def _unname(axes: Axes, name: str) -> None:
    """Take the name off a curve that has it beside its end."""
    for line in axes.lines:
        if line.get_label() == name:
            line.set_label("_stopped")


def _described(outcomes: Mapping[str, Outcome], metric: Metric, config: RunConfig, over: str) -> dict[str, str]:
    """Return the picture in words, for readers who do not see it."""
    key = f"ema_test_{metric.name}"
    ends = [
        f"{name} {quantity(key).shown(outcome.summary[key]) if outcome.summary else stopped(outcome)}"
        for name, outcome in outcomes.items()
    ]
    text = f"{quantity(f'test_{metric.name}').name} over {AXES[over]}; averaged weights at the end: {', '.join(ends)}."
    return {"Title": _title(config), "Description": f"{text} {_verdict(outcomes, metric)}".strip()}


def _title(config: RunConfig) -> str:
    return f"{config.task}, {config.model}, {config.clients} clients, {config.channel} at power {config.power:g}"
