"""TensorBoard: ``tensorboard --logdir runs`` shows every run below the folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from laser_fl.config import RunConfig
from laser_fl.federated.callbacks import Metrics
from laser_fl.federated.server import Training
from laser_fl.storage.trackers.base import Tracker


class TensorBoard(Tracker):
    """Writes events beside the run's files: the config as text, the ledger by rounds, the metrics by evaluations."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """folder: the run's; the events go into it."""
        self._folder, self._config = folder, config
        self._writer: SummaryWriter | None = None

    def on_begin(self, training: Training) -> None:
        """Log the config; what is logged already of the rounds from here on is not shown any more."""
        first = training.round + 1
        self._writer = SummaryWriter(self._folder, purge_step=first)
        self._writer.add_text("config", f"```\n{json.dumps(self._config.to_flat(), indent=2)}\n```", first)

    def on_round(self, training: Training, seconds: float) -> None:
        """Log the ledger's line and the time."""
        self._add("ledger", training.ledger[-1].figures | {"seconds": seconds}, training.round)

    def on_evaluation(self, training: Training, metrics: Metrics) -> None:
        """Log loss and scores."""
        self._add("metrics", {"train_loss": metrics.train_loss} | metrics.scores, metrics.round)

    def close(self, completed: bool) -> None:
        """Write what is left."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, kind: str, values: Mapping[str, float | None], round: int) -> None:
        assert self._writer is not None
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, round)
