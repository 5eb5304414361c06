"""The charts of a report: every value is shown where one points at it."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from laser_fl.data.metrics import CLIENTS, Metric
from simulations.compare import AXES, is_noiseless
from simulations.figures.curves import NAMES
from simulations.figures.judges import scored
from simulations.identity import NOT_THE_RUN
from simulations.look import CurveStyle, drawing_order, quantity, style_of
from simulations.report.drawing import band, finish, line
from simulations.report.folders import Record, RunRecord
from simulations.results import AVERAGED, best_of, by_metric, metric_of, varied

POINTS = 1000  # per curve at most; longer curves show every n-th round
FEW = 10  # curves; with more, the current weights are not drawn beside the averaged
SHADED = "Shaded: one standard deviation over the seeds."
JAGGED: dict[str, Any] = {"line": {"dash": "solid", "width": 1.3}}  # a value per round, in which dashes are lost
BUDGET: dict[str, Any] = {"line": {"dash": "dot", "width": 1.6}, "opacity": 1.0}
NOT_A_CURVE = ("seed", "device", *NOT_THE_RUN)

Group = Sequence[RunRecord]


def charts(record: Record) -> list[tuple[str, go.Figure]]:
    """Return (heading, chart) for everything that a record can show."""
    made: list[tuple[str, go.Figure]] = []
    tables = over_powers(record)
    for metric, table in tables.items():
        made.append((f"Score over power{_of(metric, tables)}", over_power(table)))
    evaluated = evaluated_runs(record)
    for metric, groups in evaluated.items():
        made.append((f"Score over rounds{_of(metric, evaluated)}", over(metric, groups, "round")))
        if limited := {label: runs for label, runs in groups.items() if has_budget(runs[0])}:
            for axis in ("energy", "channel_uses"):
                made.append((f"Score over {AXES[axis]}{_of(metric, evaluated)}", over(metric, limited, axis)))
        made.append((f"Training loss over rounds{_of(metric, evaluated)}", losses(groups)))
        if fair := {label: runs for label, runs in groups.items() if all(_of_clients(metric, r) for r in runs)}:
            made.append((f"Clients' own scores over rounds{_of(metric, evaluated)}", clients(metric, fair)))
    if limited_runs := grouped([run for run in record.runs if len(run.ledger) and has_budget(run)]):
        made += [("Power over rounds", power(limited_runs)), ("Signal to noise over rounds", snr(limited_runs))]
    return made


def over_powers(record: Record) -> dict[Metric, pd.DataFrame]:
    """Return the results that have a curve over power, by their metric."""
    return {metric: table for metric, table in by_metric(record.results).items() if table["power"].nunique() > 1}


def evaluated_runs(record: Record) -> dict[Metric, dict[str, Group]]:
    """Return the evaluated runs, grouped, by their metric."""
    apart: dict[Metric, list[RunRecord]] = {}
    for run in record.runs:
        if run.metric is not None:
            apart.setdefault(run.metric, []).append(run)
    return {metric: grouped(runs) for metric, runs in apart.items()}


def _of(metric: Metric, all_metrics: Collection[Metric]) -> str:
    """Return the metric's name for a heading, where there are several."""
    return f", {metric.name}" if len(all_metrics) > 1 else ""


def has_budget(run: RunRecord) -> bool:
    """Return True where a run's power is limited; else its signals are in the gradient's unit."""
    return not is_noiseless(str(run.config["strategy"])) and float(run.config["power"]) < float("inf")


def grouped(runs: Sequence[RunRecord]) -> dict[str, Group]:
    """Group runs that differ in their seeds only, by the label that distinguishes them from the others."""
    keys = varied(pd.DataFrame([run.config for run in runs]), NOT_A_CURVE)
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        label = label_of({key: run.config.get(key) for key in keys}) or str(run.config["strategy"])
        groups.setdefault(label, []).append(run)
    return dict(groups)


def label_of(values: Mapping[str, object]) -> str:
    """Return the label of a curve, made of the keys that distinguish it from the others."""
    return ", ".join(str(value) if key == "strategy" else f"{key}={value}" for key, value in values.items())


def curves_over_power(results: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the results that count, with their ``score``, by the label of their curve over power."""
    counted = scored(results)
    keys = varied(counted, (*NOT_A_CURVE, "power", *best_of(results))) or ["strategy"]
    groups = counted.groupby(keys, sort=False)
    return {label_of(dict(zip(keys, values, strict=True))): rows for values, rows in groups}


def styled(labels: Collection[str]) -> list[tuple[str, CurveStyle]]:
    """Return the labels in the order in which their curves are drawn, with their styles."""
    styles = {label: style_of(label, index) for index, label in enumerate(labels)}
    return [(label, styles[label]) for label in drawing_order(labels)]


def over_power(results: pd.DataFrame) -> go.Figure:
    """Draw mean score and standard deviation over seeds, a curve per combination of the other keys that vary."""
    curves = curves_over_power(results)
    finite = results["power"][results["power"] < float("inf")]
    chart = go.Figure()
    for label, style in styled(curves):
        means = curves[label].groupby("power")["score"].agg(["mean", "std"]).reset_index()
        endless = bool((means["power"] == float("inf")).all())  # without noise: a line across
        if endless:
            means = pd.concat([means, means]).assign(power=[finite.min(), finite.max()])
        hover = "%{y:.4g}" + ("" if endless else " at power %{x:.4~g}") + f"<extra>{label}</extra>"
        line(chart, means["power"], means["mean"], style, label, hovertemplate=hover)
        band(chart, means["power"], means["mean"], means["std"], style=style, name=label)
    label = f"test {metric_of(results).label}, {NAMES[AVERAGED]}"
    caption = f"Mean over seeds of the averaged weights' best score. {SHADED}"
    return finish(chart, quantity("power").name, label, caption, log_x=True)


def over(metric: Metric, groups: Mapping[str, Group], axis: str) -> go.Figure:
    """Draw the mean score over seeds: of the averaged weights, and thin where curves are few, of the current ones.

    Args:
        metric: of the score.
        groups: runs by the label of their curve.
        axis: a key of AXES.
    """
    chart = go.Figure()
    few = len(groups) <= FEW
    for label, style in styled(groups):
        means, stds = (table[table[axis] > 0] for table in moments_of(groups[label], axis))
        for kind, beside in (("ema_test", ""), *([("test", "current weights")] if few else [])):
            column, extra = f"{kind}_{metric.name}", f"<extra>{label}, {beside or 'averaged weights'}</extra>"
            scores, hover = means[column] * metric.factor, f"%{{y:.4g}} at %{{x:,.4~g}}{extra}"
            line(chart, means[axis], scores, style, label, beside, hovertemplate=hover)
            if not beside:
                band(chart, means[axis], scores, stds[column] * metric.factor, style=style, name=label)
    caption = "With markers: the averaged weights." + (" Thin: the current weights." if few else "")
    shaded = f" {SHADED}" if any(len(runs) > 1 for runs in groups.values()) else ""
    return finish(chart, AXES[axis], f"test {metric.label}", caption + shaded, log_x=axis != "round")


def clients(metric: Metric, groups: Mapping[str, Group]) -> go.Figure:
    """Draw the mean of the clients' scores on their own held-out examples, and thin, the worst tenth's."""
    chart = go.Figure()
    for label, style in styled(groups):
        means = means_of(groups[label])
        for part, beside in (("mean", ""), ("worst_decile", "worst tenth of the clients")):
            scores = means[f"test_{CLIENTS}{metric.name}_{part}"] * metric.factor
            hover = f"%{{y:.4g}} in round %{{x}}<extra>{label}, {beside or 'mean of the clients'}</extra>"
            line(chart, means["round"], scores, style, label, beside, hovertemplate=hover)
    caption = "With markers: the mean of the clients. Thin: the worst tenth of them."
    return finish(chart, "round", f"clients' {metric.label}", caption)


def _of_clients(metric: Metric, run: RunRecord) -> bool:
    return f"test_{CLIENTS}{metric.name}_mean" in run.metrics


def losses(groups: Mapping[str, Group]) -> go.Figure:
    """Draw the clients' mean training loss."""
    chart = go.Figure()
    for label, style in styled(groups):
        means, stds = moments_of(groups[label], "round")
        hover = f"%{{y:.4g}} in round %{{x}}<extra>{label}</extra>"
        line(chart, means["round"], means["train_loss"], style, label, hovertemplate=hover)
        band(chart, means["round"], means["train_loss"], stds["train_loss"], style=style, name=label)
    caption = "Mean over the clients." + (f" {SHADED}" if any(len(runs) > 1 for runs in groups.values()) else "")
    return finish(chart, "round", "training loss", caption)


def power(groups: Mapping[str, Group]) -> go.Figure:
    """Draw the largest power that any client used in any of the runs, and thin and dotted, the budget."""
    columns = {"max_power_used": "", "power_budget": quantity("power_budget").short}
    caption = "With markers: the largest power of any client. Dotted: the budget, which no client may exceed."
    chart = _of_ledgers(groups, columns, quantity("max_power_used").name, caption)
    budgets = {float(run.config["power"]) for runs in groups.values() for run in runs}
    return chart.update_yaxes(type="log") if len(budgets) > 1 else chart.update_yaxes(rangemode="tozero")


def snr(groups: Mapping[str, Group]) -> go.Figure:
    """Draw the SNR of the received signals, the mean over seeds."""
    return _of_ledgers(groups, {"snr_db": ""}, quantity("snr_db").label, "Of the received mean of the signals.")


def _of_ledgers(groups: Mapping[str, Group], columns: Mapping[str, str], label: str, caption: str) -> go.Figure:
    """Draw columns of the ledgers.

    Args:
        groups: runs by the label of their curve.
        columns: with what their curves are beside the main ones; nothing for these.
        label: of the vertical axis.
        caption: of the chart.
    """
    chart = go.Figure()
    points = POINTS // -(-len(groups) // FEW)  # a page of hundreds of curves must still open
    for name, style in styled(groups):
        table = _ledger(groups[name], columns)
        table = table.iloc[:: -(-len(table) // points)]
        for column, beside in columns.items():
            hover = f"%{{y:.6g}} in round %{{x}}<extra>{name}{beside and ', ' + beside}</extra>"
            more = BUDGET if beside else JAGGED
            rounds = pd.Series(table.index)
            line(chart, rounds, table[column], style, name, beside, hovertemplate=hover, **more)
    return finish(chart, "round", label, caption)


def _ledger(runs: Group, columns: Collection[str]) -> pd.DataFrame:
    """Return columns of the runs' ledgers by rounds: the mean SNR, the largest power."""
    ledgers = pd.concat([run.ledger[["round", *columns]] for run in runs])
    ledgers = ledgers.apply(pd.to_numeric, errors="coerce").replace([float("inf"), -float("inf")], float("nan"))
    rounds = ledgers.groupby("round")
    table: pd.DataFrame = rounds.mean() if "snr_db" in columns else rounds.max()
    return table


def means_of(runs: Group) -> pd.DataFrame:
    """Return the metrics by rounds, averaged over seeds; only rounds in which all runs were evaluated."""
    return moments_of(runs, "round")[0]


def moments_of(runs: Group, axis: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return mean and standard deviation over seeds of the metrics by rounds; of the axis, the means in both."""
    rounds = pd.concat([run.metrics for run in runs]).groupby("round")
    complete = rounds.size() == len(runs)
    means, stds = rounds.mean()[complete].reset_index(), rounds.std()[complete].reset_index()
    return means, stds.assign(**{axis: means[axis]})
