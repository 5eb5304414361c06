"""A run's folder: what a user finds after a run, every file written whole or not at all."""

import csv
import io
import itertools
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from safetensors.torch import save

from laser_fl.checkpoints import CheckpointError, Checkpoints
from laser_fl.config import RunConfig
from laser_fl.environment import environment
from laser_fl.errors import ConfigError, LaserError, StorageError, reason_of
from laser_fl.files import CHECKPOINTS, CONFIG, ENVIRONMENT, LEDGER, METRICS, SPECTRUM, SUMMARY, TIMING, WEIGHTS
from laser_fl.ledger import Entry
from laser_fl.observers import Metrics, Observer
from laser_fl.resuming import latest, refuse_other_run
from laser_fl.tasks.metrics import TASK_METRICS
from laser_fl.trackers.base import tracker_class
from laser_fl.training import Training

LOCK = ".lock"


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
        self._started = time.perf_counter()
        self._checkpoints = Checkpoints(path / CHECKPOINTS, "server")
        tracker = tracker_class(config.tracker)
        if config.resume:
            refuse_other_run(path, config, engine)
            self._lock = self._locked()
            self._tracker = tracker(path, config)
            return
        refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._lock = self._locked()
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
        if not self._config.resume:
            return
        numbers, tensors = latest(self._checkpoints)
        rows = numbers["rows"]
        read = {name: self._read_csv(name, rows[name]) for name in (METRICS, LEDGER, TIMING, SPECTRUM)}
        training.restore(numbers, tensors, [Entry.parse(row) for row in read[LEDGER]])
        self._metrics = [Metrics.parse(row) for row in read[METRICS]]
        self._spectra = read[SPECTRUM]
        self._seconds = [float(row["seconds"]) for row in read[TIMING]]
        self._started -= numbers["seconds"]

    def on_checkpoint(self, training: Training) -> None:
        """Keep what it takes to go on from here; raises StorageError."""
        self._write_tables(training)
        numbers, tensors = training.state()
        rows = {METRICS: len(self._metrics), LEDGER: len(training.ledger), TIMING: len(self._seconds)}
        beside = {"rows": rows | {SPECTRUM: len(self._spectra)}, "seconds": self._elapsed}
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
        self._write(WEIGHTS, save(weights))
        summary = self._write_json(SUMMARY, self._summary(training) | {"status": "completed"})
        self._close_tracker(completed=True)
        self._release()
        return summary

    def fail(self, training: Training | None, error: BaseException) -> None:
        """Keep what there is of a run that stopped, and why it did, as far as the disk still takes it."""
        with suppress(StorageError):
            self._keep(training, error)
        self._close_tracker(completed=False)
        self._release()

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

    def _locked(self) -> FileLock:
        """Keep others from writing here. Raises ConfigError where one does: a killed command may leave a run."""
        lock = FileLock(self.path / LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ConfigError(f"out-dir: must not be in use by a run, got {str(self.path)!r}") from None
        return lock

    def _release(self) -> None:
        self._lock.release()
        with suppress(OSError):
            (self.path / LOCK).unlink(missing_ok=True)

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
            heard = [entry.snr_db for entry in ledger if entry.speakers]
            summary["mean_snr_db"] = sum(heard) / len(heard) if heard else -math.inf
            summary["speakers_per_round"] = sum(entry.speakers for entry in ledger) / len(ledger)
            summary["silent_rounds"] = len(ledger) - len(heard)
            for column in (
                "channel_uses",
                "uplink_energy",
                "downlink_energy",
                "latency_seconds",
                "faults",
                "retries",
                "clipped",
            ):
                summary[f"total_{column}"] = sum(getattr(entry, column) for entry in ledger)
        summary["seconds_total"] = self._elapsed
        if seconds:
            summary["seconds_per_round"] = sum(seconds) / len(seconds)
        return summary

    def _write_tables(self, training: Training) -> None:
        self._write_csv(METRICS, (metrics.flat() for metrics in self._metrics))
        self._write_csv(LEDGER, (asdict(entry) for entry in training.ledger))
        timing = ({"round": i, "seconds": s} for i, s in enumerate(self._seconds, start=1))
        self._write_csv(TIMING, timing)
        self._write_csv(SPECTRUM, self._spectra)

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _read_csv(self, name: str, rows: int) -> list[dict[str, Any]]:
        """The first rows of a table. Raises CheckpointError where there are fewer."""
        if rows == 0:
            return []
        path = self.path / name
        try:
            with path.open(newline="") as file:
                read = list(itertools.islice(csv.DictReader(file), rows))
        except (OSError, ValueError, csv.Error) as error:
            raise CheckpointError(f"{path}: cannot be read ({reason_of(error)})") from None
        if len(read) < rows:
            raise CheckpointError(f"{path}: must have at least the checkpoint's {rows} rows, got {len(read)}")
        return read

    def _write_csv(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        rows = list(rows)
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        self._write(name, text.getvalue().encode())

    def _write_json(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write `content` and return it as a reader of the file finds it."""
        strict = {key: _json(value) for key, value in content.items()}
        self._write(name, (json.dumps(strict, indent=2, allow_nan=False) + "\n").encode())
        return strict

    def _write(self, name: str, content: bytes) -> None:
        """Replace the file in one step, so that a killed run never leaves half of one. Raises StorageError."""
        part = self.path / f".{name}.part"
        try:
            part.write_bytes(content)
            part.replace(self.path / name)
        except OSError as error:
            with suppress(OSError):
                part.unlink(missing_ok=True)
            raise StorageError(f"{self.path / name}: cannot be written ({reason_of(error)})") from None


def _json(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they are written as text, which the config reads back."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
