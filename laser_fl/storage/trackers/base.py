"""What a tracker is: an observer that is told when the run is over."""

from pathlib import Path

from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.federated.callbacks import Observer
from laser_fl.registry import TRACKERS


class Tracker(Observer):
    """Logs a run somewhere; this one nowhere."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """folder: the run's, which holds something already where the run goes on."""

    def close(self, completed: bool) -> None:
        """The run is over, completed or not."""


def tracker_class(name: str) -> type[Tracker]:
    """The tracker behind a name of TRACKERS. Raises ConfigError where the package that it needs is not installed."""
    try:
        tracker: type[Tracker] = TRACKERS.load(name)
    except ImportError:
        raise ConfigError(f"tracker: must be installed: pip install 'laser-fl[{name}]', got {name!r}") from None
    return tracker
