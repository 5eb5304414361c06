"""What can go wrong in a way that a user can mend; each message is one line."""


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
