"""One look for pictures, pages and tables: colours and lines of curves, names and units of numbers.

Two strategies differ in colour, dash and marker, and by colour or dash alone for readers who see fewer colours, in
greyscale, on white and on dark ground (tests/simulations/test_look.py computes it). Averaged weights are drawn with
their strategy's dash, current weights thin and faint in the same colour.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from laser_fl.data.metrics import CLIENTS, Metric

BYTES_PER_VALUE = 4  # float32: a value on the air, a norm in the side channel, a value of the model on the way down
DIRECT_LABELS_ABOVE = 5  # curves; with more, their names stand at the lines' ends instead of in a legend
FAINT_WIDTH, FAINT_OPACITY = 0.8, 0.45  # of the current weights' curves
THOUSAND, SMALL, MANY = 1000, 1e-3, 1e9
DIGITS = 3  # significant, of numbers that are not whole

DASHES: dict[str, tuple[float, ...]] = {  # lengths on and off, in widths of the line
    "solid": (),
    "dash": (4, 2),
    "dot": (1, 1.5),
    "dashdot": (4, 1.5, 1, 1.5),
    "longdash": (9, 2),
    "longdashdot": (8, 1.5, 1, 1.5, 1, 1.5),
}


@dataclass(frozen=True)
class CurveStyle:
    """The look of a curve. dash: a key of DASHES, which are plotly's names. marker: matplotlib's. width: in points."""

    colour: str
    dash: str
    marker: str
    width: float = 1.7

    def for_matplotlib(self, current: bool = False) -> dict[str, Any]:
        """Return arguments of `Axes.plot`; of the thin, faint curve of the current weights where `current`."""
        if current:
            return {"color": self.colour, "ls": "-", "lw": FAINT_WIDTH, "alpha": FAINT_OPACITY}
        dashes = DASHES[self.dash]
        return {"color": self.colour, "ls": (0, dashes) if dashes else "-", "lw": self.width}

    def for_plotly(self, current: bool = False) -> dict[str, Any]:
        """Return plotly's `line`; of the thin, faint curve of the current weights where `current`."""
        if current:
            red, green, blue = (int(self.colour[i : i + 2], 16) for i in (1, 3, 5))
            return {"color": f"rgba({red},{green},{blue},{FAINT_OPACITY})", "dash": "solid", "width": FAINT_WIDTH}
        lengths = ",".join(f"{length * self.width:g}px" for length in DASHES[self.dash])
        return {"color": self.colour, "dash": lengths or "solid", "width": self.width}


# LASER is the widest and has gaps, through which laser-adaptive is seen where both curves are one.
STYLES = {
    "sgd": CurveStyle("#666666", "dot", "*"),
    "z-sgd": CurveStyle("#db7a00", "dash", "s"),
    "signum": CurveStyle("#0c8a72", "longdashdot", "^"),
    "random-k": CurveStyle("#8246be", "dashdot", "v"),
    "sketch": CurveStyle("#8c5510", "solid", "P"),
    "a-dsgd": CurveStyle("#e6599e", "dashdot", "X"),
    "d-dsgd": CurveStyle("#6a9a00", "dot", "<"),
    "laser-adaptive": CurveStyle("#1a8fe3", "solid", "D"),
    "laser": CurveStyle("#c8102e", "longdash", "o", 2.8),
}
SPARE = tuple(CurveStyle(style.colour, style.dash, style.marker) for style in reversed(STYLES.values()))


def style_of(label: str, index: int = 0) -> CurveStyle:
    """Return a strategy's own style, or for any other label the style with this number among the spare ones."""
    if label in STYLES:
        return STYLES[label]
    turn, place = divmod(index, len(SPARE))
    style, dashes, markers = SPARE[place], list(DASHES), [spare.marker for spare in SPARE]
    dash = dashes[(dashes.index(style.dash) + turn) % len(dashes)]
    return CurveStyle(style.colour, dash, markers[(place + turn) % len(markers)], style.width)


def drawing_order(labels: Iterable[str]) -> list[str]:
    """Return the labels as their curves are drawn above each other: LASER last, on top."""
    return sorted(labels, key=lambda label: label == "laser")


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Return heights for labels, as near to the given ones as a `gap` between them allows; order is kept.

    Labels that would touch form a group, which is centred on the mean of the heights it stands for. Where [low, high]
    has no room for all, the gap is smaller.

    Args:
        heights: of the lines' ends, in any order.
        gap: the least distance of two labels.
        low: the lower limit of the heights.
        high: the upper limit.
    """
    gap = min(gap, (high - low) / max(1, len(heights) - 1))
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    groups: list[tuple[list[float], float]] = []  # heights from below, and where the group's first label is
    for place in order:
        ends = [min(max(heights[place], low), high)]
        start = ends[0]
        while groups and groups[-1][1] + len(groups[-1][0]) * gap > start:
            ends = groups.pop()[0] + ends
            start = sum(ends) / len(ends) - gap * (len(ends) - 1) / 2
            start = min(max(start, low), high - gap * (len(ends) - 1))
        groups.append((ends, start))
    placed = [start + i * gap for ends, start in groups for i in range(len(ends))]
    return [height for _, height in sorted(zip(order, placed, strict=True))]


@dataclass(frozen=True)
class Quantity:
    """The name of a number of a summary, of metrics.csv or of ledger.csv, and how it is shown.

    factor: multiplies a value to show it, in `unit`. decimals: number of them; None: as many as are worth it.
    short: the name in heads of tables, where that is narrower. endless: the word for infinity.
    """

    key: str
    name: str
    unit: str = ""
    factor: float = 1.0
    decimals: int | None = None
    short: str = ""
    endless: str = "∞"

    def shown(self, value: object) -> str:
        """Return a value with its unit: ``89.2 %``, ``1,572``, ``6.3 kB``, ``-3.1 dB``; nothing for None and NaN."""
        text = self.bare(value)
        if not text or not self.unit or not text[-1].isdigit():
            return text
        return text + self.unit if self.unit == "x" else f"{text} {self.unit}"

    def bare(self, value: object) -> str:
        """Return a value without its unit, for a column whose head has it."""
        number = _number(value)
        if number is None:
            return "" if value is None else {True: "yes", False: "no"}.get(value, str(value))  # type: ignore[call-overload]
        if math.isnan(number):
            return ""
        if math.isinf(number):
            return self.endless if number > 0 else f"-{self.endless}" if self.endless == "∞" else "nothing sent"
        if self.unit == "B":
            return scaled_bytes(number)
        return digits(number * self.factor, self.decimals)

    @property
    def label(self) -> str:
        """The name, with the unit in brackets, for axes and pages."""
        return self._with_unit(self.name)

    @property
    def head(self) -> str:
        """The short name, with the unit in brackets, for heads of tables."""
        return self._with_unit(self.short or self.name)

    def _with_unit(self, name: str) -> str:
        return f"{name} ({self.unit})" if self.unit not in ("", "B", "x") else name


def digits(number: float, decimals: int | None = None) -> str:
    """Return a number with commas between thousands, to three significant digits unless it is whole or large."""
    if decimals is not None:
        return f"{number:,.{decimals}f}"
    if abs(number) >= MANY or 0 < abs(number) < SMALL:
        return f"{number:.{DIGITS}g}"
    if number == int(number) or abs(number) >= THOUSAND:
        return f"{number:,.0f}"
    return f"{number:.{DIGITS}g}"


def scaled_bytes(count: float) -> str:
    """Return a number of bytes in B, kB, MB or GB; 1 kB is 1,000 B."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < THOUSAND:
            return f"{count:.{0 if unit == 'B' or abs(count) >= THOUSAND / 10 else 1}f} {unit}"
        count /= THOUSAND
    return f"{count:,.1f} GB"


def _number(value: object) -> float | None:
    """Return a number, also one that JSON or CSV has as text; None for anything else."""
    if value is None or isinstance(value, bool):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


_KNOWN = (
    Quantity("round", "round"),
    Quantity("rounds", "rounds"),
    Quantity("epoch", "epoch"),
    Quantity("train_loss", "training loss"),
    Quantity("seed", "seed"),
    Quantity("clients", "clients"),
    Quantity("parameters", "values of the model"),
    Quantity("power", "power budget per client and round", short="power budget", endless="no limit"),
    Quantity("power_budget", "power budget per client and round", short="power budget", endless="no limit"),
    Quantity("max_power_used", "largest power of any client in a round", short="power used"),
    Quantity("participants", "clients that took part", short="participants"),
    Quantity("transmitters", "clients that transmitted", short="transmitters"),
    Quantity("transmitters_per_round", "clients that transmitted, per round", short="transmitters"),
    Quantity("channel_uses", "channel uses"),
    Quantity("total_channel_uses", "channel uses"),
    Quantity("uplink_floats", "values sent per client", short="values sent"),
    Quantity("uplink_floats_per_round", "values sent per client and round", short="values/round"),
    Quantity("uplink_bytes_per_round", "bytes sent per client and round", "B", short="bytes/round"),
    Quantity("downlink_floats", "values received per client", short="values down"),
    Quantity("side_channel_floats", "values in the side channel", short="side channel"),
    Quantity("compression_ratio", "fewer values than the model has", "x", short="fewer", endless="nothing sent"),
    Quantity("noise_std", "noise in the received mean (rms)", short="noise"),
    Quantity("snr_db", "signal to noise", "dB", decimals=1, short="SNR", endless="no noise"),
    Quantity("mean_snr_db", "signal to noise, mean over rounds", "dB", decimals=1, short="SNR", endless="no noise"),
    Quantity("energy", "energy of all clients and the server", short="energy"),
    Quantity("uplink_energy", "energy of all clients", short="energy"),
    Quantity("downlink_energy", "energy of the server", short="energy down"),
    Quantity("total_uplink_energy", "energy of all clients", short="energy"),
    Quantity("total_downlink_energy", "energy of the server", short="energy down"),
    Quantity("latency_seconds", "time on the air", "s"),
    Quantity("total_latency_seconds", "time on the air", "s"),
    Quantity("faults", "clients' replies refused or missing", short="faults"),
    Quantity("total_faults", "clients' replies refused or missing", short="faults"),
    Quantity("retries", "exchanges repeated", short="retries"),
    Quantity("total_retries", "exchanges repeated", short="retries"),
    Quantity("clipped", "clients with a signal at its norm bound", short="clipped"),
    Quantity("total_clipped", "clients with a signal at its norm bound", short="clipped"),
    Quantity("left_out", "clients with faults"),
    Quantity("idle_rounds", "rounds in which nobody transmitted", short="idle rounds"),
    Quantity("learning_rate_factor", "factor of the learning rate"),
    Quantity("peak_device_mb", "largest memory on the device", "MB", short="memory"),
    Quantity("seconds_per_round", "time per round", "s", short="time/round"),
    Quantity("seconds_total", "time in all", "s", short="time"),
    Quantity("stopped_early", "stopped early"),
    Quantity("stop_reason", "reason for stopping"),
)
KNOWN = {quantity.key: quantity for quantity in _KNOWN}
SCORES = {"best_ema_test_": "best of averaged weights", "ema_test_": "averaged weights", "test_": ""}
SHORT = {"best_ema_test_": "best", "ema_test_": "averaged", "test_": "last"}
OF_CLIENTS = ("mean", "worst_decile", "spread")
PERCENT_DECIMALS = 1


def quantity(key: str) -> Quantity:
    """Return how a number is named and shown; any key has a name, also the score of anybody's metric."""
    if key in KNOWN:
        return KNOWN[key]
    for opening in SCORES:
        if key.startswith(opening):
            return _score(key, opening)
    return Quantity(key, key.replace("_", " ").replace("-", " "))


def _score(key: str, opening: str) -> Quantity:
    metric, part = _metric(key.removeprefix(opening))
    of_clients = "clients' " if part else "test " if opening == "test_" else ""
    more = ", ".join(word for word in (part, SCORES[opening]) if word)
    name = of_clients + metric.name.replace("_", " ") + (f", {more}" if more else "")
    decimals = PERCENT_DECIMALS if metric.in_percent else None
    return Quantity(key, name, metric.unit, metric.factor, decimals, "" if part else SHORT[opening])


def _metric(name: str) -> tuple[Metric, str]:
    """Return the metric of a score, and which number over the clients it is; nothing for the central one."""
    if name.startswith(CLIENTS):
        for part in OF_CLIENTS:
            if name.endswith(f"_{part}"):
                return Metric.named(name.removeprefix(CLIENTS).removesuffix(f"_{part}")), part.replace("_", " ")
    return Metric.named(name), ""
