"""A run's folder: the files of a run, each written whole or not at all, and tables by whole lines."""

import json
import math
import shutil
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from safetensors.torch import save

from laser_fl.callbacks.base import Callback, Metrics
from laser_fl.callbacks.running import call, restore_states, states_of
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, StorageError, reason_of
from laser_fl.federated.ledger import LedgerRecord
from laser_fl.federated.server import Server
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
    folder_name,
    lock,
    unlock,
    write_whole,
)
from laser_fl.storage.peak_memory import forget_peak
from laser_fl.storage.resume import EVALUATIONS, LENGTHS, latest, refuse_other_run
from laser_fl.storage.snapshots import new_name
from laser_fl.storage.summary import device_of, summarise
from laser_fl.storage.trackers.base import tracker_class


def path_of(config: RunConfig, now: datetime) -> Path:
    """Return a run's folder: the one to go on with, else `out-dir`, else runs/<task>-<strategy>-<time>."""
    default = f"runs/{folder_name(config.task)}-{folder_name(config.strategy)}-{now:%Y%m%d-%H%M%S}"
    return Path(config.resume or config.out_dir or default).expanduser()


def refuse_used(path: Path) -> None:
    """Raise ConfigError where `path` is not a new or an empty folder."""
    try:
        if path.exists() and any(path.iterdir()):
            raise ConfigError(f"out-dir: must be a new or empty folder, got {str(path)!r}")
    except OSError as error:
        raise ConfigError(f"out-dir: must be a folder ({error.strerror}), got {str(path)!r}") from None


class RunFolder(Callback):
    """A callback that records a run as it proceeds.

    ``config.json`` holds the resolved config; ``environment.json`` versions and machine; ``metrics.csv`` a line per
    evaluation; ``ledger.csv`` a line per round; ``timing.csv`` seconds per round, apart, so that the tables can be
    compared bit by bit; ``spectrum.csv`` the updates' spectra, if requested; ``weights.safetensors`` the final
    weights; ``summary.json`` the result; ``checkpoints/`` the state to go on from. The config's tracker receives
    every event, too.
    """

    def __init__(self, path: Path, config: RunConfig, engine: str, callbacks: Sequence[Callback] = ()) -> None:
        """Make the folder, or open that of the run to go on with.

        Args:
            path: a new or empty folder, or that of the run to go on with.
            config: of the run.
            engine: name of the engine, for the records.
            callbacks: the run's others, whose states are kept in its checkpoints.

        Raises:
            ConfigError: the folder is not empty, or cannot be written to; the run to go on with is another; or the
                tracker is not installed.
        """
        self.path = path
        self._config = config
        self._engine = engine
        self._callbacks = callbacks
        self._metrics: list[Metrics] = []
        self._spectra: list[dict[str, Any]] = []
        self._seconds: list[float] = []
        self._tables = {name: CsvTable(path / name) for name in (METRICS, LEDGER, TIMING, SPECTRUM)}
        self._started = time.perf_counter()
        self._begun = not config.resume  # a run that cannot go on leaves all as it was
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
        except (LaserError, KeyboardInterrupt) as error:  # from the tracker, or by the user before the run began
            for left in path.iterdir():  # or the folder would be a used one
                shutil.rmtree(left) if left.is_dir() else left.unlink()
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ConfigError(str(error)) from None

    def on_begin(self, server: Server) -> None:
        """Restore `server` from the last checkpoint, if the config resumes a run, and set its folders.

        Raises:
            CheckpointError: there is no checkpoint from which all can go on.
            ConfigError: a callback with a state in the checkpoint is not among the run's.
        """
        server.folder = self.path
        forget_peak(device_of(server))
        if self._config.checkpoint_every:
            server.snapshots = new_name()
        if self._config.resume:
            self._go_on(server)
        if server.nodes is not None:
            known = json.loads((self.path / ENVIRONMENT).read_text())
            self._write_json(ENVIRONMENT, known | {"nodes": server.nodes})
        self._begun = True
        call(self._tracker, "on_begin", server)

    def _go_on(self, server: Server) -> None:
        """Restore run and tables as they were at the last checkpoint.

        A run that is longer now drops the evaluation at its former end, unless its schedule evaluates there anyway.
        Whenever it is killed, the checkpoint has no more rows than the tables, and fits the config.
        """
        numbers, tensors = latest(self._checkpoints)
        rows, tables = numbers["rows"], self._tables
        metrics = tables[METRICS].read(rows[METRICS], Metrics.parse)
        ledger = tables[LEDGER].read(rows[LEDGER], LedgerRecord.parse)
        spectra = tables[SPECTRUM].read(rows[SPECTRUM], _spectrum_row)
        self._seconds = tables[TIMING].read(rows[TIMING], lambda row: float(row["seconds"]))
        server.restore(numbers, tensors, ledger)
        restore_states(self._callbacks, numbers.get("callbacks", {}))
        server.snapshots = numbers["snapshots"]
        scheduled = server.schedule.evaluates_after
        self._metrics = [one for one in metrics if scheduled(one.round - 1)]
        self._spectra = [row for row in spectra if scheduled(row["round"] - 1)]
        self._started -= numbers["seconds"]
        there, now = json.loads((self.path / CONFIG).read_text()), self._config.to_flat()
        self._write_json(CONFIG, there | {key: now[key] for key in (*LENGTHS, EVALUATIONS)})
        if len(self._metrics) < len(metrics):
            fewer = {"rows": rows | {METRICS: len(self._metrics), SPECTRUM: len(self._spectra)}}
            self._checkpoints.save(server.round, numbers | fewer, tensors)
        for table in tables.values():
            table.start_over()
        self._write_tables(server)
        for file in (SUMMARY, WEIGHTS):  # from its former end
            (self.path / file).unlink(missing_ok=True)

    def on_checkpoint(self, server: Server) -> None:
        """Save the state to go on from. Raises StorageError."""
        self._write_tables(server)
        numbers, tensors = server.state()
        beside = {"rows": {name: table.rows for name, table in self._tables.items()}, "seconds": self._elapsed}
        states = {"callbacks": states_of(self._callbacks), "snapshots": server.snapshots}
        everything, written = numbers | beside | states, server.wait_for_snapshots
        has_others = any(True for _ in self._checkpoints.numbers)  # a run that is killed finds one, from its first on
        self._checkpoints.save(server.round, everything, tensors, background=has_others, after=written)
        self._write_before_snapshots(server)

    def on_round(self, server: Server, seconds: float) -> None:
        """Record the duration of the round. Raises StorageError where the last checkpoint cannot be written."""
        self._seconds.append(seconds)
        self._write_before_snapshots(server)
        call(self._tracker, "on_round", server, seconds)

    def _write_before_snapshots(self, server: Server) -> None:
        """Wait for the last checkpoint before the clients save theirs of the next one, or the run ends.

        Whenever a run is killed, clients have snapshots for the server's last checkpoint that is whole.
        """
        if server.finished or server.saves_after(server.round + 1):
            self._checkpoints.wait()

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        """Record the metrics, and bring the tables up to date."""
        self._metrics.append(metrics)
        moment = {"round": metrics.round, "epoch": metrics.epoch}
        self._spectra += [moment | {"block": name, "energy": value} for name, value in server.spectrum.items()]
        self._write_tables(server)
        call(self._tracker, "on_evaluation", server, metrics)

    @contextmanager
    def recording_failure(self, server: Server) -> Iterator[None]:
        """Write the records of the rounds in the body where these end with an error, which passes."""
        try:
            yield
            self._checkpoints.wait()
        except BaseException as error:
            self.fail(server, error)
            raise

    def finish(self, server: Server) -> dict[str, Any]:
        """Write the final weights and the summary of a completed run. Returns the summary. Raises StorageError."""
        self._checkpoints.wait()
        self._write_tables(server)
        weights = {name: tensor.cpu().contiguous() for name, tensor in server.global_model.tensors.items()}
        write_whole(self.path / WEIGHTS, save(weights))
        summary = self._write_json(SUMMARY, self._summary(server) | {"status": "completed"})
        self._close_tracker(completed=True)
        unlock(self.path, self._lock)
        return summary

    def fail(self, server: Server | None, error: BaseException) -> None:
        """Write the records of a run that stopped, with the reason, as far as the disk still takes them."""
        with suppress(StorageError):
            if self._begun:
                self._write_failure(server, error)
        self._close_tracker(completed=False)
        unlock(self.path, self._lock)

    def _write_failure(self, server: Server | None, error: BaseException) -> None:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        reason = str(error) or type(error).__name__
        summary: dict[str, Any] = {"status": status, "reason": reason, "engine": self._engine}
        if server is not None:
            self._write_tables(server)
            with suppress(StorageError):  # the reason of the failure is known
                self._checkpoints.wait()
            if server.halted:
                self.on_checkpoint(server)
                self._checkpoints.wait()
            summary = self._summary(server) | summary
        self._write_json(SUMMARY, summary)

    def _close_tracker(self, completed: bool) -> None:
        """Close the tracker; an error there becomes a warning."""
        try:
            self._tracker.close(completed)
        except Exception as error:
            warnings.warn(f"tracker: {self._config.tracker} did not close: {error}", stacklevel=2)

    def _summary(self, server: Server) -> dict[str, Any]:
        return summarise(server, self._engine, self._metrics, self._seconds) | {"seconds_total": self._elapsed}

    def _write_tables(self, server: Server) -> None:
        """Append the new rows to the tables."""
        metrics, ledger, timing, spectrum = (self._tables[name] for name in (METRICS, LEDGER, TIMING, SPECTRUM))
        metrics.append(one.flat() for one in self._metrics[metrics.rows :])
        ledger.append(asdict(record) for record in server.ledger[ledger.rows :])
        seconds = enumerate(self._seconds[timing.rows :], start=timing.rows + 1)
        timing.append({"round": round, "seconds": value} for round, value in seconds)
        spectrum.append(self._spectra[spectrum.rows :])

    @property
    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _write_json(self, name: str, content: Mapping[str, Any]) -> dict[str, Any]:
        """Write `content`, and return it as a reader of the file finds it."""
        strict = {key: _json(value) for key, value in content.items()}
        write_whole(self.path / name, (json.dumps(strict, indent=2, allow_nan=False) + "\n").encode())
        return strict


def _spectrum_row(row: dict[str, str]) -> dict[str, Any]:
    """Parse the round of a row of spectrum.csv; the rest stays text. Raises ValueError or KeyError."""
    return {**row, "round": int(row["round"])}


def _json(value: Any) -> Any:
    """Replace infinity and NaN, which JSON lacks, by text, which the config reads back."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
