"""A notice on completed runs whose loss has risen: they diverged without ending in NaN, or overfitted."""

from collections.abc import Mapping, Sequence
from typing import Any

from laser_fl.data.metrics import LOSS, Metric, metrics_in
from simulations.look import digits

FAR = 2  # times its lowest value, from which on a loss at the end of a run is a notice
KIND = "ema_test"  # of the averaged weights, which noise moves less than the current ones


def risen(evaluations: Sequence[Mapping[Any, Any]]) -> str:
    """Return a notice where the last test loss, or a metric of which less is better, is FAR above its lowest; else "".

    evaluations: the rows of metrics.csv, as text. Losses that are not above 0 have no such multiple.
    """
    if not evaluations:
        return ""
    found = [metric for metric in metrics_in(evaluations[0], KIND) if metric.sign < 0]
    for metric in dict.fromkeys((Metric.named(LOSS), *found)):
        scores = [(float(row.get(f"{KIND}_{metric.name}") or "nan"), row.get("round", "?")) for row in evaluations]
        last, (lowest, round) = scores[-1][0], min(scores)
        if last > FAR * lowest > 0:
            ended = f"test {metric.name.replace('_', ' ')} ended at {digits(last)}"
            known = f"more than {FAR} times its lowest, {digits(lowest)} in round {round} (averaged weights)"
            return f"{ended}, {known}: the run diverged or overfitted"
    return ""
