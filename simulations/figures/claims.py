"""Claims of the paper on LASER beside the other methods, for more than one figure."""

import pandas as pd

from simulations.figures.judges import Claim

EQUAL = 0.02  # a gain below this part of the best other's score is not clear


def leads(means: "pd.Series[float]") -> "pd.Series[float]":
    """Return LASER's lead over the best other method, by power, rising."""
    table = means.unstack("strategy")
    return table["laser"] - table.drop(columns="laser").max(axis=1)


def _as_text(lead: "pd.Series[float]") -> str:
    return ", ".join(f"{difference:+.1f} at {power:g}" for power, difference in lead.items())


def _everywhere(means: "pd.Series[float]") -> tuple[str, bool]:
    lead = leads(means)
    return _as_text(lead), bool((lead > 0).all())


def _below_the_highest(means: "pd.Series[float]") -> tuple[str, bool]:
    lead = leads(means).iloc[:-1]
    return _as_text(lead), bool((lead > 0).all())


def _not_at_the_highest(means: "pd.Series[float]") -> tuple[str, bool]:
    lead = leads(means).iloc[-1:]
    best = means.unstack("strategy").drop(columns="laser").iloc[-1].max()
    return _as_text(lead), bool(lead.iloc[0] <= EQUAL * abs(best))


EVERYWHERE = Claim("LASER does better than every other method, at every power", _everywhere)
BELOW_THE_HIGHEST = Claim("LASER does better than every other method at low and moderate power", _below_the_highest)
NOT_AT_THE_HIGHEST = Claim("at the highest power LASER has no clear gain", _not_at_the_highest)
