"""The first screen of a page: did it work, how good, at what cost, was the budget met, in plain sentences."""

import math
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from laser_fl.data.metrics import ACCURACY, Metric
from laser_fl.federated.ledger import POWER_TOLERANCE
from simulations.compare import is_noiseless
from simulations.look import BYTES_PER_VALUE, quantity
from simulations.ranking import ranked, score_in_words
from simulations.report.charts import Group, grouped, has_budget
from simulations.report.folders import Record, RunRecord
from simulations.report.scores import metric_of_run, score_of
from simulations.report.titles import listed
from simulations.report.verdict import verdict_of
from simulations.rising import risen
from simulations.standing import NOT_FINITE

CLASSES = {"mnist-5k": 10, "mnist": 10, "fashion-mnist": 10, "cifar10": 10, "cifar100": 100}  # of equal size
NAMED = 4  # runs that a sentence names
ROUND = re.compile(r"round (\d+)")
UNITS = re.compile(r"(?<=\d) (?=(%|[kMG]?B|s|dB|±)(\W|$))|(?<=±) ")
COSTS = ("total_channel_uses", "total_uplink_energy", "total_latency_seconds", "seconds_total")


@dataclass(frozen=True)
class Answer:
    """A question, its answer in large letters, and sentences that say more. tone: good, bad or nothing."""

    question: str
    short: str
    sentences: Sequence[str]
    tone: str = ""


def answers(record: Record) -> list[Answer]:
    """Return the four answers of a folder."""
    runs = list(record.counted)
    made = [_worked([*runs, *record.failed])]
    if runs:
        made += [_good(grouped(runs)), _cost(grouped(runs)), _budget(grouped(runs))]
    return [replace(answer, short=whole(answer.short), sentences=[*map(whole, answer.sentences)]) for answer in made]


def whole(text: str) -> str:
    """Return a text in which no line breaks between a number and its unit."""
    return UNITS.sub("\u00a0", text)


def ending(run: RunRecord) -> str:
    """Return how a run ended: ``completed``, or for example ``diverged in round 3``."""
    status, reason = str(run.summary["status"]), str(run.summary.get("reason", ""))
    if status == "unfinished":
        return f"unfinished after round {len(run.ledger)}" if len(run.ledger) else "unfinished"
    if status == "completed":
        return status
    found = ROUND.search(reason)
    at = (
        f" in round {found[1]}" if found else f" after round {run.summary['rounds']}" if "rounds" in run.summary else ""
    )
    return ("diverged" if NOT_FINITE.search(reason) else status) + at


def _worked(runs: Sequence[RunRecord]) -> Answer:
    question = "Did it work?"
    bad = [run for run in runs if run.summary["status"] != "completed"]
    sentences = [f"{run.label} {ending(run)}." for run in bad[:NAMED]] if len(runs) > 1 else []
    sentences += [f"So did {len(bad) - NAMED} more, or ended early."] if len(bad) > NAMED else []
    sentences += _disturbances(runs)
    if bad and len(runs) == 1:
        reason = str(bad[0].summary.get("reason", "It has no summary: it is still at work, or was killed."))
        return Answer(question, ending(bad[0]).capitalize(), [reason, *sentences], "bad")
    if bad:
        return Answer(question, f"{len(runs) - len(bad)} of {len(runs)} runs", sentences, "bad")
    mute = sum(map(_sends_nothing, runs))
    if len(runs) == 1:
        completed = f"All {quantity('rounds').bare(runs[0].summary.get('rounds'))} rounds were completed."
        mute = _sends_nothing(runs[0])
        return Answer(
            question, "Nothing was sent" if mute else "Yes", [completed, *sentences], "bad" if mute else "good"
        )
    short, tone = (f"{len(runs) - mute} of {len(runs)} sent", "") if mute else ("Yes", "good")
    return Answer(question, short, [f"All {len(runs)} runs were completed.", *sentences], tone)


def _sends_nothing(run: RunRecord) -> bool:
    return float(run.summary.get("uplink_floats_per_round", 1.0)) == 0


def _disturbances(runs: Sequence[RunRecord]) -> list[str]:
    """Return sentences on what went wrong on the way."""
    made = []
    if mute := [run.label for run in runs if _sends_nothing(run)]:
        who = "No client" if len(runs) == 1 else f"With {listed(mute[:NAMED])}, no client"
        made.append(f"{who} ever sent anything: no message fitted in a round.")
    for key, text in (("idle_rounds", "rounds in which nobody transmitted"), ("total_faults", "faults of clients"),
                      ("total_clipped", "signals at the bound of their norm")):  # fmt: skip
        count = sum(int(run.summary.get(key) or 0) for run in runs if not _sends_nothing(run))
        made += [f"There were {quantity(key).bare(count)} {text}."] if count else []
    return [*made, *_notices(runs)]


def _notices(runs: Sequence[RunRecord]) -> list[str]:
    """Return sentences on completed runs whose loss rose."""
    tables = {run.label: run.metrics.astype(str) for run in _completed(runs)}
    notices = {label: risen(table.to_dict("records")) for label, table in tables.items()}
    return [f"{label}: {notice}." for label, notice in notices.items() if notice][:NAMED]


def _good(groups: Mapping[str, Group]) -> Answer:
    question = "How good is it?"
    metrics = {metric for runs in groups.values() for run in runs if (metric := metric_of_run(run))}
    if not metrics:
        return Answer(question, "Unknown", ["No run was evaluated."])
    if len(metrics) > 1:
        return Answer(question, "See below", ["The runs have different metrics; each has charts of its own."])
    metric = metrics.pop()
    scored = {label: _scored(runs) for label, runs in groups.items()}
    if finished := {label: done for label, runs in scored.items() if (done := _completed(runs))}:
        scored = finished  # the score of a run that diverged is of its better days
    scores = {label: [score_of(run, metric) for run in runs] for label, runs in scored.items() if runs}
    if len(scores) == 1:
        return _one_score(question, next(runs for runs in scored.values() if runs), metric)
    return _scores(question, groups, scores, metric)


def _scored(runs: Group) -> Group:
    return [run for run in runs if metric_of_run(run)]


def _completed(runs: Group) -> Group:
    return [run for run in runs if run.summary["status"] == "completed"]


def _one_score(question: str, runs: Group, metric: Metric) -> Answer:
    """Return the answer where all runs differ in their seeds only."""
    best = [score_of(run, metric) for run in runs]
    means = {kind: statistics.mean(score_of(run, metric, kind) for run in runs) for kind in ("ema_test", "test")}
    shown = {kind: quantity(f"{kind}_{metric.name}").shown(value) for kind, value in means.items()}
    sentences = [
        f"Best test {metric.name} of the averaged weights{f', over {len(runs)} seeds' if len(runs) > 1 else ''}.",
        f"At the end: {shown['ema_test']} averaged, {shown['test']} with the current weights.",
    ]
    chance = _chance(runs[0], metric)
    sentences += [f"Guessing gives about {quantity('test_accuracy').shown(chance)}."] if chance else []
    bad = bool(chance) and statistics.mean(best) <= chance
    return Answer(question, score_in_words(best, metric), sentences, "bad" if bad else "")


def _scores(
    question: str, groups: Mapping[str, Group], scores: Mapping[str, Sequence[float]], metric: Metric
) -> Answer:
    """Return who leads; noiseless SGD is what the others are measured by."""
    noisy = {label: values for label, values in scores.items() if not _is_reference(groups[label])}
    entrants = noisy if len(noisy) > 1 else scores
    best = ranked(entrants, metric)[0]
    sentences = [verdict_of(entrants, metric)]
    for label in scores.keys() - entrants.keys():
        gap = metric.sign * metric.factor * (statistics.mean(scores[label]) - statistics.mean(scores[best]))
        by = f"{abs(gap):.1f} points" if metric.in_percent else f"{abs(gap):.3g}"
        place = "above" if gap >= 0 else "below"
        sentences.append(f"Without noise, {label} reaches {score_in_words(scores[label], metric)}, {by} {place} it.")
    sentences += _at_chance(groups, scores, metric)
    return Answer(question, f"{best}: {score_in_words(scores[best], metric)}", sentences)


def _at_chance(groups: Mapping[str, Group], scores: Mapping[str, Sequence[float]], metric: Metric) -> list[str]:
    chances = {label: _chance(groups[label][0], metric) for label in scores}
    found = [label for label, chance in chances.items() if chance and statistics.mean(scores[label]) <= chance]
    chance = next((chance for chance in chances.values() if chance), 0.0)
    guessing = f"guessing gives about {quantity('test_accuracy').shown(chance)}"
    if found:
        return [f"{listed(found[:NAMED])}: no better than chance, for {guessing}."]
    return [f"{guessing.capitalize()}."] if chance else []


def _is_reference(runs: Group) -> bool:
    return is_noiseless(str(runs[0].config["strategy"]))


def _chance(run: RunRecord, metric: Metric) -> float:
    """Return the accuracy of guessing; 0 where it is not known."""
    classes = CLASSES.get(str(run.config.get("task")))
    return 1 / classes if classes and metric.name == ACCURACY else 0.0


def _cost(groups: Mapping[str, Group]) -> Answer:
    question = "At what cost?"
    key = "uplink_floats_per_round"
    values = {
        label: statistics.mean(float(run.summary[key]) for run in known)
        for label, runs in groups.items()
        if (known := [run for run in runs if key in run.summary])
    }
    if not values:
        return Answer(question, "Unknown", ["The summary is missing, which has the costs."])
    totals = _totals([run for runs in groups.values() for run in runs])
    if len(values) == 1:
        (sent,) = values.values()
        ratio = float(next(r.summary.get("compression_ratio", math.inf) for runs in groups.values() for r in runs))
        fewer = f", {quantity('compression_ratio').bare(ratio)} times fewer values than the model has"
        more = fewer if 1 < ratio < math.inf else ""
        return Answer(question, f"{_values(sent)} a round", [f"That is {_bytes(sent)} per client{more}.", *totals])
    return Answer(question, *_range_of(values, totals))


def _range_of(values: Mapping[str, float], totals: Sequence[str]) -> tuple[str, Sequence[str]]:
    """Return least and most of the values sent, and sentences on who sends them."""
    sending = {label: count for label, count in values.items() if count > 0} or values
    least, most = min(sending.values()), max(sending.values())
    if least == most:
        return f"{_values(least)} a round", [f"All send {_bytes(least)} per client and round.", *totals]
    few, many = ([label for label, count in sending.items() if count == end] for end in (least, most))
    sentences = [
        f"{_names(few)} {'send' if len(few) > 1 else 'sends'} the fewest values per client and round, {_bytes(least)};",
        f"{_names(many)} the most, {_values(most)} or {_bytes(most)}.",
    ]
    return f"{few[0]}: {_values(least)} a round", [" ".join(sentences), *totals]


def _totals(runs: Sequence[RunRecord]) -> list[str]:
    """Return sentences on the costs of all rounds: from the least to the most of the runs."""
    parts = []
    for key in COSTS:
        counted = [run for run in runs if key != "total_uplink_energy" or has_budget(run)]
        counted = [run for run in counted if not _sends_nothing(run)] or counted
        if found := [float(run.summary[key]) for run in counted if key in run.summary]:
            ends = list(dict.fromkeys(quantity(key).shown(end) for end in (min(found), max(found))))
            parts.append(f"{_cost_name(key)} {' to '.join(ends)}")
    rounds = list(dict.fromkeys(quantity("rounds").bare(r.summary["rounds"]) for r in runs if "rounds" in r.summary))
    where = f"In {rounds[0]} rounds" if len(rounds) == 1 else "In all rounds"
    return [f"{where}: {'; '.join(parts)}."] if parts else []


def _cost_name(key: str) -> str:
    return "computing" if key == "seconds_total" else quantity(key).name


def _values(count: float) -> str:
    return f"{quantity('uplink_floats_per_round').bare(count)} values"


def _bytes(count: float) -> str:
    return quantity("uplink_bytes_per_round").shown(count * BYTES_PER_VALUE)


def _names(labels: Sequence[str]) -> str:
    more = len(labels) - NAMED
    return listed(labels) if more <= 0 else f"{', '.join(labels[:NAMED])} and {more} more"


def power_share(run: RunRecord) -> float:
    """Return the largest power of any client over the budget of its round; NaN for a run without rounds."""
    if len(run.ledger):
        budgets = run.ledger["power_budget"]
        return float((run.ledger["max_power_used"] / budgets)[budgets > 0].max())
    if "max_power_used" not in run.summary:
        return math.nan
    return float(run.summary["max_power_used"]) / float(run.config["power"])


def _budget(groups: Mapping[str, Group]) -> Answer:
    question = "Was the power budget met?"
    unlimited = [label for label, runs in groups.items() if not has_budget(runs[0])]
    free = f"{_names(unlimited)}: no budget, for signals arrive without noise." if unlimited else ""
    shares = {
        label: max(known)
        for label, runs in groups.items()
        if (known := [s for run in runs if has_budget(run) and not math.isnan(s := power_share(run))])
    }
    if not shares:
        unknown = "No round was completed." if len(unlimited) < len(groups) else "Signals arrive without noise."
        return Answer(question, "No budget" if len(unlimited) == len(groups) else "Unknown", [unknown])
    worst = max(shares, key=lambda label: shares[label])
    over = [label for label, share in shares.items() if share > 1 + POWER_TOLERANCE]
    used = f"The most that a client used in a round is {100 * shares[worst]:.4g} % of its budget"
    of = f", with {worst}." if len(groups) > 1 else "."
    sentences = [used + of, *([free] if free else [])]
    if over:
        return Answer(question, "No", [f"{_names(over)} used more than allowed.", *sentences], "bad")
    return Answer(question, "Yes" if len(groups) == 1 else f"Yes, by all {len(shares)}", sentences, "good")
