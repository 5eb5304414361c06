"""Training over the air in one call: own model and own data, in this process."""

import copy
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Unpack

from torch import Tensor, nn

from laser_fl.callbacks import Callback, Metrics, built
from laser_fl.callbacks.running import apart
from laser_fl.channels.base import Channel
from laser_fl.config import RunConfig, parse_all
from laser_fl.config.keywords import only
from laser_fl.config.run_config import kebab
from laser_fl.config.server_options import RunOptions
from laser_fl.data.adapters import is_of_clients
from laser_fl.data.streamed import Collate
from laser_fl.data.task import Task, cross_entropy_of_all
from laser_fl.errors import ConfigError, TrainingError, brief, packages_for, reason_of
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.loop import train as run_rounds
from laser_fl.federated.server import Server
from laser_fl.federated.setup import setup_of
from laser_fl.registry import AUTO, CHANNELS, OWN, SCHEMES
from laser_fl.registry.options import take_options
from laser_fl.results import Comparison, Result
from laser_fl.schemes.base import Scheme
from laser_fl.storage.files import COMPARISON, folder_name
from laser_fl.storage.run_folder import RunFolder
from laser_fl.storage.summary import summarise


def train(
    model: nn.Module,
    train_data: Any,
    test_data: Any,
    *,
    strategy: Scheme | str = "laser",
    channel: Channel | str = "awgn",
    loss: Callable[[Any, Any], Tensor] = cross_entropy_of_all,
    metrics: Any = AUTO,
    collate: Collate | None = None,
    callbacks: Sequence[Callback | str] = (),
    out: str | Path | None = None,
    **options: Unpack[RunOptions],
) -> Result:
    """Train a model over the air, on data that are dealt to the clients.

    Args:
        model: with the initial weights; it is left as it is.
        train_data: a pair of tensors (inputs, targets), a map-style torch Dataset, a data set of Hugging Face, or a
            list with the data of each client, which sets clients and partition.
        test_data: likewise.
        strategy: a scheme, or its name as in ``laser-fl list``.
        channel: an object, or a name.
        loss: (outputs, targets) -> the mean loss, a scalar.
        metrics: ``accuracy``, ``perplexity``, ``loss``, objects of torchmetrics, functions of (outputs, targets), or
            several; auto: the accuracy where targets are integers and the loss is the default one, else the loss.
        collate: makes (inputs, targets) of a list of examples, where a Dataset's have different shapes.
        callbacks: called as the run goes on: names as in ``laser-fl list``, then objects.
        out: a new folder for the run's files, which ``laser-fl report`` reads; None: none.
        options: keys of the run config in snake_case: power, clients, rounds, learning_rate, batch_size, seed...

    Returns:
        Scores, ledger and summary of the run, and the trained copy of the model.

    Raises:
        ConfigError: an option is unknown, or its value is wrong.
        DataError: the data cannot be trained on.
        TrainingError: a gradient or a score is not finite.

    Example:
        >>> import torch
        >>> inputs = torch.randn(64, 3)
        >>> data = inputs, (inputs.sum(dim=1) > 0).long()
        >>> result = train(torch.nn.Linear(3, 2), data, data, strategy="sgd", clients=4, batch_size=4, rounds=8)
        >>> len(result.history), len(result.ledger)
        (8, 8)
    """
    names, objects = apart(callbacks)
    (config,) = _configs(model, [strategy], channel, names, _clients_of(train_data) | options)
    task = _task(model, train_data, test_data, metrics=metrics, loss=loss, collate=collate)
    return _run(config, task, objects, out)


def compare(
    model: nn.Module,
    train_data: Any,
    test_data: Any,
    *,
    strategies: Sequence[Scheme | str] = ("sgd", "z-sgd", "laser"),
    channel: Channel | str = "awgn",
    loss: Callable[[Any, Any], Tensor] = cross_entropy_of_all,
    metrics: Any = AUTO,
    collate: Collate | None = None,
    callbacks: Sequence[Callback | str] = (),
    out: str | Path | None = None,
    **options: Unpack[RunOptions],
) -> Comparison:
    """Train the same model with several strategies, one after the other, over the same channel at the same power.

    Args:
        model: as for `train`.
        train_data: as for `train`.
        test_data: as for `train`.
        strategies: schemes, or their names.
        channel: as for `train`.
        loss: as for `train`.
        metrics: as for `train`.
        collate: as for `train`.
        callbacks: as for `train`, of every run; an object serves one run after the other.
        out: a new folder, for a folder of each run and a table, which ``laser-fl report`` reads; None: none.
        options: as for `train`; the option of a part from outside applies where that is chosen.

    Returns:
        The results by the strategies' names, with `plot()` and `table`. Several of one scheme have the options in
        which they differ in their names. Where the run of one fails, a warning gives the reason, and the others go on.

    Raises:
        ConfigError: as `train` does, before the first run; or two strategies are the same.
        DataError: as `train` does.
        TrainingError: all runs failed.

    Example:
        >>> import torch
        >>> inputs = torch.randn(64, 3)
        >>> data = inputs, (inputs.sum(dim=1) > 0).long()
        >>> results = compare(torch.nn.Linear(3, 2), data, data, strategies=["sgd", "z-sgd"], clients=4, rounds=2)
        >>> list(results)
        ['sgd', 'z-sgd']
    """
    names, objects = apart(callbacks)
    configs = _named(_configs(model, strategies, channel, names, _clients_of(train_data) | options))
    if out is not None:
        with packages_for("compare with out"):
            import pandas  # noqa: F401  before hours of training
    results = Comparison()
    task = _task(model, train_data, test_data, metrics=metrics, loss=loss, collate=collate)
    for name, config in configs.items():
        try:
            results[name] = _run(config, task, objects, None if out is None else Path(out) / folder_name(name))
        except TrainingError as error:
            results.failed[name] = str(error)
            warnings.warn(f"{name}: {error}", stacklevel=2)
    if not results:
        raise TrainingError("; ".join(f"{name}: {reason}" for name, reason in results.failed.items()))
    if out is not None:
        results.table.to_csv(Path(out) / COMPARISON, index=False)
    return results


def _configs(
    model: nn.Module,
    strategies: Sequence[Scheme | str],
    channel: Channel | str,
    callbacks: str,
    options: Mapping[str, Any],
) -> list[RunConfig]:
    """Return the configs of runs on own data, one for each strategy. Raises ConfigError."""
    about = {"task": OWN, "model": type(model).__name__, "callbacks": callbacks}, CHANNELS.choice(channel)
    allowed, whose = RunOptions.__annotations__, "a run on own data"
    return parse_all([only(options, allowed, whose, *about, SCHEMES.choice(strategy)) for strategy in strategies])


def _clients_of(train_data: Any) -> dict[str, Any]:
    """Return the keys that keep the data of each client apart, where they come as a list."""
    return {"clients": len(train_data), "partition": "by-column"} if is_of_clients(train_data) else {}


def _task(model: nn.Module, train_data: Any, test_data: Any, **facts: Any) -> Task:
    """Make the task of training copies of a model. facts: the task's other fields."""

    def copied() -> nn.Module:
        try:
            return copy.deepcopy(model)
        except Exception as error:  # old parametrisations, locks, files
            reason = f"{type(error).__name__}: {brief(reason_of(error))}"
            raise ConfigError(f"model: must be a module that can be copied ({reason})") from None

    return Task(train_data, test_data, {type(model).__name__: copied}, **facts)


def _named(configs: Sequence[RunConfig]) -> dict[str, RunConfig]:
    """Name configs by their schemes, and by the options in which several of one scheme differ.

    Raises:
        ConfigError: two are the same.
    """
    options = [take_options(SCHEMES.load(config.strategy), config) for config in configs]
    named: dict[str, RunConfig] = {}
    for config, own in zip(configs, options, strict=True):
        alike = [other for one, other in zip(configs, options, strict=True) if one.strategy == config.strategy]
        differing = [f"{kebab(key)}={v}" for key, v in own.items() if any(other[key] != v for other in alike)]
        name = " ".join([config.strategy, *differing])
        if name in named:
            raise ConfigError(f"strategies: must name each once, got {name!r} twice")
        named[name] = config
    return named


class _Record(Callback):
    """The scores and the seconds of a run."""

    def __init__(self) -> None:
        self.metrics: list[Metrics] = []
        self.seconds: list[float] = []

    def on_round(self, server: Server, seconds: float) -> None:
        self.seconds.append(seconds)

    def on_evaluation(self, server: Server, metrics: Metrics) -> None:
        self.metrics.append(metrics)


def _run(config: RunConfig, task: Task, callbacks: Sequence[Callback], out: str | Path | None) -> Result:
    """Run all rounds in this process."""
    setup, record, others = setup_of(config, task), _Record(), [*built(config), *callbacks]
    network, engine = setup.network, InProcess(setup)
    folder = None if out is None else RunFolder(Path(out).expanduser(), config, "in-process", others)
    with folder.recording_failure(engine.server) if folder else nullcontext():
        listening = [record, *([folder] if folder else []), *others]
        run_rounds(engine.server, engine.advance, setup.evaluate, listening)
    if folder is not None:
        folder.finish(engine.server)
    server = engine.server
    network.module.load_state_dict(server.global_model.tensors, strict=False)
    summary = summarise(server, "in-process", record.metrics, record.seconds)
    records = tuple(asdict(one) for one in server.ledger)
    averaged = dict(server.global_model.averaged)
    return Result(config, network.module, averaged, tuple(record.metrics), records, summary, task.metric.name)
