"""What the paper says of more than one figure."""

import pandas as pd

from simulations.figures.judges import Claim

Means = "pd.Series[float]"


def _leads(means: "pd.Series[float]") -> tuple[str, bool]:
    table = means.drop("sgd", level="strategy", errors="ignore").unstack("strategy")
    others = table.drop(columns="laser").max(axis=1)
    lead = table["laser"] - others
    said = ", ".join(f"{difference:+.1f} at {power:g}" for power, difference in lead.items())
    return said, bool((lead > 0).all())


LASER_LEADS = Claim("LASER does better than every other method, at every power", _leads)
