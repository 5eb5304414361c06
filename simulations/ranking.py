"""The ranking of a comparison, by the score that terminal, page and sweeps share: the best of the averaged weights."""

import statistics
from collections.abc import Mapping, Sequence

from laser_fl.data.metrics import Metric
from simulations.look import PERCENT_DECIMALS, SCORES, digits, quantity
from simulations.results import AVERAGED

Scores = Mapping[str, Sequence[float]]  # per label, the score of every seed, as a summary has it


def ranked(scores: Scores, metric: Metric) -> list[str]:
    """Return the labels, that with the best mean score first; equal ones stay in their order."""
    return sorted(scores, key=lambda label: -metric.sign * statistics.mean(scores[label]))


def score_in_words(values: Sequence[float], metric: Metric) -> str:
    """Return the mean of the seeds' scores with its unit, and where there are several, the standard deviation."""
    known = quantity(f"{AVERAGED}_{metric.name}")
    mean = statistics.mean(values)
    if len(values) == 1:
        return known.shown(mean)
    return known.shown(mean).replace(known.bare(mean), f"{known.bare(mean)} ± {known.bare(statistics.stdev(values))}")


def distance(scores: Scores, one: str, other: str) -> float:
    """Return how far the mean scores of two labels are from each other."""
    return abs(statistics.mean(scores[one]) - statistics.mean(scores[other]))


def in_words(distance: float, metric: Metric) -> str:
    """Return a difference of scores with its unit: ``5.0 points``."""
    shown = digits(metric.factor * distance, PERCENT_DECIMALS if metric.in_percent else None)
    return f"{shown} {'points' if metric.in_percent else f'({metric.name})'}"


def leaders(scores: Scores, metric: Metric) -> list[str]:
    """Return the best label, and those that are shown with the same score."""
    ranks = ranked(scores, metric)
    return [label for label in ranks if not _is_seen(distance(scores, ranks[0], label), metric)]


def standing(scores: Scores, metric: Metric) -> str:
    """Return who leads, with which score, and by how much: of at least two labels, without a stop at the end."""
    first = leaders(scores, metric)
    score = f"{score_in_words(scores[first[0]], metric)} ({SCORES[f'{AVERAGED}_']})"
    others = ranked(scores, metric)[len(first) :]
    ahead = f", {in_words(distance(scores, first[0], others[0]), metric)} ahead of {others[0]}" if others else ""
    return f"{' and '.join(first)} {'are level,' if len(first) > 1 else 'leads'} with {score}{ahead}"


def _is_seen(distance: float, metric: Metric) -> bool:
    return any(digit in in_words(distance, metric).partition(" ")[0] for digit in "123456789")
