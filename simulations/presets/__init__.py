"""Presets: the paper's settings, one TOML file per task."""

import tomllib
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
