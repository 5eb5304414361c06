"""The tracker Weights & Biases: its own settings apply (WANDB_MODE=offline keeps the run on this machine)."""

from pathlib import Path
from typing import Any

import wandb

from laser_fl.callbacks import Metrics
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.federated.server import Server
from laser_fl.storage.trackers.base import Tracker


class WeightsAndBiases(Tracker):
    """A logger to the project laser-fl: the config, the ledger by rounds, the metrics by evaluations."""

    def __init__(self, folder: Path, config: RunConfig) -> None:
        """Start the run at W&B, under the name of `folder`, the run's. Raises ConfigError where W&B refuses."""
        keys: dict[str, Any] = {"project": "laser-fl", "name": folder.name, "dir": folder, "config": config.to_flat()}
        if known := sorted(folder.glob("wandb/*run-*_*-*")):  # run-<date>_<time>-<id>, as W&B names its own folders
            keys |= {"id": known[-1].name.rpartition("-")[2], "resume": "allow"}
        try:
            self._run = wandb.init(**keys)
        except wandb.errors.Error as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"tracker: must let Weights & Biases start ({reason}), got 'wandb'") from None

    def on_round(self, server: Server, seconds: float) -> None:
        """Log the round's ledger record and its duration."""
        if server.round < self._run.starting_step:  # logged before the run stopped, and the same
            return
        record = server.ledger[-1].figures | {"seconds": seconds}
        self._run.log({f"ledger/{name}": value for name, value in record.items()}, server.round)

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Log loss and scores."""
        if metrics.round < self._run.starting_step:
            return
        scores = {"train_loss": metrics.train_loss} | metrics.scores
        self._run.log({f"metrics/{name}": value for name, value in scores.items()}, metrics.round)

    def close(self, completed: bool) -> None:
        """Finish the run at W&B, as completed or as failed."""
        self._run.finish(exit_code=0 if completed else 1)
