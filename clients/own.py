"""The settings that are a node's own: its paths and its device, whatever the run config and the server say."""

import sys
from functools import partial
from pathlib import Path
from typing import Any

from flwr.app import Context

from laser_fl.data.sources import default_folder
from laser_fl.errors import ConfigError, quoted
from laser_fl.storage.files import CHECKPOINTS
from laser_fl.storage.snapshots import folder_of, state_folder

OWN = ("device", "threads", "data-dir")  # keys of the run config that a node takes from its own config only
NAMED = ("dataset", "model")  # keys that may name a path, or what has a name everywhere; a node's own config may, too
LIBRARY = "transformers:"  # of models that may lie in a folder


def settings(context: Context) -> dict[str, Any]:
    """Return the run config as this node follows it.

    Raises:
        ConfigError: it names a path of this machine that is not below the node's data-dir.
    """
    own = {key: context.node_config[key] for key in (*OWN, *NAMED) if key in context.node_config}
    if is_simulated():
        return dict(context.run_config) | own
    spelt = {key.replace("_", "-"): value for key, value in context.run_config.items()}  # as parse reads both
    values = {key: value for key, value in spelt.items() if key not in own.keys() | set(OWN)}
    place = Path(str(own["data-dir"])).expanduser() if own.get("data-dir") else default_folder()
    for key in NAMED:
        if _is_foreign(str(values.get(key, "")).removeprefix(LIBRARY), place):
            rule = "must be no path on a node's machine, but below its own data-dir"
            raise ConfigError(f"{key}: {rule}, got {quoted(str(values[key]))}; a node's config may name one")
    return values | own


def snapshots(context: Context) -> partial[Path]:
    """Return the function that gives the folder of this node's snapshots, by the name of the run.

    It is in the node's checkpoint-dir, else in the user's folder of states. A simulated node's may be the run's own.
    """
    if own := context.node_config.get("checkpoint-dir"):
        return partial(_in, (Path(str(own)).expanduser(),))
    run = next((folder for key in ("resume", "out-dir") if (folder := context.run_config.get(key))), None)
    beside = [Path(str(run)).expanduser() / CHECKPOINTS] if run and is_simulated() else []
    return partial(_in, (*beside, state_folder() / CHECKPOINTS))


def is_simulated() -> bool:
    """Return True in an actor of Ray: Flower's simulations have them on the machine of the run's owner, for that user.

    Everywhere else a node is somebody's own, and what a run says about its machine counts for nothing.
    """
    ray: Any = sys.modules.get("ray")
    return ray is not None and ray.is_initialized() and ray.get_runtime_context().get_actor_id() is not None


def _in(places: tuple[Path, ...], run: str) -> Path:
    return folder_of(run, *places)


def _is_foreign(name: str, place: Path) -> bool:
    """Return True where a name is, or could be, that of a file or a folder that is not below `place`."""
    if not name:
        return False
    path = Path(name).expanduser()
    is_path = path.is_absolute() or ".." in path.parts or path.exists()
    return is_path and not path.resolve().is_relative_to(place.resolve())
