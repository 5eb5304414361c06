"""The charts of a report: every value can be read off by pointing at it."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from matplotlib.colors import to_hex

from laser_fl.config import RunConfig
from simulations.compare import AXES, is_noiseless
from simulations.figures.curves import COLOURS
from simulations.figures.judges import scored
from simulations.report.folders import Record, RunRecord
from simulations.sweep import score_of

POINTS = 1000  # of a curve; of longer ones every n-th round is drawn
FEW = 10  # curves, up to which the current weights are drawn beside the averaged
HEIGHT = 420
NOT_A_CURVE = ("power", "seed", "learning-rate", "out-dir", "data-dir", "tracker")

Group = Sequence[RunRecord]


def charts(record: Record) -> list[tuple[str, go.Figure]]:
    """(heading, chart) of everything that a record can show."""
    made: list[tuple[str, go.Figure]] = []
    if len(record.results) and record.results["power"].nunique() > 1:
        made.append(("Score over power", over_power(record.results)))
    evaluated = [run for run in record.runs if run.metric]
    if evaluated:
        groups = grouped(evaluated)
        made.append(("Score over rounds", over(groups, "round")))
        if limited := {label: runs for label, runs in groups.items() if has_budget(runs[0])}:
            made += [(f"Score over {AXES[axis]}", over(limited, axis)) for axis in ("energy", "channel_uses")]
        made.append(("Training loss over rounds", losses(groups)))
    limited_runs = [run for run in record.runs if len(run.ledger) and has_budget(run)]
    if record.kind in ("run", "comparison") and limited_runs:
        made += [("Power over rounds", power(limited_runs)), ("Signal to noise over rounds", snr(limited_runs))]
    return made


def has_budget(run: RunRecord) -> bool:
    """Whether its power is limited; else what it transmits is in the gradient's unit."""
    return not is_noiseless(str(run.config["strategy"])) and float(run.config["power"]) < float("inf")


def grouped(runs: Sequence[RunRecord]) -> dict[str, Group]:
    """Runs that differ in their seeds only, by what tells them from the others."""
    configs = pd.DataFrame([run.config for run in runs])
    keys = varied(configs, NOT_A_CURVE[1:])
    groups: dict[str, list[RunRecord]] = {}
    for run in runs:
        said = [str(run.config[key]) if key == "strategy" else f"{key}={run.config[key]}" for key in keys]
        groups.setdefault(", ".join(said) or str(run.config["strategy"]), []).append(run)
    return dict(groups)


def varied(configs: pd.DataFrame, aside: Sequence[str]) -> list[str]:
    """The keys that tell curves apart, the strategy first."""
    keys = [field.alias or name for name, field in RunConfig.model_fields.items()]
    differ = [key for key in keys if key in configs and key not in aside and configs[key].astype(str).nunique() > 1]
    return sorted(differ, key=lambda key: key != "strategy")


def over_power(results: pd.DataFrame) -> go.Figure:
    """Mean score and standard deviation over seeds; a curve per combination of the other keys that vary."""
    _, best = score_of(results)
    results = scored(results)
    keys = varied(results, NOT_A_CURVE) or ["strategy"]
    chart = go.Figure()
    for values, rows in results.groupby(keys, sort=False):
        strategy, name = rows["strategy"].iloc[0], ", ".join(str(value) for value in values)
        means = rows.groupby("power")["score"].agg(["mean", "std"]).reset_index()
        finite = means[means["power"] < float("inf")]
        if finite.empty:  # without noise
            line = {"dash": "dash", "color": colour(strategy)}
            chart.add_hline(float(means["mean"].iloc[-1]), line=line, annotation_text=name)
            continue
        chart.add_scatter(
            x=finite["power"],
            y=finite["mean"],
            error_y={"array": finite["std"].fillna(0)},
            name=name,
            line={"color": colour(strategy) if keys == ["strategy"] else None},
            hovertemplate="%{y:.4g} ± %{error_y.array:.2g} at power %{x:.4~g}",
        )
    label = "test accuracy, best average (%)" if best is max else "perplexity, best average"
    return _finish(chart, "power per client and round", label, log_x=True)


def over(groups: Mapping[str, Group], axis: str) -> go.Figure:
    """The mean score over seeds, of averaged weights (solid) and, of a few curves, of the current ones (dotted)."""
    chart, metric = go.Figure(), ""
    for label, runs in groups.items():
        metric = runs[0].metric or ""
        means = _mean(runs)
        means = means[means[axis] > 0]
        for column, dash in ((f"ema_test_{metric}", "solid"), (f"test_{metric}", "dot")):
            if dash == "dot" and len(groups) > FEW:
                continue
            weights = "averaged weights" if dash == "solid" else "current weights"
            chart.add_scatter(
                x=means[axis],
                y=means[column] * (100 if metric == "accuracy" else 1),
                name=label,
                legendgroup=label,
                showlegend=dash == "solid",
                line={"dash": dash, "color": _colour_of(groups, runs)},
                hovertemplate=f"%{{y:.4g}} at %{{x:,.4~g}}<extra>{label}, {weights}</extra>",
            )
    label = "test accuracy (%)" if metric == "accuracy" else f"test {metric}"
    return _finish(chart, AXES[axis], label, log_x=axis != "round")


def losses(groups: Mapping[str, Group]) -> go.Figure:
    """The clients' mean training loss."""
    chart = go.Figure()
    for label, runs in groups.items():
        means, line = _mean(runs), {"color": _colour_of(groups, runs)}
        hover = "%{y:.4g} in round %{x}"
        chart.add_scatter(x=means["round"], y=means["train_loss"], name=label, line=line, hovertemplate=hover)
    return _finish(chart, "round", "training loss")


def power(runs: Sequence[RunRecord]) -> go.Figure:
    """The largest power that any client used (solid), and the budget (dotted)."""
    chart = _of_ledgers(runs, {"max_power_used": "solid", "power_budget": "dot"}, "power, largest of all clients")
    return chart.update_yaxes(rangemode="tozero")


def snr(runs: Sequence[RunRecord]) -> go.Figure:
    """Of what the server heard."""
    return _of_ledgers(runs, {"snr_db": "solid"}, "SNR (dB)")


def colour(strategy: str) -> str | None:
    """A strategy's, the same in all charts and pictures; None for one that has none."""
    return to_hex(COLOURS[strategy]) if strategy in COLOURS else None


def _of_ledgers(runs: Sequence[RunRecord], columns: Mapping[str, str], label: str) -> go.Figure:
    """columns: and their dashes."""
    chart = go.Figure()
    for run in runs:
        rows = run.ledger.iloc[:: -(-len(run.ledger) // POINTS)]
        for column, dash in columns.items():
            values = pd.to_numeric(rows[column], errors="coerce")
            chart.add_scatter(
                x=rows["round"],
                y=values.where(values.abs() < float("inf")),
                name=f"{run.label}, {column.replace('_', ' ')}",
                line={"dash": dash, "color": colour(str(run.config["strategy"]))},
                hovertemplate="%{y:.6g} in round %{x}",
            )
    return _finish(chart, "round", label)


def _mean(runs: Group) -> pd.DataFrame:
    """Metrics by rounds, averaged over seeds; of evaluations that all have made."""
    rounds = pd.concat([run.metrics for run in runs]).groupby("round")
    return rounds.mean()[rounds.size() == len(runs)].reset_index()


def _colour_of(groups: Mapping[str, Group], runs: Group) -> str | None:
    """The strategy's, where every group is another strategy."""
    strategies = [group[0].config["strategy"] for group in groups.values()]
    return colour(str(runs[0].config["strategy"])) if len(set(strategies)) == len(strategies) else None


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
