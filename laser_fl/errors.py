"""What can go wrong in a way that a user can mend; each message is one line."""

MOST = 200  # characters of what somebody sent that a message shows


class LaserError(Exception):
    """Base of every error this project raises on purpose."""


class ConfigError(LaserError):
    """A value of the run config is refused: key, rule, value received."""


class DataError(LaserError):
    """A data set is missing or unusable: where it was looked for, how to get it."""


class TrainingError(LaserError):
    """A round could not be completed: the round and what was wrong in it."""


class PowerError(TrainingError):
    """A client transmitted above the round's power budget; a bug, never bad luck."""


class WireError(LaserError):
    """A message or a part of it is not what it must be: which, and how."""


class StorageError(LaserError):
    """A file cannot be written: which, and why."""


def reason_of(error: BaseException) -> str:
    """What an error says, in one line."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(told.split()) or type(error).__name__


def brief(text: str) -> str:
    """A text that somebody sent as a part of a message: on one line, printable, and not long."""
    start = text[:MOST]
    line = start if start.isprintable() else repr(" ".join(start.split()))[1:-1]
    return line if len(text) <= MOST else f"{line}..."


def quoted(value: object) -> str:
    """A value that somebody sent, likewise, as Python writes it."""
    try:
        return brief(repr(value[: MOST + 1] if isinstance(value, (str, bytes)) else value))
    except Exception:  # too many digits, too deep, or no way to write it at all
        return f"a value of type {type(value).__name__}"
