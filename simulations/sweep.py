"""Many runs from one grid, spread over a Ray cluster; a rerun goes on where the last one stopped.

A sweep's folder holds one folder per run, named after the run's keys, and the table of all results.
"""

import shutil
import time
import tomllib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock, Timeout

from laser_fl.config import RunConfig, parse_all
from laser_fl.errors import ConfigError, LaserError, brief, did_you_mean, quoted
from laser_fl.federated.setup import Setup, data_dir, device_of, prepare
from laser_fl.storage.files import CONFIG, SUMMARY
from laser_fl.storage.trackers.base import tracker_class
from simulations import presets
from simulations.cluster import cluster
from simulations.engines import in_process
from simulations.identity import (
    Identity,
    completed_below,
    digest_of,
    holds_other_run,
    identity_of,
    name_of,
    read_object,
)

Values = dict[str, Any]
PROBED_ROUNDS = 5
LAST_LINES = 5
NOT_IN_A_SETUP = {
    "strategy": "",
    "power": 0.0,
    "seed": 0,
    "learning_rate": 0.0,
    "local_learning_rate": 0.0,
    "rank": 0,
    "out_dir": "",
    "channel": "",
}
NOT_IN_THE_TIME = {"power": 0.0, "seed": 0, "learning_rate": 0.0, "local_learning_rate": 0.0, "out_dir": ""}


@dataclass(frozen=True)
class Grid:
    """Runs that share some keys and differ in others.

    fixed: keys of all runs. over: per key, its values; the runs are their product. best_of: per key, values of which
    the best counts for each combination of the others.
    """

    fixed: Mapping[str, Any] = field(default_factory=dict)
    over: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    best_of: Mapping[str, Sequence[Any]] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Values]:
        """Yield the keys of each run."""
        axes = {**self.over, **self.best_of}
        for values in product(*axes.values()):
            yield dict(self.fixed) | dict(zip(axes, values, strict=True))


@dataclass(frozen=True)
class Run:
    """One run of a sweep. folder: its own, named after the varied keys and a digest of the whole config."""

    config: RunConfig
    folder: Path

    @property
    def label(self) -> str:
        """The folder's name."""
        return self.folder.name

    @property
    def identity(self) -> Identity:
        """The settings that decide its results."""
        return identity_of(self.config.to_flat())

    @property
    def summary(self) -> Values | None:
        """The summary of a completed run of this whole config; None for any other."""
        summary, config = read_object(self.folder / SUMMARY), read_object(self.folder / CONFIG)
        completed = config and summary.get("status") == "completed"
        return summary if completed and identity_of(config) == self.identity else None


def read_grid(path: Path) -> Grid:
    """Read a sweep file: a preset's name, and the tables fixed, grid and best-of.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"sweep: must be a file ({error.strerror}), got {str(path)!r}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"sweep: must be TOML ({brief(str(error))}), got {str(path)!r}") from None
    parts = {"preset", "fixed", "grid", "best-of"}
    if unknown := content.keys() - parts:
        rule, part = f"must have no parts but {', '.join(sorted(parts))}", min(unknown)
        raise ConfigError(f"sweep: {rule}, got {quoted(part)}{did_you_mean(part, parts)}")
    for part in ("fixed", "grid", "best-of"):
        if not isinstance(content.get(part, {}), dict):
            raise ConfigError(f"sweep: {part} must be a table, got {quoted(content[part])}")
    if not isinstance(preset := content.get("preset", ""), str):
        raise ConfigError(f"sweep: preset must be a name, got {quoted(preset)}")
    fixed = content.get("fixed", {})
    axes = {part: content.get(part, {}) for part in ("grid", "best-of")}
    for part, keys in axes.items():
        for key, values in keys.items():
            if not isinstance(values, list) or not values:
                raise ConfigError(f"sweep: {part}.{brief(key)} must be a list of values, got {quoted(values)}")
    given = {*fixed, *axes["grid"], *axes["best-of"]}
    base = presets.beside(presets.load(preset), given) if "preset" in content else {}
    return Grid({**base, **fixed}, axes["grid"], axes["best-of"])


def runs_of(grids: Sequence[Grid], root: Path) -> list[Run]:
    """Return all runs of some grids, each once, in folders below `root`. Raises ConfigError for a wrong value.

    A run that has been completed is found by its config, whatever its folder is called.
    """
    root = root.resolve()
    completed = completed_below(root)
    named = {path.name.rpartition("-")[2]: path for path in root.glob("*-*")}  # of another grid that has it, too
    runs: dict[Identity, Run] = {}
    for grid in grids:
        varied = [*grid.over, *grid.best_of]
        points = list(grid)
        for values, config in zip(points, parse_all(points), strict=True):
            identity = identity_of(config.to_flat())
            words = "-".join([config.task, config.strategy, *(f"{k}={values[k]}" for k in varied if k != "strategy")])
            own = named.get(digest_of(identity), root / name_of(words, identity))
            runs.setdefault(identity, Run(config, completed.get(identity, own)))
    return list(runs.values())


def execute(
    runs: Sequence[Run],
    show: Callable[[Run, str], None],
    address: str | None = None,
    cpus: int = 1,
    gpus: float = 0,
    note: Callable[[Run, str], None] | None = None,
) -> dict[str, str]:
    """Carry out the runs that are not completed yet.

    Args:
        runs: completed or not.
        show: called with each run as it ends, and why it failed, or "".
        address: of a Ray cluster; None: this machine.
        cpus: CPUs that each run takes of it.
        gpus: GPUs, or a part of one, that each run takes.
        note: called with a run and the notice on its length, where it has one.

    Returns:
        The reasons of failed runs, by label.

    Raises:
        ConfigError, DataError: a run cannot start; none has then.
    """
    waiting = [run for run in runs if run.summary is None]
    notices = refuse_wrong([run.config for run in waiting])
    _refuse_others(waiting)
    if gpus == 0 and any(device_of(run.config).type == "cuda" for run in waiting):
        raise ConfigError(f"gpus: must be greater than 0 for runs on a GPU, or set device=cpu, got {gpus:g}")
    if not waiting:
        return {}
    for run, notice in zip(waiting, notices, strict=True):
        if notice and note is not None:
            note(run, notice)
    with _alone(waiting[0].folder.parent):
        return _on_ray([run for run in waiting if run.summary is None], show, address, cpus, gpus)


def _on_ray(
    waiting: Sequence[Run], show: Callable[[Run, str], None], address: str | None, cpus: int, gpus: float
) -> dict[str, str]:
    """Spread runs over a Ray cluster; return why some failed, by label."""
    with cluster(address) as ray:
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(_carry_out)
        running = {task.remote(_here(run)): run for run in waiting}
        failed = {}
        while running:
            (done,), _ = ray.wait(list(running), num_returns=1)
            run = running.pop(done)
            try:
                reason = ray.get(done)
            except ray.exceptions.RayError as error:  # the process died
                reason = _last_lines(str(error))
            if reason:
                failed[run.label] = reason
            show(run, reason)
        return failed


def refuse_wrong(configs: Sequence[RunConfig]) -> list[str]:
    """Raise ConfigError or DataError for settings that do not fit data, devices or lengths of runs.

    Returns:
        The notices on the runs' lengths, or "".
    """
    setups: dict[str, Setup] = {}
    notices = []
    for config in configs:
        device_of(config)
        tracker_class(config.tracker)
        key = config.model_copy(update=NOT_IN_A_SETUP).model_dump_json()
        if key not in setups:
            setups = {key: prepare(config.model_copy(update={"device": "cpu"}))}  # one at a time: they are large
        notices.append(replace(setups[key], config=config).server().schedule.notice)
    return notices


def _refuse_others(waiting: Sequence[Run]) -> None:
    """Raise ConfigError where a folder that a run is about to replace holds a run of other settings."""
    for run in waiting:
        if holds_other_run(run.folder, run.identity):
            raise ConfigError(f"runs: must hold no run of other settings, got {str(run.folder)!r}: move it away")


def estimate(runs: Sequence[Run], at_once: int) -> float:
    """Estimate the seconds that the runs which are not completed will take, `at_once` of them at a time.

    The estimate is made by completed runs that differ in seed, power or step size only, else by a few rounds of one.
    """
    seconds: dict[str, float] = {}
    kinds = [run.config.model_copy(update=NOT_IN_THE_TIME).model_dump_json() for run in runs]
    for run, kind in zip(runs, kinds, strict=True):
        if (summary := run.summary) is not None and "seconds_total" in summary:
            seconds.setdefault(kind, float(summary["seconds_total"]))
    waiting = [(run, kind) for run, kind in zip(runs, kinds, strict=True) if run.summary is None]
    for run, kind in waiting:
        if kind not in seconds:
            seconds[kind] = _probe(run.config)
    return sum(seconds[kind] for _, kind in waiting) / at_once


def _probe(config: RunConfig) -> float:
    """Estimate the seconds of a whole run from a few rounds and one evaluation of it."""
    setup = prepare(config)
    schedule = setup.schedule
    evaluations = sum(schedule.evaluates_after(round) for round in range(schedule.rounds))
    started = time.perf_counter()
    setup.evaluate(setup.network.weights | setup.network.buffers)
    evaluation = time.perf_counter() - started
    with TemporaryDirectory() as folder:
        changes = {"tracker": "none", "callbacks": "none", "gain_threshold": 0.0}
        changes |= dict.fromkeys(("rounds", "evaluate_every"), PROBED_ROUNDS)
        few = config.model_copy(update=changes)
        summary = in_process.run(few, Path(folder) / "probe")
    return float(summary["seconds_per_round"]) * schedule.rounds + 2 * evaluation * evaluations


def _here(run: Run) -> Run:
    """Return the run with every path absolute: the cluster's processes have directories of their own."""
    paths = {"out_dir": str(run.folder), "data_dir": str(data_dir(run.config).resolve())}
    return replace(run, config=run.config.model_copy(update=paths | {"checkpoint_every": 0}))  # a run begins anew


def _carry_out(run: Run) -> str:
    """Carry out one run in a process of the cluster; return why it failed, or ""."""
    if run.folder.exists():  # left by a sweep that was interrupted
        shutil.rmtree(run.folder)
    try:
        in_process.run(run.config, run.folder)
    except LaserError as error:
        return str(error)
    except Exception:
        return _last_lines(traceback.format_exc())
    return ""


def _last_lines(text: str) -> str:
    """Return the last lines of a failure's text."""
    return "\n".join(text.strip().splitlines()[-LAST_LINES:])


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Keep other commands from carrying out the same runs. Raises ConfigError where one does so now."""
    lock = FileLock(folder / ".lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise ConfigError(f"runs: must be used by one command at a time, got {str(folder)!r}, in use") from None
    except (OSError, NotImplementedError) as error:
        raise ConfigError(
            f"runs: must be a folder that can be written and locked ({error}), got {str(folder)!r}"
        ) from None
    try:
        yield
    finally:
        lock.release()
