"""A run's folder: what a user finds after a run, every file written whole or not at all."""

import csv
import io
import json
import math
import shutil
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save

from laser_fl.config import RunConfig
from laser_fl.environment import environment
from laser_fl.errors import ConfigError
from laser_fl.loop import Training
from laser_fl.observers import Metrics, Observer
from laser_fl.tasks.base import BEST
from laser_fl.trackers.base import tracker_class

CONFIG, METRICS, LEDGER, TIMING = "config.json", "metrics.csv", "ledger.csv", "timing.csv"
SUMMARY, WEIGHTS = "summary.json", "weights.safetensors"
ENVIRONMENT, SPECTRUM = "environment.json", "spectrum.csv"


def default_path(config: RunConfig, now: datetime) -> Path:
    """Where a run goes that was not told: runs/<task>-<strategy>-<time>."""
    return Path("runs") / f"{config.task}-{config.strategy}-{now:%Y%m%d-%H%M%S}"


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
    for; ``weights.safetensors`` the final weights; ``summary.json`` the result. The config's tracker
    is told of everything, too.
    """

    def __init__(self, path: Path, config: RunConfig, engine: str) -> None:
        """path: a new or empty folder.

        Raises:
            ConfigError: it holds something already, or cannot be written to; or the tracker is not installed.
        """
        tracker = tracker_class(config.tracker)
        self.path = path
        self._config = config
        self._engine = engine
        self._metrics: list[Metrics] = []
        self._spectra: list[dict[str, Any]] = []
        self._seconds: list[float] = []
        self._started = time.perf_counter()
        refuse_used(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            self._tracker = tracker(path, config)
            self._write_json(CONFIG, config.to_flat())
            self._write_json(ENVIRONMENT, environment())
        except OSError as error:
            raise ConfigError(f"out-dir: must be writable ({error.strerror}), got {str(path)!r}") from None
        except ConfigError:  # the tracker's; what it left there must not make the folder a used one
            for left in path.iterdir():
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            raise

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
        return summary

    def fail(self, training: Training | None, error: BaseException) -> None:
        """Keep what there is of a run that stopped, and why it did."""
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = str(error) or type(error).__name__
        summary: dict[str, Any] = {"status": status, "reason": reason, "engine": self._engine}
        if training is not None:
            self._write_tables(training)
            summary = self._summary(training) | summary
        self._write_json(SUMMARY, summary)
        self._close_tracker(completed=False)

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
            for name in last.ema_test.keys() & BEST.keys():
                summary[f"best_ema_test_{name}"] = BEST[name]([m.ema_test[name] for m in self._metrics])
        if ledger:
            uplink = sum(entry.uplink_floats for entry in ledger) / len(ledger)
            summary["uplink_floats_per_round"] = uplink
            summary["compression_ratio"] = training.parameters / uplink if uplink else math.inf
            summary["max_power_used"] = max(entry.max_power_used for entry in ledger)
            heard = [entry.snr_db for entry in ledger if entry.speakers]
            summary["mean_snr_db"] = sum(heard) / len(heard) if heard else -math.inf
            summary["speakers_per_round"] = sum(entry.speakers for entry in ledger) / len(ledger)
            summary["silent_rounds"] = len(ledger) - len(heard)
            for column in ("channel_uses", "uplink_energy", "downlink_energy", "latency_seconds", "faults", "retries"):
                summary[f"total_{column}"] = sum(getattr(entry, column) for entry in ledger)
        summary["seconds_total"] = time.perf_counter() - self._started
        if seconds:
            summary["seconds_per_round"] = sum(seconds) / len(seconds)
        return summary

    def _write_tables(self, training: Training) -> None:
        self._write_csv(METRICS, (metrics.flat() for metrics in self._metrics))
        self._write_csv(LEDGER, (asdict(entry) for entry in training.ledger))
        timing = ({"round": i, "seconds": s} for i, s in enumerate(self._seconds, start=1))
        self._write_csv(TIMING, timing)
        self._write_csv(SPECTRUM, self._spectra)

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
        """Replace the file in one step, so that a killed run never leaves half of one."""
        part = self.path / f".{name}.part"
        part.write_bytes(content)
        part.replace(self.path / name)


def _json(value: Any) -> Any:
    """JSON knows no infinity and no NaN: they are written as text, which the config reads back."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
