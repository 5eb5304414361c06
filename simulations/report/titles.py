"""The title of a page: what was run, in words."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from simulations.identity import NOT_THE_RUN
from simulations.results import varied

NAMED = 3  # things that a title names; of more, it has the number
IN_TITLES = ("task", "model", "clients", "channel", "power")
ASIDE = ("strategy", "seed", "device", *IN_TITLES, *NOT_THE_RUN)


def listed(names: Sequence[str]) -> str:
    """Join names as a sentence does: ``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def title_of(configs: Sequence[Mapping[Any, Any]]) -> str:
    """Return the strategies, the model, the task, the clients and the channel, as far as all runs share them."""
    if not configs:
        return "no run"
    table = pd.DataFrame([dict(config) for config in configs])
    return f"{_runs(table)}: {_setting(table)}" if _setting(table) else _runs(table)


def _runs(table: pd.DataFrame) -> str:
    """Return the strategies, and the keys over which a sweep goes."""
    names = [str(name) for name in dict.fromkeys(table["strategy"])]
    strategies = listed(names) if len(names) <= NAMED else f"{len(names)} strategies"
    keys = varied(table, ("strategy", "seed", "device", *NOT_THE_RUN))
    over = (listed(keys) if len(keys) <= NAMED else f"{len(keys)} keys").replace("-", " ")
    return f"{strategies} over {over}" if keys else strategies


def _setting(table: pd.DataFrame) -> str:
    """Return what all runs share."""
    shared = {k: table[k].iloc[0] for k in IN_TITLES if k in table and table[k].astype(str).nunique() == 1}
    words = {"model": "{} on", "task": "{},", "clients": "{} clients,", "channel": "{} channel", "power": "at power {}"}
    text = " ".join(form.format(_plain(shared[key])) for key, form in words.items() if key in shared)
    return text.removesuffix(",").removesuffix(" on").replace("at power inf", "without noise")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
