"""The verdict of a comparison: who is ahead, by how much, and whether by more than the spread over seeds."""

import statistics
from collections.abc import Mapping, Sequence

from laser_fl.data.metrics import Metric
from simulations.look import PERCENT_DECIMALS, digits, quantity
from simulations.results import AVERAGED


def ranked(scores: Mapping[str, Sequence[float]], metric: Metric) -> list[str]:
    """Return the labels, that with the best mean score first; equal ones stay in their order."""
    return sorted(scores, key=lambda label: -metric.sign * statistics.mean(scores[label]))


def score_in_words(values: Sequence[float], metric: Metric) -> str:
    """Return the mean of the seeds' scores with its unit, and where there are several, the standard deviation."""
    known = quantity(f"{AVERAGED}_{metric.name}")
    mean = statistics.mean(values)
    if len(values) == 1:
        return known.shown(mean)
    return known.shown(mean).replace(known.bare(mean), f"{known.bare(mean)} ± {known.bare(statistics.stdev(values))}")


def verdict_of(scores: Mapping[str, Sequence[float]], metric: Metric) -> str:
    """Return a sentence on the best and the second; a lead counts where the bands of both do not overlap.

    A band is the mean plus and minus one standard deviation over seeds.

    Args:
        scores: per label, the score of every seed, as a summary has it; at least two labels.
        metric: of the scores.
    """
    first, second = ranked(scores, metric)[:2]
    lead = metric.factor * abs(statistics.mean(scores[first]) - statistics.mean(scores[second]))
    shown = digits(lead, PERCENT_DECIMALS if metric.in_percent else None)
    if not any(digit in shown for digit in "123456789"):
        return f"{first} and {second} are level, with {score_in_words(scores[first], metric)}."
    by = f"{shown} points" if metric.in_percent else shown
    ahead = f"{first} leads with {score_in_words(scores[first], metric)}, {by} ahead of {second}"
    return f"{ahead}{_certainty(lead / metric.factor, scores[first], scores[second])}"


def _certainty(lead: float, one: Sequence[float], other: Sequence[float]) -> str:
    """Return the end of the sentence: how far a lead may be chance."""
    seeds = min(len(one), len(other))
    if seeds < 2:
        return "; one seed shows no spread, so the lead may be chance."
    if lead > statistics.stdev(one) + statistics.stdev(other):
        return f": beyond the spread, for their bands of one standard deviation over {seeds} seeds do not overlap."
    return f": within the spread, for their bands of one standard deviation over {seeds} seeds overlap."
