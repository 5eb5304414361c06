"""The identity of a run: the settings that decide its results, by which it is known and found again."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from laser_fl.config import parse
from laser_fl.data.sources import default_folder
from laser_fl.registry import TASKS
from laser_fl.storage.files import CONFIG, SUMMARY, folder_name

NOT_THE_RUN = (
    "out-dir",
    "data-dir",
    "tracker",
    "checkpoint-every",
    "resume",
)  # keys that do not change the results
OWN_DATA = ("images", "table", "text")  # built-in tasks with the data of their user
DIGEST_BYTES = 16
LONGEST_NAME = 255  # bytes, of a folder

Identity = frozenset[tuple[str, str]]


def identity_of(keys: Mapping[str, Any]) -> Identity:
    """Return the keys that decide a run's results, with their values as text.

    A key that is missing has its default: a run of an earlier version left the newer keys alone. The data's folder is
    one of the keys where the data are whatever it holds.

    Args:
        keys: of a config, flat, as Python or JSON has them.
    """
    whole = {**_defaults(), **keys}
    decisive = {key: str(value) for key, value in whole.items() if key not in NOT_THE_RUN}
    if has_own_data(decisive["task"]):
        decisive["data-dir"] = _place(str(whole["data-dir"]))
    return frozenset(decisive.items())


def has_own_data(task: str) -> bool:
    """Return True for a task whose data are whatever data-dir holds, and not a known data set."""
    return task in OWN_DATA or task not in TASKS


def digest_of(identity: Identity) -> str:
    """Hash an identity to 128 bits, in hex."""
    return hashlib.blake2b(repr(sorted(identity)).encode(), digest_size=DIGEST_BYTES).hexdigest()


def name_of(words: str, identity: Identity) -> str:
    """Return the name of a run's folder: words for its readers, as many as fit, and the digest of its identity."""
    digest = digest_of(identity)
    readable = folder_name(words).replace("/", "_").encode(errors="surrogateescape")[: LONGEST_NAME - len(digest) - 1]
    return f"{readable.decode(errors='ignore')}-{digest}"


def completed_below(root: Path) -> dict[Identity, Path]:
    """Return the folders of completed runs directly below `root`, by what these are, whatever their names."""
    folders = [file.parent for file in sorted(root.glob(f"*/{CONFIG}"))]
    return {identity_of(config): folder for folder in folders if (config := _completed(folder))}


def holds_other_run(folder: Path, identity: Identity) -> bool:
    """Return True where a folder holds the settings of another run, or results without settings."""
    config = read_object(folder / CONFIG)
    if not config:
        return read_object(folder / SUMMARY).get("status") == "completed"
    return identity_of(config) != identity


def read_object(path: Path) -> dict[str, Any]:
    """Read an object from a file; empty where the file is missing, half written by another program, or no object."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _completed(folder: Path) -> dict[str, Any]:
    """Return the config of a completed run; empty where there is none."""
    return read_object(folder / CONFIG) if read_object(folder / SUMMARY).get("status") == "completed" else {}


def _place(data_dir: str) -> str:
    """Return the folder that data-dir means; its text where no folder has such a name."""
    try:
        return str((Path(data_dir).expanduser() if data_dir else default_folder()).resolve())
    except (OSError, ValueError, RuntimeError):
        return data_dir


@cache
def _defaults() -> Mapping[str, Any]:
    return parse({}).to_flat()
