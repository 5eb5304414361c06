"""The result of a run in a few lines: how good, at what cost, within its budget or not, and what can be done next."""

import csv
import json
import math
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from laser_fl.data.metrics import CLIENTS, metrics_in
from laser_fl.errors import DataError, LaserError, brief, reason_of
from laser_fl.storage.files import CHECKPOINTS, CONFIG, LEDGER, METRICS, SUMMARY, WEIGHTS, whole_lines
from simulations.look import BYTES_PER_VALUE, digits, quantity, scaled_bytes
from simulations.rising import risen

KINDS = {"test": "{} last", "ema_test": "{} with averaged weights", "best_ema_test": "{} their best"}
OF_CLIENTS = {"mean": "{} on average", "worst_decile": "{} in the worst tenth", "spread": "{} spread"}
NO_ENERGY = "not counted: without noise, any energy does"
Row = tuple[str, str]
Ledger = Sequence[Mapping[str, str]]


def title(summary: Mapping[str, Any]) -> str:
    """Return a heading: what was trained, and how far."""
    if "rounds" not in summary:
        return f"run {summary['status']}"
    about = ", ".join(str(summary[key]) for key in ("task", "model") if summary[key] != "auto")
    return f"{summary['strategy']}: {about}, {summary['clients']} clients, {summary['rounds']:,} rounds"


def result_rows(folder: Path, summary: Mapping[str, Any]) -> list[Row]:
    """Return names and values to show of a run that has ended. Raises DataError where its ledger is damaged.

    folder: of the run. summary: as in its ``summary.json``; that of a run that failed may lack everything but the
    reason.
    """
    ledger = rows_of(folder / LEDGER)
    rows = [*_end(summary), *_scores(summary), *_rising(folder, summary), *_cost(summary, ledger)]
    rows += _verification(ledger)
    files = [name for name in (SUMMARY, METRICS, LEDGER, WEIGHTS) if (folder / name).is_file()]
    return [*rows, ("files", f"{folder}: {', '.join(files)}")]


def next_steps(folder: Path, summary: Mapping[str, Any]) -> list[str]:
    """Return the commands that make sense for the run in `folder` now."""
    place = shlex.quote(str(folder))
    if summary["status"] != "completed":
        return [f"laser-fl run --resume {place}"] if _has_checkpoint(folder) else []
    longer = _longer(folder, summary)
    return [f"laser-fl report {place}", *([f"laser-fl run --resume {place} -c {longer}"] if longer else [])]


def rows_of(path: Path) -> list[dict[str, str]]:
    """Read the whole lines of a table that may still grow; none where there is no file. Raises DataError.

    It is read without pandas, which a run does not need otherwise.
    """
    try:
        return list(csv.DictReader(whole_lines(path).splitlines()))
    except FileNotFoundError:
        return []
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: must be readable ({reason_of(error)})") from None


def _end(summary: Mapping[str, Any]) -> Iterator[Row]:
    """Yield how the run ended, where that was not its last round; and the step size, where callbacks changed it."""
    if summary["status"] != "completed":
        yield summary["status"], brief(str(summary.get("reason", "")))
    elif summary.get("stopped_early"):
        yield "stopped", f"after round {summary['rounds']:,}: {brief(str(summary.get('stop_reason', '')))}"
    if "learning_rate_factor" in summary:
        yield "step size", f"{digits(float(summary['learning_rate_factor']))} times the config's at the end"


def _scores(summary: Mapping[str, Any]) -> Iterator[Row]:
    for metric in metrics_in(summary):
        known = {f"{kind}_{metric.name}": words for kind, words in KINDS.items()}
        yield metric.name.replace("_", " "), _listed(summary, known)
    for metric in metrics_in(summary, f"test_{CLIENTS.rstrip('_')}"):
        if metric.name.endswith("_mean"):
            yield from _clients_scores(summary, metric.name.removesuffix("_mean"))


def _rising(folder: Path, summary: Mapping[str, Any]) -> Iterator[Row]:
    """Yield the notice on a completed run whose loss has risen."""
    if summary["status"] == "completed" and (notice := risen(rows_of(folder / METRICS))):
        yield "notice", notice


def _clients_scores(summary: Mapping[str, Any], name: str) -> Iterator[Row]:
    """Yield the scores of the clients on their own examples."""
    known = {f"test_{CLIENTS}{name}_{part}": words for part, words in OF_CLIENTS.items()}
    yield f"clients' own {name.replace('_', ' ')}", _listed(summary, known)


def _listed(summary: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Return those of the scores in `words` that the summary has, each in its words."""
    return ", ".join(words[key].format(quantity(key).shown(summary[key])) for key in words if key in summary)


def _cost(summary: Mapping[str, Any], ledger: Ledger) -> Iterator[Row]:
    """Yield the costs: values, channel uses, energy, time."""
    if "uplink_floats_per_round" in summary:
        yield "sent", _sent(summary)
        if (transmitters := float(summary.get("transmitters_per_round", summary["clients"]))) < summary["clients"]:
            yield "clients", f"{digits(transmitters)} of {summary['clients']:,} transmitted in a round, on average"
        uses, air = summary["total_channel_uses"], seconds(summary["total_latency_seconds"])
        yield "channel", f"{uses:,} uses, {air} on the air"
        yield "energy", NO_ENERGY if _noiseless(ledger) else _energy(summary)
    if "seconds_total" in summary:
        pace = f", {seconds(summary['seconds_per_round'])} a round" if "seconds_per_round" in summary else ""
        yield "time", f"{seconds(summary['seconds_total'])}{pace}"


def _sent(summary: Mapping[str, Any]) -> str:
    values, ratio = float(summary["uplink_floats_per_round"]), float(summary["compression_ratio"])
    if values == 0:
        return "nothing: no message fits into what the power carries"
    compared = "as many as" if ratio == 1 else f"{digits(ratio)} times fewer than" if ratio > 1 else "more than"
    size = f"{compared} the model's {summary['parameters']:,}"
    return f"{values:,.0f} values ({scaled_bytes(values * BYTES_PER_VALUE)}) per client and round, {size}"


def _energy(summary: Mapping[str, Any]) -> str:
    down = float(summary["total_downlink_energy"])
    server = f", {digits(down)} of the server" if down else ""
    return f"{digits(float(summary['total_uplink_energy']))} of all clients together{server}"


def _verification(ledger: Ledger) -> Iterator[Row]:
    """Yield the budget and the power that was used of it; clients that were left out; rounds in which nobody sent."""
    if not ledger:
        return
    try:
        yield "power", _power([(float(row["max_power_used"]), float(row["power_budget"])) for row in ledger])
        faults = sum(int(row["faults"]) for row in ledger)
        idle = sum(int(row["transmitters"]) == 0 for row in ledger)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{LEDGER}: must be a run's ledger ({reason_of(error)})") from None
    if faults:
        where = sum(row["faults"] != "0" for row in ledger)
        yield "left out", f"{faults:,} replies, in {where:,} of {len(ledger):,} rounds; {LEDGER} names the clients"
    if idle:
        yield "idle", f"{idle:,} of {len(ledger):,} rounds, in which nobody transmitted"


def _noiseless(ledger: Ledger) -> bool:
    return any(row.get("power_budget") == "inf" for row in ledger)


def _power(used: list[tuple[float, float]]) -> str:
    """Return the largest part of a round's budget that any client used. used: energy and budget by round."""
    budgets = [budget for _, budget in used]
    if math.isinf(max(budgets)):
        return "no budget: noiseless"
    least, most = (f"{budget:.4g}" for budget in (min(budgets), max(budgets)))
    budget = most if least == most else f"of {least} to {most}"
    part = max(energy / budget for energy, budget in used)
    if part == 0:
        return f"nothing of the budget {budget} used"
    return f"at most {100 * part:.1f} % of the budget {budget} used, by any client in any of {len(used):,} rounds"


def _longer(folder: Path, summary: Mapping[str, Any]) -> str:
    """Return a key and value that make the run twice as long; empty where it cannot go on."""
    from laser_fl.storage.resume import about, lengthened, refuse_other_run

    if not _has_checkpoint(folder):
        return ""
    try:
        known = about(folder)
        key = known.config.length
        length = 2 * known.config.to_flat()[key]
        refuse_other_run(folder, lengthened(known.config, {key: length}), known.engine)
    except LaserError:  # it was stopped, or something depends on its length
        return ""
    return f"{key}={length}"


def _has_checkpoint(folder: Path) -> bool:
    return any((folder / CHECKPOINTS).glob("server-*"))


def read_summary(folder: Path) -> dict[str, Any] | None:
    """Read a run's summary; None where the run has not ended. Raises DataError where it is damaged."""
    return read_object(folder / SUMMARY, "status")


def read_config(folder: Path) -> dict[str, Any] | None:
    """Read the keys of the run in `folder`; None where there is none. Raises DataError where they are damaged."""
    return read_object(folder / CONFIG, "strategy", "rounds", "epochs")


def read_object(path: Path, *keys: str) -> dict[str, Any] | None:
    """Read a file that has `keys`; None where it is missing. Raises DataError where it is damaged."""
    try:
        content = json.loads(path.read_text())
        missing = [key for key in keys if key not in content]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: must be readable ({reason_of(error)})") from None
    if missing or not isinstance(content, dict):
        raise DataError(f"{path}: must be an object with {', '.join(keys)}")
    return content


def seconds(duration: object) -> str:
    """Format a duration."""
    value = float(str(duration))
    if value >= 3600:
        return f"{value / 3600:.1f} h"
    if value >= 60:
        return f"{value / 60:.1f} min"
    if value >= 1:
        return f"{value:.1f} s" if value < 10 else f"{value:.0f} s"
    return f"{1000 * value:.0f} ms" if value >= 0.01 else f"{1000 * value:.2g} ms"
