"""The charts of a report: every value is shown where one points at it."""

from collections.abc import Collection, Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from matplotlib.colors import to_hex

from laser_fl.data.metrics import CLIENTS, Metric
from simulations.compare import AXES, is_noiseless
from simulations.figures.curves import COLOURS, NAMES
from simulations.figures.judges import scored
from simulations.report.folders import Record, RunRecord
from simulations.results import AVERAGED, best_of, by_metric, metric_of, varied
from simulations.sweep import NOT_THE_RUN

POINTS = 1000  # per curve at most; longer curves show every n-th round
FEW = 10  # curves; with more, the current weights are not drawn beside the averaged
HEIGHT = 420
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


def over_power(results: pd.DataFrame) -> go.Figure:
    """Draw mean score and standard deviation over seeds, a curve per combination of the other keys that vary."""
    curves = curves_over_power(results)
    finite = results["power"][results["power"] < float("inf")]
    chart = go.Figure()
    for label, rows in curves.items():
        means = rows.groupby("power")["score"].agg(["mean", "std"]).reset_index()
        endless = bool((means["power"] == float("inf")).all())  # without noise: a line across
        repeated = pd.concat([means, means]).assign(power=[finite.min(), finite.max()]) if endless else means
        chart.add_scatter(
            x=repeated["power"],
            y=repeated["mean"],
            error_y={"array": repeated["std"].fillna(0), "visible": not endless},
            name=label,
            line={"color": _colour_of(curves, rows["strategy"].iloc[0]), "dash": "dash" if endless else "solid"},
            hovertemplate="%{y:.4g} ± %{error_y.array:.2g}" + ("" if endless else " at power %{x:.4~g}"),
        )
    label = f"test {metric_of(results).label}, {NAMES[AVERAGED]}"
    return _finish(chart, "power per client and round", label, log_x=True)


def over(metric: Metric, groups: Mapping[str, Group], axis: str) -> go.Figure:
    """Draw the mean score over seeds: of averaged weights solid and, where curves are few, of the current ones dotted.

    Args:
        metric: of the score.
        groups: runs by the label of their curve.
        axis: a key of AXES.
    """
    chart = go.Figure()
    for label, runs in groups.items():
        means = means_of(runs)
        means = means[means[axis] > 0]
        for column, dash in ((f"ema_test_{metric.name}", "solid"), (f"test_{metric.name}", "dot")):
            if dash == "dot" and len(groups) > FEW:
                continue
            weights = "averaged weights" if dash == "solid" else "current weights"
            chart.add_scatter(
                x=means[axis],
                y=means[column] * metric.factor,
                name=label,
                legendgroup=label,
                showlegend=dash == "solid",
                line={"dash": dash, "color": _colour_of(groups, str(runs[0].config["strategy"]))},
                hovertemplate=f"%{{y:.4g}} at %{{x:,.4~g}}<extra>{label}, {weights}</extra>",
            )
    return _finish(chart, AXES[axis], f"test {metric.label}", log_x=axis != "round")


def clients(metric: Metric, groups: Mapping[str, Group]) -> go.Figure:
    """Draw the mean of the clients' scores on their own held-out examples (solid), and the worst tenth's (dotted)."""
    chart = go.Figure()
    for label, runs in groups.items():
        means = means_of(runs)
        for part, dash in (("mean", "solid"), ("worst_decile", "dot")):
            chart.add_scatter(
                x=means["round"],
                y=means[f"test_{CLIENTS}{metric.name}_{part}"] * metric.factor,
                name=f"{label}, {part.replace('_', ' ')}",
                line={"dash": dash, "color": _colour_of(groups, str(runs[0].config["strategy"]))},
                hovertemplate="%{y:.4g} in round %{x}",
            )
    return _finish(chart, "round", f"clients' {metric.label}")


def _of_clients(metric: Metric, run: RunRecord) -> bool:
    return f"test_{CLIENTS}{metric.name}_mean" in run.metrics


def losses(groups: Mapping[str, Group]) -> go.Figure:
    """Draw the clients' mean training loss."""
    chart = go.Figure()
    for label, runs in groups.items():
        means, line = means_of(runs), {"color": _colour_of(groups, str(runs[0].config["strategy"]))}
        hover = "%{y:.4g} in round %{x}"
        chart.add_scatter(x=means["round"], y=means["train_loss"], name=label, line=line, hovertemplate=hover)
    return _finish(chart, "round", "training loss")


def power(groups: Mapping[str, Group]) -> go.Figure:
    """Draw the largest power that any client used in any of the runs (solid), and the budget (dotted)."""
    chart = _of_ledgers(groups, {"max_power_used": "solid", "power_budget": "dot"}, "power, largest of all clients")
    budgets = {float(run.config["power"]) for runs in groups.values() for run in runs}
    return chart.update_yaxes(type="log") if len(budgets) > 1 else chart.update_yaxes(rangemode="tozero")


def snr(groups: Mapping[str, Group]) -> go.Figure:
    """Draw the SNR of the received signals, the mean over seeds."""
    return _of_ledgers(groups, {"snr_db": "solid"}, "SNR (dB)")


def colour(strategy: str) -> str | None:
    """Return a strategy's colour, the same in all charts and pictures; None for one that has none."""
    return to_hex(COLOURS[strategy]) if strategy in COLOURS else None


def _of_ledgers(groups: Mapping[str, Group], columns: Mapping[str, str], label: str) -> go.Figure:
    """Draw columns of the ledgers. columns: with their dashes."""
    chart = go.Figure()
    points = POINTS // -(-len(groups) // FEW)  # a page of hundreds of curves must still open
    for name, runs in groups.items():
        ledgers = pd.concat([run.ledger[["round", *columns]] for run in runs])
        ledgers = ledgers.apply(pd.to_numeric, errors="coerce").replace([float("inf"), -float("inf")], float("nan"))
        rounds = ledgers.groupby("round")
        table = rounds.mean() if "snr_db" in columns else rounds.max()
        table = table.iloc[:: -(-len(table) // points)]
        for column, dash in columns.items():
            chart.add_scatter(
                x=table.index,
                y=table[column],
                name=f"{name}, {column.replace('_', ' ')}",
                line={"dash": dash, "color": _colour_of(groups, str(runs[0].config["strategy"]))},
                hovertemplate="%{y:.6g} in round %{x}",
            )
    return _finish(chart, "round", label)


def means_of(runs: Group) -> pd.DataFrame:
    """Return the metrics by rounds, averaged over seeds; only rounds in which all runs were evaluated."""
    rounds = pd.concat([run.metrics for run in runs]).groupby("round")
    return rounds.mean()[rounds.size() == len(runs)].reset_index()


def _colour_of(curves: Mapping[str, object], strategy: str) -> str | None:
    """Return the strategy's colour, where every curve is another strategy."""
    return colour(strategy) if strategy in curves else None


def _finish(chart: go.Figure, x: str, y: str, log_x: bool = False) -> go.Figure:
    return chart.update_layout(
        template="plotly_white",
        height=HEIGHT,
        margin={"l": 60, "r": 20, "t": 10, "b": 50},
        hovermode="closest",
        showlegend=True,
        xaxis={"title": {"text": x}, "type": "log" if log_x else "linear"},
        yaxis={"title": {"text": y}},
    )
