"""Evaluation: loss and metrics of a model on test data."""

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from laser_fl.blocks import Tensors, to_device
from laser_fl.config import RunConfig
from laser_fl.data.examples import Batch
from laser_fl.data.metrics import CLIENTS, IGNORED, LOSS, PERPLEXITY, Metric, fresh, number
from laser_fl.data.task import Task, cross_entropy_of_all
from laser_fl.data.trees import Tree, mapped, tensors_of
from laser_fl.errors import DataError, LaserError, brief, reason_of
from laser_fl.federated.differentiation import autocast, products
from laser_fl.models.base import outputs_of

EXAMPLES_ON_GPU = 2048
LARGEST_EXPONENT = 700.0  # of e, within a float


def evaluate(task: Task, module: nn.Module, state: Tensors, config: RunConfig) -> dict[str, float]:
    """Measure the mean loss and the metrics of a model on the config's test examples.

    Args:
        task: of the run.
        module: the network.
        state: its weights and buffers, by name.
        config: of the run.

    Returns:
        {"loss": ..., "accuracy": in [0, 1]}, or with the task's metrics in the place of the accuracy; and with
        evaluate-clients the scores of the clients.

    Raises:
        DataError: a metric cannot be measured on the model's outputs; one of clients, on those of no client.
    """
    device = next(iter(state.values())).device
    batches = task.test.batches(config.evaluate_examples, _batch_size(task, device), config.data_workers)
    scores = measured(task, module, state, config, batches)
    if not config.evaluate_clients or not math.isfinite(scores[LOSS]):  # a model that has diverged ends the run
        return scores
    return scores | client_scores(task, module, state, config)


def client_scores(task: Task, module: nn.Module, state: Tensors, config: RunConfig) -> dict[str, float]:
    """Measure loss and metrics on each client's held-out examples, and sum them up over the clients that have some.

    With client-weighting=examples the mean is weighted by the numbers of held-out examples. The worst decile is the
    mean of the worst tenth of the clients, and at least of one; the spread is the standard deviation. A metric leaves
    out the clients for which it cannot be computed or is not finite, as one that needs examples of both classes.

    Args:
        task: as for `evaluate`.
        module: as there.
        state: as there.
        config: as there.

    Returns:
        ``clients_<metric>_mean``, ``clients_<metric>_worst_decile`` and ``clients_<metric>_spread`` for each metric.

    Raises:
        DataError: a metric can be computed for no client.
    """
    shares = [rows for rows in task.train.held_out(config) if len(rows)]
    size = _batch_size(task, next(iter(state.values())).device)
    batches = (task.train.select(rows, size) for rows in shares)
    each = [_scored(task, module, state, config, own, tolerant=True) for own in batches]
    if not each:
        return {}
    sizes = [len(rows) if config.client_weighting == "examples" else 1 for rows in shares]
    scores: dict[str, float] = {}
    for name in each[0].values:
        scores |= _over_clients(name, each, sizes)
    return scores


def measured(
    task: Task, module: nn.Module, state: Tensors, config: RunConfig, batches: Iterable[Batch]
) -> dict[str, float]:
    """Measure the mean loss and the metrics over batches, as `evaluate` does."""
    return _scored(task, module, state, config, batches, tolerant=False).values


@dataclass(frozen=True)
class _Scores:
    """The mean loss and the metrics over batches.

    values: by name; nan for a metric that has an error. errors: reasons why metrics cannot be computed, by name.
    """

    values: dict[str, float]
    errors: dict[str, str]

    def has(self, name: str) -> bool:
        """Return True for a usable score; a loss that is not finite is one, since it shows that a model diverges."""
        if name in (LOSS, PERPLEXITY):
            return LOSS not in self.errors
        return math.isfinite(self.values[name])


@torch.no_grad()
def _scored(
    task: Task, module: nn.Module, state: Tensors, config: RunConfig, batches: Iterable[Batch], tolerant: bool
) -> _Scores:
    """Measure loss and metrics over batches. tolerant: collect the metrics' errors, rather than raise the first."""
    module.eval()
    device = next(iter(state.values())).device
    measuring = _Measuring(task, device, tolerant)
    for batch in batches:
        inputs, targets = (mapped(lambda tensor: to_device(tensor, device), part) for part in batch)
        with products(config, device), autocast(config, device):
            outputs = outputs_of(module, state, task.prepare(inputs) if task.prepare else inputs)
            measuring.add_loss(outputs, targets)
        measuring.update(outputs, targets)
    return measuring.scores()


class _Measuring:
    """Sums of the loss, and the measures of a task, as batches come."""

    def __init__(self, task: Task, device: torch.device, tolerant: bool) -> None:
        self._task, self._tolerant = task, tolerant
        self._measures = {name: fresh(one, device) for name, one in task.metrics.items() if not isinstance(one, str)}
        self._errors: dict[str, str] = {}
        self._sums = torch.zeros(2, dtype=torch.float64, device=device)  # losses, targets

    def add_loss(self, outputs: Any, targets: Tree) -> None:
        """Add the loss of a batch, unless none of its targets counts. A GPU is not waited for."""
        loss = torch.as_tensor(self._task.loss(outputs, targets), dtype=torch.float64, device=self._sums.device)
        size = loss.new_zeros(()) + _size(self._task, targets)
        self._sums += torch.stack([torch.where(size > 0, loss * size, 0.0), size])

    def update(self, outputs: Any, targets: Tree) -> None:
        """Take a batch for the metrics that have no error yet."""
        for name, measure in self._measures.items():
            if name not in self._errors:
                with self._collecting(name):
                    _update(name, measure, outputs, targets)

    def scores(self) -> _Scores:
        """Compute the loss and the metrics."""
        values = dict.fromkeys([LOSS, *self._task.metrics], math.nan)
        with self._collecting(LOSS):
            values[LOSS] = self._mean_loss()
        if PERPLEXITY in values:
            values[PERPLEXITY] = math.exp(values[LOSS]) if values[LOSS] < LARGEST_EXPONENT else math.inf
        for name, measure in self._measures.items():
            if name not in self._errors:
                with self._collecting(name):
                    values[name] = number(name, measure)
        return _Scores(values, self._errors)

    def _mean_loss(self) -> float:
        loss, count = self._sums.tolist()
        if not count:
            raise DataError(f"targets: must have some other than {IGNORED}, which cross-entropy ignores, got none")
        return float(loss / count)

    @contextmanager
    def _collecting(self, name: str) -> Iterator[None]:
        """Keep the error of a metric, or raise it where it does not come from a loss that is not finite."""
        try:
            yield
        except DataError as error:
            if not self._tolerant and math.isfinite(self._sums[0].item()):
                raise
            self._errors[name] = str(error)  # the error itself would hold on to the batch


def _over_clients(name: str, each: Sequence[_Scores], sizes: Sequence[int]) -> dict[str, float]:
    """Sum up one metric of the clients that have it. Raises DataError where none has."""
    known = [(scores.values[name], size) for scores, size in zip(each, sizes, strict=True) if scores.has(name)]
    if not known:
        reason = next((scores.errors[name] for scores in each if name in scores.errors), "it is not finite")
        raise DataError(f"evaluate-clients: {name} must be computable for at least one client, got none: {reason}")
    values, weights = torch.tensor(known, dtype=torch.float64).T.contiguous()
    worst = values.sort(descending=Metric.named(name).best is min).values[: max(1, len(values) // 10)]
    mean, spread = (values @ weights) / weights.sum(), values.std(correction=0)
    parts = {"mean": mean, "worst_decile": worst.mean(), "spread": spread}
    return {f"{CLIENTS}{name}_{part}": float(value) for part, value in parts.items()}


def _update(name: str, measure: Any, outputs: Any, targets: Any) -> None:
    try:
        measure.update(outputs, targets)
    except LaserError:
        raise
    except Exception as error:
        raise DataError(f"metric {name}: raised {type(error).__name__}: {brief(reason_of(error))}") from None


def _size(task: Task, targets: Tree) -> int | torch.Tensor:
    """Count the targets of a tensor that the loss counts, or the examples of others."""
    if not isinstance(targets, torch.Tensor):
        return len(next(tensors_of(targets)))
    return (targets != IGNORED).sum() if task.loss is cross_entropy_of_all else targets.numel()


def _batch_size(task: Task, device: torch.device) -> int:
    """Return the number of examples in a forward pass: on a GPU up to four times the task's, but not above 2,048."""
    size = task.evaluation_batch
    return size if device.type == "cpu" else max(size, min(4 * size, EXAMPLES_ON_GPU))
