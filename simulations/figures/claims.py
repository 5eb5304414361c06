"""What the paper says of LASER beside the other methods, in more than one figure."""

import pandas as pd

from simulations.figures.judges import Claim

EQUAL = 0.02  # part of the best other's score within which we see no clear gain


def leads(means: "pd.Series[float]") -> "pd.Series[float]":
    """By how much LASER is ahead of the best other method, by power, rising."""
    table = means.unstack("strategy")
    return table["laser"] - table.drop(columns="laser").max(axis=1)


def _said(lead: "pd.Series[float]") -> str:
    return ", ".join(f"{difference:+.1f} at {power:g}" for power, difference in lead.items())


def _everywhere(means: "pd.Series[float]") -> tuple[str, bool]:
    lead = leads(means)
    return _said(lead), bool((lead > 0).all())


def _below_the_highest(means: "pd.Series[float]") -> tuple[str, bool]:
    lead = leads(means).iloc[:-1]
    return _said(lead), bool((lead > 0).all())


def _not_at_the_highest(means: "pd.Series[float]") -> tuple[str, bool]:
    lead = leads(means).iloc[-1:]
    best = means.unstack("strategy").drop(columns="laser").iloc[-1].max()
    return _said(lead), bool(lead.iloc[0] <= EQUAL * abs(best))


EVERYWHERE = Claim("LASER does better than every other method, at every power", _everywhere)
BELOW_THE_HIGHEST = Claim("LASER does better than every other method at low and moderate power", _below_the_highest)
NOT_AT_THE_HIGHEST = Claim("at the highest power LASER has no clear gain", _not_at_the_highest)
