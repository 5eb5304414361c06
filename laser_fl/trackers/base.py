"""What a tracker is: an observer that is told when the run is over."""

from pathlib import Path

from laser_fl.config import RunConfig
from laser_fl.loop import Observer


class Tracker(Observer):
    """Logs a run somewhere; this one nowhere."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """folder: the run's."""

    def close(self) -> None:
        """The run is over, one way or the other."""
