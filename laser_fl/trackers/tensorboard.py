"""TensorBoard: ``tensorboard --logdir runs`` shows every run below the folder."""

import json
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from laser_fl.config import RunConfig
from laser_fl.observers import Metrics
from laser_fl.trackers.base import Tracker
from laser_fl.training import Training


class TensorBoard(Tracker):
    """Writes events beside the run's files: the config as text, the ledger by rounds, the metrics by evaluations."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """folder: the run's; the events go into it."""
        self._writer = SummaryWriter(folder)
        self._writer.add_text("config", f"```\n{json.dumps(config.to_flat(), indent=2)}\n```")

    def on_round(self, training: Training, seconds: float) -> None:
        """Log the ledger's line and the time."""
        for name, value in (training.ledger[-1].figures | {"seconds": seconds}).items():
            self._writer.add_scalar(f"ledger/{name}", value, training.round)

    def on_evaluation(self, training: Training, metrics: Metrics) -> None:
        """Log loss and scores."""
        for name, value in ({"train_loss": metrics.train_loss} | metrics.scores).items():
            if value is not None:
                self._writer.add_scalar(f"metrics/{name}", value, metrics.round)

    def close(self, completed: bool) -> None:
        """Write what is left."""
        self._writer.close()
