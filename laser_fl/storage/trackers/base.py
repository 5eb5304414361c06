"""The interface of a tracker: a callback that is closed when the run is over."""

from pathlib import Path

from laser_fl.callbacks import Callback
from laser_fl.config import RunConfig
from laser_fl.registry import TRACKERS


class Tracker(Callback):
    """A callback that logs a run somewhere; this one logs nowhere."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """Prepare to log a run. folder: the run's, which is not empty where the run goes on."""

    def close(self, completed: bool) -> None:
        """React to the end of the run, completed or not."""


def tracker_class(name: str) -> type[Tracker]:
    """Return the tracker behind a name of TRACKERS. Raises ConfigError where its package is not installed."""
    tracker: type[Tracker] = TRACKERS.load(name)
    return tracker
