"""Folders, files and Ray clusters that are this user's alone, on a machine that others use, too."""

import os
import secrets
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path


@contextmanager
def private_folder() -> Iterator[Path]:
    """Yield a temporary folder that only this user may enter."""
    with tempfile.TemporaryDirectory(prefix="lfl", dir=_short_folder(), ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def _short_folder() -> str | None:
    """Return where private folders lie; the names of Ray's sockets there must stay below 108 bytes."""
    return "/tmp" if len(tempfile.gettempdir()) > 30 and Path("/tmp").is_dir() else None


def write_private(path: Path, content: bytes) -> None:
    """Write a new file that only this user may access, from its creation on."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)


def own_ray(env: Mapping[str, str]) -> dict[str, str]:
    """Return the variables, beside `env`, under which a Ray cluster that starts here serves its starter only.

    Its processes listen on the loopback, where Ray's own choice is all interfaces, and take orders with the token only.
    """
    return {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": env.get("RAY_AUTH_TOKEN") or _ray_token(),
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # its only way to the loopback, on any system
    }


@cache
def _ray_token() -> str:
    """Return a token, the same for all clusters of this process: Ray reads it once in a process's life."""
    return secrets.token_hex(32)
