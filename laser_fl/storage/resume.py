"""Resuming a run that stopped: its config and engine, and the last checkpoint from which all of it can go on."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError, LaserError, brief, reason_of
from laser_fl.federated.optimizer import update_filter_of
from laser_fl.registry import POLICIES, SCHEMES
from laser_fl.storage.checkpoint import CheckpointError, Checkpoints, Numbers
from laser_fl.storage.files import CONFIG, ENVIRONMENT, SUMMARY

MAY_CHANGE = (
    "resume",
    "out-dir",
    "data-dir",
    "dataset",
    "tracker",
    "min-available-nodes",
    "reply-timeout",
)  # on resuming
LENGTHS = ("rounds", "epochs")  # the one that counts may grow, if the rounds so far stay as they were
EVALUATIONS = "evaluate-every"
DEPENDENT = {  # values that depend on the run's length, by key
    "lr-schedule": ("cosine", "one-cycle", "step"),
    "power-policy": tuple(name for name in POLICIES if name != "constant"),
    "receiver": ("paced",),
}


@dataclass(frozen=True)
class About:
    """A run as its folder records it.

    nodes: number of nodes among which its clients were spread; None where they were in one process.
    """

    config: RunConfig
    engine: str
    nodes: int | None


def about(path: Path) -> About:
    """Read the records of a run, to go on with it. Raises ConfigError where `path` is not a run's folder."""
    file = CONFIG
    try:
        config = parse(json.loads((path / file).read_text()) | {"resume": str(path)})
        file = ENVIRONMENT
        environment = json.loads((path / file).read_text())
        engine, nodes = str(environment["engine"]), environment.get("nodes")
    except (OSError, ValueError, KeyError, TypeError, LaserError) as error:
        rule = f"must be the folder of a run ({file}: {reason_of(error)})"
        raise ConfigError(f"resume: {rule}, got {str(path)!r}") from None
    return About(config, engine, nodes if isinstance(nodes, int) else None)


def refuse_other_run(path: Path, config: RunConfig, engine: str) -> None:
    """Refuse to go on with a run that differs from `config`.

    Args:
        path: folder of the run to go on with.
        config: of the run that goes on.
        engine: name of its engine.

    Raises:
        ConfigError: `path` is not the folder of that run.
    """
    known = about(path)
    _refuse_stopped(path)
    if known.engine != engine:
        raise ConfigError(f"resume: must go on with the engine {known.engine}, got {engine}")
    before, now = (one.to_flat() | {EVALUATIONS: one.evaluation_interval} for one in (known.config, config))
    for key, value in now.items():
        if value == before[key] or key in MAY_CHANGE:
            continue
        if key != known.config.length:
            counted = f", which is counted in {known.config.length}" if key in LENGTHS else ""
            raise ConfigError(f"{key}: must be {before[key]} as in the run that goes on{counted}, got {value}")
        _refuse_other_length(key, before | {"receiver": _update_filter(known.config)}, value)


def _refuse_stopped(path: Path) -> None:
    """Raise ConfigError where a callback has stopped the run in `path`, which is complete then."""
    try:
        summary = json.loads((path / SUMMARY).read_text())
    except (OSError, ValueError):
        return
    if isinstance(summary, dict) and summary.get("status") == "completed" and summary.get("stopped_early"):
        when = f"after round {summary.get('rounds')} ({brief(str(summary.get('stop_reason')))})"
        raise ConfigError(f"resume: must be a run that is not complete, got {str(path)!r}, which was stopped {when}")


def lengthened(config: RunConfig, lengths: Mapping[str, Any]) -> RunConfig:
    """Return the run of `config` with other `lengths`, by their keys, evaluated as often. Raises ConfigError."""
    return parse({**config.to_flat(), EVALUATIONS: config.evaluation_interval, **lengths}) if lengths else config


def _refuse_other_length(key: str, before: Mapping[str, Any], value: Any) -> None:
    """Raise ConfigError where a run is to be shorter than it was `before`, or longer though something depends on it."""
    if value < before[key]:
        raise ConfigError(f"{key}: must be at least {before[key]} as in the run that goes on, got {value}")
    for other, dependent in DEPENDENT.items():
        if before[other] in dependent:
            rule = f"must be {before[key]} as in the run that goes on, whose {other} {before[other]} depends on it"
            raise ConfigError(f"{key}: {rule}, got {value}")


def _update_filter(config: RunConfig) -> str:
    return update_filter_of(config, SCHEMES.build(config.strategy, config))


def latest(checkpoints: Checkpoints) -> tuple[Numbers, Tensors]:
    """Return the newest checkpoint from which the server and all client groups with snapshots here can go on.

    Raises:
        CheckpointError: there is none; the message has a reason for each.
    """
    reasons = []
    for number in checkpoints.numbers:
        try:
            numbers, tensors = checkpoints.load(number)
            _refuse_missing_snapshots(checkpoints.folder, int(numbers["exchange"]))
            return numbers, tensors
        except (LaserError, KeyError, TypeError, ValueError) as error:
            reasons.append(reason_of(error))
    raise CheckpointError("; ".join(reasons) or f"{checkpoints.folder}: there is no checkpoint to go on from")


def _snapshots(folder: Path) -> Iterator[Path]:
    """Return the snapshots of client groups beside a server's checkpoints: there, or in a folder of the run's name."""
    return folder.rglob("node-*.safetensors")


def _refuse_missing_snapshots(folder: Path, exchange: int) -> None:
    """Raise CheckpointError where a client group with snapshots here has none that is whole and of this exchange."""
    groups = {(path.parent, path.name.rpartition("-")[0]) for path in _snapshots(folder)}
    for place, group in sorted(groups):
        snapshots = Checkpoints(place, group)
        known = [number for number in snapshots.numbers if number in (exchange, exchange - 1)]
        if not known:
            raise CheckpointError(f"{folder}: {group} has no snapshot of exchange {exchange - 1}")
        snapshots.load(max(known))
