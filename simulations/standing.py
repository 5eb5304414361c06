"""The outcome of a comparison in words: the winner, by how much, and how far one seed can tell."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from laser_fl.data.metrics import Metric, metrics_in
from laser_fl.storage.files import LEDGER, METRICS
from simulations.ranking import distance, in_words, leaders, ranked, standing
from simulations.reading import read_csv
from simulations.results import AVERAGED
from simulations.side_by_side import Outcome

LAST = 6  # evaluations at the end of a run, between which the scores of the current weights still go up and down
NOT_FINITE = re.compile(r"diverged|not finite|must be finite|\bnan\b|\binf\b")  # in reasons of runs that diverged
IN_ROUND = re.compile(r"round (\d+): ")


def verdict(outcomes: Mapping[str, Outcome], metric: Metric, references: Collection[str] = ()) -> str:
    """Return a sentence: the strategy that leads, with which score, by how much, and whether that may be chance.

    One seed each tells no spread: in its place stands the largest step that the current weights of the two best make
    between their last evaluations.

    Args:
        outcomes: of the strategies, by name.
        metric: of the scores.
        references: strategies without noise, which do not compete.
    """
    scores = {name: [float(o.summary[f"{AVERAGED}_{metric.name}"])] for name, o in outcomes.items() if o.summary}
    limited = {name: score for name, score in scores.items() if name not in references}
    if len(limited) < 2:
        return ""
    opening = "Of those with a power limit, " if len(limited) < len(scores) else ""
    first, ranks = leaders(limited, metric), ranked(limited, metric)
    others = ranks[len(first) :][:1]
    chance = max(unrest(outcomes[name].folder, metric) for name in (*first, *others))
    small = any(distance(limited, first[0], other) <= chance for other in others)
    ahead = f"{standing(limited, metric)}{', which may be chance' if small else ''}"
    about = f": differences below about {in_words(chance, metric)} may be chance" if chance else ""
    return f"{opening}{ahead} (one seed each, which tells no spread{about})."


def unrest(folder: Path, metric: Metric) -> float:
    """Return the largest step of the current weights' score between a run's last evaluations."""
    path, column = folder / METRICS, f"test_{metric.name}"
    if not path.is_file():
        return 0.0
    steps = read_csv(path, (column,), growing=True)[column].tail(LAST).diff().abs().dropna()
    return float(steps.max()) if len(steps) else 0.0


def stopped(outcome: Outcome) -> str:
    """Return how a run ended that was not completed: ``diverged in round 157``."""
    word = "diverged" if NOT_FINITE.search(outcome.reason) else "failed"
    named = IN_ROUND.match(outcome.reason)
    reached = int(named[1]) if named else rounds_of(outcome.folder)
    return f"{word} in round {reached}" if reached else word


def rounds_of(folder: Path) -> int:
    """Return the number of rounds that a run's ledger has."""
    path = folder / LEDGER
    return len(read_csv(path, growing=True)) if path.is_file() else 0


def metric_of(outcomes: Mapping[str, Outcome]) -> Metric | None:
    """Return the metric of the completed runs; None where there is none."""
    return next((metric for outcome in outcomes.values() for metric in metrics_in(outcome.summary)), None)
