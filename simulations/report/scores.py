"""The score of a run, from its summary, or from its evaluations where it has no summary yet."""

from laser_fl.data.metrics import Metric, metrics_in
from simulations.report.folders import RunRecord
from simulations.results import AVERAGED


def metric_of_run(run: RunRecord) -> Metric | None:
    """Return the metric of a run; None where it was never evaluated."""
    return run.metric or next(iter(metrics_in(run.summary, AVERAGED)), None)


def score_of(run: RunRecord, metric: Metric, kind: str = AVERAGED) -> float:
    """Return a score of a run that was evaluated.

    Args:
        run: the run.
        metric: its metric.
        kind: the best of the averaged weights, the last of them (``ema_test``), or that of the current ones (``test``).
    """
    if (key := f"{kind}_{metric.name}") in run.summary:
        return float(run.summary[key])
    scores = run.metrics[f"{kind.removeprefix('best_')}_{metric.name}"].tolist()
    return float(metric.best(scores) if kind == AVERAGED else scores[-1])
