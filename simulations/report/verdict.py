"""The verdict of a comparison: who is ahead, by how much, and whether by more than the spread over seeds."""

import statistics
from collections.abc import Sequence

from laser_fl.data.metrics import Metric
from simulations.ranking import Scores, distance, leaders, ranked, standing


def verdict_of(scores: Scores, metric: Metric) -> str:
    """Return a sentence on the best and those behind; a lead counts where the bands of both do not overlap.

    A band is the mean plus and minus one standard deviation over seeds.

    Args:
        scores: per label, the score of every seed, as a summary has it; at least two labels.
        metric: of the scores.
    """
    first = leaders(scores, metric)
    others = ranked(scores, metric)[len(first) :]
    ahead = standing(scores, metric)
    if not others:
        return f"{ahead}."
    lead = distance(scores, first[0], others[0])
    return f"{ahead}{_certainty(lead, scores[first[0]], scores[others[0]])}"


def _certainty(lead: float, one: Sequence[float], other: Sequence[float]) -> str:
    """Return the end of the sentence: how far a lead may be chance."""
    seeds = min(len(one), len(other))
    if seeds < 2:
        return "; one seed shows no spread, so the lead may be chance."
    if lead > statistics.stdev(one) + statistics.stdev(other):
        return f": beyond the spread, for their bands of one standard deviation over {seeds} seeds do not overlap."
    return f": within the spread, for their bands of one standard deviation over {seeds} seeds overlap."
