"""The tracker TensorBoard: ``tensorboard --logdir runs`` shows every run below the folder."""

import json
from collections.abc import Mapping
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

from laser_fl.callbacks import Metrics
from laser_fl.config import RunConfig
from laser_fl.federated.server import Server
from laser_fl.storage.trackers.base import Tracker


class TensorBoard(Tracker):
    """A writer of events beside the run's files: config as text, ledger by rounds, metrics by evaluations."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """Prepare to log a run. folder: the run's; the events go into it."""
        self._folder, self._config = folder, config
        self._writer: SummaryWriter | None = None

    def on_begin(self, server: Server) -> None:
        """Log the config; events logged before of the rounds to come are no longer shown."""
        first = server.round + 1
        self._writer = SummaryWriter(self._folder, purge_step=first)
        self._writer.add_text("config", f"```\n{json.dumps(self._config.to_flat(), indent=2)}\n```", first)

    def on_round(self, server: Server, seconds: float) -> None:
        """Log the round's ledger record and its duration."""
        self._add("ledger", server.ledger[-1].figures | {"seconds": seconds}, server.round)

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Log loss and scores."""
        self._add("metrics", {"train_loss": metrics.train_loss} | metrics.scores, metrics.round)

    def close(self, completed: bool) -> None:
        """Write the remaining events."""
        if self._writer is not None:
            self._writer.close()

    def _add(self, kind: str, values: Mapping[str, float | None], round: int) -> None:
        assert self._writer is not None
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, round)
