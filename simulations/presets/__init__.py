"""Presets: the paper's settings, one TOML file per task, and that of the first comparison."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from laser_fl.errors import ConfigError, did_you_mean, quoted

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """Return the names of all presets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> dict[str, Any]:
    """Return the flat config keys of a preset. Raises ConfigError for an unknown name."""
    if name not in names():
        hint = did_you_mean(name, names())
        raise ConfigError(f"preset: must be one of {', '.join(names())}, got {quoted(name)}{hint}")
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text())


def beside(values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """Return the keys of a preset that apply beside those that a user has given.

    The preset's evaluate-every is for its own length: it does not apply where the user gives `rounds`.
    """
    return {k: v for k, v in values.items() if k not in given and (k != "evaluate-every" or "rounds" not in given)}
