"""From a figure's runs to one table of results."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from laser_fl.config import parse
from laser_fl.errors import LaserError
from simulations.figures.base import Figure
from simulations.progress import Report
from simulations.side_by_side import run_all


def collect(figure: Figure, fixed: Mapping[str, Any], root: Path, show: Callable[[Report], None]) -> pd.DataFrame:
    """Run everything a figure needs into `root`; returns and writes a row per run: keys and summary.

    fixed: config keys of all runs, which the figure's own override.

    Raises:
        LaserError: runs failed, each with its reason; the others are in results.csv.
    """
    runs = {f"{index:03d}": values for index, values in enumerate(figure.runs)}
    configs = {label: parse({**fixed, **values, "out-dir": str(root / label)}) for label, values in runs.items()}
    outcomes = run_all(configs, show)
    flat = {label: config.to_flat() for label, config in configs.items()}
    rows = [{**flat[label], **outcome.summary} for label, outcome in outcomes.items() if not outcome.reason]
    results = pd.DataFrame(rows)
    results.to_csv(root / "results.csv", index=False)
    if failed := [f"{label}: {outcome.reason}" for label, outcome in outcomes.items() if outcome.reason]:
        raise LaserError("\n".join(failed))
    return results
