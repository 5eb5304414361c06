"""A Flower app made for one run: it names the apps of the installed packages and declares the run's own keys.

Flower refuses a key that an app's pyproject.toml does not declare. An app with the keys of one run takes those of
plug-in parts, too, and needs no source tree.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

MODULE = "laser_fl_app"  # no name of a user's module: it is imported beside them
FLOWER = "1.41.0"  # oldest version that runs the app


@dataclass(frozen=True)
class Components:
    """The two sides of an app, each as ``module:name`` of this environment."""

    server: str = "strategies.server_app:app"
    client: str = "clients.client_app:app"


TRAINING = Components()


def write_app(folder: Path, values: Mapping[str, Any], components: Components = TRAINING) -> Path:
    """Write a Flower app into a folder.

    Args:
        folder: created where it is missing; files of an app there are written anew.
        values: the run config, by kebab-case key; all of it, and nothing else, is declared.
        components: the two sides.

    Returns:
        The folder, as ``flwr run`` takes it.
    """
    folder.mkdir(exist_ok=True)
    (folder / "pyproject.toml").write_text(tomli_w.dumps(_project(values)), encoding="utf-8")
    (folder / "LICENSE").write_text("Apache-2.0\n")  # bundles must have this file, whatever its text
    (folder / f"{MODULE}.py").write_text(_module(components))
    return folder


def _project(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of pyproject.toml."""
    app = {
        "publisher": "laser-fl",
        "fab-format-version": 1,
        "flwr-version-target": FLOWER,
        "components": {"serverapp": f"{MODULE}:server", "clientapp": f"{MODULE}:client"},
        "config": dict(values),
    }
    project = {
        "name": "laser-fl",
        "version": "1.0.0",
        "description": "One run of laser-fl.",
        "license": {"file": "LICENSE"},
        "dependencies": [f"flwr>={FLOWER}"],
    }
    return {"project": project, "tool": {"flwr": {"app": app}}}


def _module(components: Components) -> str:
    """Return the module's code; Flower reads `__all__` before it imports anything."""
    names = {"server": components.server, "client": components.client}
    imports = [f"from {reference.replace(':', ' import ')} as {name}" for name, reference in names.items()]
    return "\n".join([*imports, f"\n__all__ = {list(names)}\n"])
