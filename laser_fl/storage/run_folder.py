"""A run's folder: what a user finds after a run, every file written whole or not at all, and tables by whole lines."""

import json
import math
import shutil
import time
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save

from laser_fl.config import RunConfig
from laser_fl.data.metrics import TASK_METRICS
from laser_fl.errors import ConfigError, LaserError, StorageError, reason_of
from laser_fl.federated.callbacks import Metrics, Observer
from laser_fl.federated.ledger import Entry
from laser_fl.federated.server import Training
from laser_fl.storage.checkpoint import Checkpoints
from laser_fl.storage.csv_table import CsvTable
from laser_fl.storage.environment import environment
from laser_fl.storage.files import (
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    LEDGER,
    METRICS,
    SPECTRUM,
    SUMMARY,
    TIMING,
    WEIGHTS,
    lock,
    unlock,
    write_whole,
)
from laser_fl.storage.resume import EVALUATIONS, LENGTHS, latest, refuse_other_run
from laser_fl.storage.trackers.base import tracker_class


def path_of(config: RunConfig, now: datetime) -> Path:
    """A run's folder: the one to go on with, or else as told, or else runs/<task>-<strategy>-<time>."""
    default = f"runs/{config.task}-{config.strategy}-{now:%Y%m%d-%H%M%S}"
    return Path(config.resume or config.out_dir or default).expanduser()


def refuse_used(path: Path) -> None:
    """Raise ConfigError where `path` is something else than a new or an empty folder."""
    try:
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f"out-dir: must be a new or empty folder, got {str(path)!r}")
    except OSError as error:
        raise ConfigError(f"out-dir: must be a folder ({error.strerror}), got {str(path)!r}") from None


class RunFolder(Observer):
    """Records a run while it goes.

    ``config.json`` the resolved config; ``environment.json`` versions and machine; ``metrics.csv`` a
    line per evaluation; ``ledger.csv`` a line per round; ``timing.csv`` seconds per round, apart, so
    that the tables can be compared bit by bit; ``spectrum.csv`` the updates' spectra, where asked
    for; ``weights.safetensors`` the final weights; ``summary.json`` the result; ``checkpoints/`` what it
    takes to go on. The config's tracker is told of everything, too.
    """

    def __init__(self, path: Path, config: RunConfig, engine: str) -> None:
        """path: a new or empty folder.

        Raises:
            ConfigError: it holds something already, or cannot be written to; or the tracker is not installed.
        """
        self.path = path
        self._config = config
        self._engine = engine
        self._metrics: list[Metrics] = []
        self._spectra: list[dict[str, Any]] = []
        self._seconds: list[float] = []
        self._tables = {name: CsvTable(path / name) for name in (METRICS, LEDGER, TIMING, SPECTRUM)}
        self._started = time.perf_counter()
        self._goes = not config.resume  # a run that cannot go on leaves all as it was
        self._checkpoints = Checkpoints(path / CHECKPOINTS, "server")
        tracker = tracker_class(config.tracker)
        if config.resume:
            refuse_other_run(path, config, engine)
            self._lock = lock(self.path)
            self._tracker = tracker(path, config)
            return
        refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = lock(self.path)
            self._tracker = tracker(path, config)
            self._write_json(CONFIG, config.to_flat())
            self._write_json(ENVIRONMENT, environment() | {"engine": engine})
        except OSError as error:
            raise ConfigError(f"out-dir: must be writable ({reason_of(error)}), got {str(path)!r}") from None
        except (LaserError, KeyboardInterrupt) as error:  # the tracker's error, or the user's end before it began
            for left in path.iterdir():  # or the folder would be a used one
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ConfigError(str(error)) from None

    def on_begin(self, training: Training) -> None:
        """Make `training` what it was at the last checkpoint, where the config says so; tell it where the next ones go.

        Raises:
            CheckpointError: there is none from which all can go on.
        """
        if self._config.checkpoint_every:
            training.snapshots = str(self._checkpoints.folder.resolve())
        if self._config.resume:
            self._go_on(training)
        self._goes = True
        self._tracker.on_begin(training)

    def _go_on(self, training: Training) -> None:
        """Make run and tables what they were at the last checkpoint.

        A run that is longer now was not evaluated where it used to end, unless that is where it is anyway. Whenever it
        is killed, the checkpoint has no more rows than the tables, and fits the config.
        """
        numbers, tensors = latest(self._checkpoints)
        rows, tables = numbers["rows"], self._tables
        metrics = tables[METRICS].read(rows[METRICS], Metrics.parse)
        ledger = tables[LEDGER].read(rows[LEDGER], Entry.parse)
        spectra = tables[SPECTRUM].read(rows[SPECTRUM], _spectrum_row)
        self._seconds = tables[TIMING].read(rows[TIMING], lambda row: float(row["seconds"]))
        training.restore(numbers, tensors, ledger)
        planned = training.plan.evaluates_after
        self._metrics = [one for one in metrics if planned(one.round - 1)]
        self._spectra = [row for row in spectra if planned(row["round"] - 1)]
        self._started -= numbers["seconds"]
        there, now = json.loads((self.path / CONFIG).read_text()), self._config.to_flat()
        self._write_json(CONFIG, there | {key: now[key] for key in (*LENGTHS, EVALUATIONS)})
        if len(self._metrics) < len(metrics):
            fewer = {"rows": rows | {METRICS: len(self._metrics), SPECTRUM: len(self._spectra)}}
            self._checkpoints.save(training.round, numbers | fewer, tensors)
        for table in tables.values():
            table.start_over()
        self._write_tables(training)
        for file in (SUMMARY, WEIGHTS):  # of where it used to end
            (self.path / file).unlink(missing_ok=True)

    def on_checkpoint(self, training: Training) -> None:
        """Keep what it takes to go on from here; raises StorageError."""
        self._write_tables(training)
        numbers, tensors = training.state()
        beside = {"rows": {name: table.rows for name, table in self._tables.items()}, "seconds": self._elapsed}
        self._checkpoints.save(training.round, numbers | beside, tensors)

    def on_round(self, training: Training, seconds: float) -> None:
        """Remember what the round took."""
        self._seconds.append(seconds)
        self._tracker.on_round(training, seconds)

    def on_evaluation(self, training: Training, metrics: Metrics) -> None:
        """Bring the tables up to date."""
        self._metrics.append(metrics)
        moment = {"round": metrics.round, "epoch": metrics.epoch}
        self._spectra += [moment | {"block": name, "energy": value} for name, value in training.spectrum.items()]
        self._write_tables(training)
        self._tracker.on_evaluation(training, metrics)

    def finish(self, training: Training) -> dict[str, Any]:
        """Write the final weights and the summary of a completed run; returns the summary."""
        self._write_tables(training)
        weights = {name: tensor.cpu().contiguous() for name, tensor in training.server.model.items()}
        write_whole(self.path / WEIGHTS, save(weights))
        summary = self._write_json(SUMMARY, self._summary(training) | {"status": "completed"})
        self._close_tracker(completed=True)
        unlock(self.path, self._lock)
        return summary

    def fail(self, training: Training | None, error: BaseException) -> None:
        """Keep what there is of a run that stopped, and why it did, as far as the disk still takes it."""
        with suppress(StorageError):
            if self._goes:
                self._keep(training, error)
        self._close_tracker(completed=False)
        unlock(self.path, self._lock)

    def _keep(self, training: Training | None, error: BaseException) -> None:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = str(error) or type(error).__name__
        summary: dict[str, Any] = {"status": status, "reason": reason, "engine": self._engine}
        if training is not None:
            self._write_tables(training)
            if training.stuck:
                self.on_checkpoint(training)
            summary = self._summary(training) | summary
        self._write_json(SUMMARY, summary)

    def _close_tracker(self, completed: bool) -> None:
        """Tell the tracker that the run is over; what goes wrong there changes nothing here."""
        try:
            self._tracker.close(completed)
        except Exception as error:
            warnings.warn(f"tracker: {self._config.tracker} did not close: {error}", stacklevel=2)

    def _summary(self, training: Training) -> dict[str, Any]:
        config, ledger, seconds = self._config, training.ledger, self._seconds
        summary: dict[str, Any] = {
            "engine": self._engine,
            "task": config.task,
            "model": config.model,
            "strategy": config.strategy,
            "seed": config.seed,
            "clients": config.clients,
            "rounds": training.round,
            "power": config.power,
            "parameters": training.parameters,
            "device": str(next(iter(training.server.weights.values())).device),
        }
        if self._metrics:
            last = self._metrics[-1]
            summary |= {f"test_{name}": value for name, value in last.test.items()}
            summary |= {f"ema_test_{name}": value for name, value in last.ema_test.items()}
            for name in last.ema_test.keys() & TASK_METRICS.keys():
                summary[f"best_ema_test_{name}"] = TASK_METRICS[name].best([m.ema_test[name] for m in self._metrics])
        if ledger:
            sent = [entry.uplink_floats for entry in ledger if entry.uplink_floats]  # in silent rounds: nothing
            uplink = sum(sent) / len(sent) if sent else 0.0
            summary["uplink_floats_per_round"] = uplink
            summary["compression_ratio"] = training.parameters / uplink if uplink else math.inf
            summary["max_power_used"] = max(entry.max_power_used for entry in ledger)
            heard = [entry.snr_db for entry in ledger if entry.snr_db > -math.inf]
            summary["mean_snr_db"] = sum(heard) / len(heard) if heard else -math.inf
            summary["speakers_per_round"] = sum(entry.speakers for entry in ledger) / len(ledger)
            summary["silent_rounds"] = sum(entry.speakers == 0 for entry in ledger)
            summary |= {f"total_{column}": total for column, total in vars(ledger.totals).items()}
        summary["seconds_total"] = self._elapsed
        if seconds:
            summary["seconds_per_round"] = sum(seconds) / len(seconds)
        return summary

    def _write_tables(self, training: Training) -> None:
        """Add the rows that are new."""
        metrics, ledger, timing, spectrum = (self._tables[name] for name in (METRICS, LEDGER, TIMING, SPECTRUM))
        metrics.append(one.flat() for one in self._metrics[metrics.rows :])
        ledger.append(asdict(entry) for entry in training.ledger[ledger.rows :])
        seconds = enumerate(self._seconds[timing.rows :], start=timing.rows + 1)
        timing.append({"round": round, "seconds": value} for round, value in seconds)
        spectrum.append(self._spectra[spectrum.rows :])

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _write_json(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write `content` and return it as a reader of the file finds it."""
        strict = {key: _json(value) for key, value in content.items()}
        write_whole(self.path / name, (json.dumps(strict, indent=2, allow_nan=False) + "\n").encode())
        return strict


def _spectrum_row(row: dict[str, str]) -> dict[str, Any]:
    """Undo a row of spectrum.csv, as far as it takes to choose among them. Raises ValueError or KeyError."""
    return {**row, "round": int(row["round"])}


def _json(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they are written as text, which the config reads back."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
