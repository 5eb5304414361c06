"""Presets: the paper's settings, one TOML file per task."""

import tomllib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from laser_fl.errors import ConfigError, quoted

_FOLDER = Path(__file__).parent


def names() -> list[str]:
    """All presets, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def load(name: str) -> dict[str, Any]:
    """The flat config keys of a preset. Raises ConfigError for an unknown name."""
    if name not in names():
        raise ConfigError(f"preset: must be one of {', '.join(names())}, got {quoted(name)}")
    return tomllib.loads((_FOLDER / f"{name}.toml").read_text())


def beside(values: Mapping[str, Any], given: Collection[str]) -> dict[str, Any]:
    """What holds of the keys of a preset beside those that a user has given.

    Its evaluate-every is for its own length: where the user gives `rounds`, it does not.
    """
    return {k: v for k, v in values.items() if k not in given and (k != "evaluate-every" or "rounds" not in given)}
