"""The folders of snapshots of a run's client groups: on each node in a place of its own, under the run's name.

A server tells its nodes a name, never a path. A run that goes on has the name that it had.
"""

import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from laser_fl.errors import StorageError, quoted

RUN_NAME = re.compile("[a-z0-9]{16,64}")
RUNS = 8  # in a folder, the ones with the latest snapshots; older ones are removed when a new one comes


def new_name() -> str:
    """Return a name for a run that no other run has, and that nobody can guess."""
    return secrets.token_hex(16)


def state_folder() -> Path:
    """Return the user's folder of what is kept for later: $XDG_STATE_HOME/laser-fl, else ~/.local/state/laser-fl."""
    return Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state", "laser-fl").expanduser()


def folder_of(run: str, *places: Path) -> Path:
    """Return the folder for a run's snapshots: the one that it has in any of these places, else a new one in the first.

    Where the folder is new, those of the runs that were saved least recently make room for it.

    Args:
        run: its name.
        places: folders of the node's own.

    Raises:
        StorageError: the name could be a path.
    """
    if not RUN_NAME.fullmatch(run):
        raise StorageError(f"snapshots: the run's name must be 16 to 64 small letters and digits, got {quoted(run)}")
    known = next((place / run for place in places if (place / run).is_dir()), None)
    if known is None:
        _make_room(places[0])
    return known or places[0] / run


def _make_room(place: Path) -> None:
    """Remove all runs' folders in `place` but the latest ones that fit beside a new one."""
    with suppress(OSError):
        runs = [path for path in place.iterdir() if RUN_NAME.fullmatch(path.name) and not path.is_symlink()]
        for old in sorted(runs, key=lambda path: path.stat().st_mtime_ns, reverse=True)[RUNS - 1 :]:
            shutil.rmtree(old, ignore_errors=True)
