"""Errors that a user can mend; each message is one line."""

import difflib
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

MOST = 200  # characters of a foreign text that a message shows


class LaserError(Exception):
    """The base of every error that this project raises on purpose."""


class ConfigError(LaserError):
    """A value of the run config is refused; the message names the key, the rule and the value received."""


class DataError(LaserError):
    """A data set is missing or unusable; the message names the place searched and a way to get it."""


class TrainingError(LaserError):
    """A round could not be completed; the message names the round and the fault."""


class PowerError(TrainingError):
    """A client transmitted above the round's power budget: a bug, never bad luck."""


class WireError(LaserError):
    """A message, or a part of it, is malformed; the error names the part and the fault."""


class StorageError(LaserError):
    """A file cannot be written; the message names the file and the reason."""


@contextmanager
def packages_for(feature: str, install: str = "") -> Iterator[None]:
    """Name the package that imports in the body lack, and the command that installs it.

    Args:
        feature: needs the package: a command, or a key with its value.
        install: brings the package, for pip; "": the package itself does.

    Raises:
        ConfigError: a package is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if not error.name or "." in error.name:  # a module of a package that is installed: no feature, but a fault
            raise
        package = error.name.replace("_", "-")
        raise ConfigError(f"{feature}: needs {package}: pip install {shlex.quote(install or package)}") from None


def reason_of(error: BaseException) -> str:
    """Return an error's message in one line."""
    message = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(message.split()) or type(error).__name__


def brief(text: str) -> str:
    """Shorten a foreign text for a message: one line, printable, at most MOST characters and dots."""
    start = text[:MOST]
    line = start if start.isprintable() else repr(" ".join(start.split()))[1:-1]
    return line if len(text) <= MOST else f"{line}..."


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Return the end of a message on an unknown name: the known one that is most like it; nothing for no text."""
    near = difflib.get_close_matches(name[:MOST], list(known), n=1) if isinstance(name, str) else []
    return f", did you mean {near[0]}?" if near else ""


def quoted(value: object) -> str:
    """Shorten a foreign value likewise, as Python writes it."""
    try:
        return brief(repr(value[: MOST + 1] if isinstance(value, (str, bytes)) else value))
    except Exception:  # too many digits, too deep, or no way to write it at all
        return f"a value of type {type(value).__name__}"
