"""Evaluation: loss and metrics of a model on test data."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.examples import Batch
from laser_fl.data.metrics import CLIENTS, LOSS, PERPLEXITY, Metric, fresh, number
from laser_fl.data.task import Task
from laser_fl.data.trees import Tree, mapped, tensors_of
from laser_fl.errors import DataError, LaserError, brief, reason_of
from laser_fl.federated.differentiation import autocast
from laser_fl.models.base import outputs_of

LARGEST_EXPONENT = 700.0  # of e, within a float


@torch.no_grad()
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
        DataError: a metric cannot be measured on the model's outputs.
    """
    batches = task.test.batches(config.evaluate_examples, task.evaluation_batch, config.data_workers)
    scores = measured(task, module, state, config, batches)
    return scores | client_scores(task, module, state, config) if config.evaluate_clients else scores


def client_scores(task: Task, module: nn.Module, state: Tensors, config: RunConfig) -> dict[str, float]:
    """Measure loss and metrics on each client's held-out examples, and sum them up over the clients that have some.

    The mean is weighted as client-weighting is; the worst decile is the mean of the worst tenth of the clients, and at
    least of one; the spread is the standard deviation.

    Args:
        task: as for `evaluate`.
        module: as there.
        state: as there.
        config: as there.

    Returns:
        ``clients_<metric>_mean``, ``clients_<metric>_worst_decile`` and ``clients_<metric>_spread`` for each metric.
    """
    shares = [rows for rows in task.train.held_out(config) if len(rows)]
    each = [measured(task, module, state, config, task.train.select(rows, task.evaluation_batch)) for rows in shares]
    if not each:
        return {}
    by_size = config.client_weighting == "examples"
    weights = torch.tensor([len(rows) if by_size else 1 for rows in shares], dtype=torch.float64)
    scores: dict[str, float] = {}
    for name in each[0]:
        values = torch.tensor([one[name] for one in each], dtype=torch.float64)
        worst = values.sort(descending=Metric.named(name).best is min).values[: max(1, len(values) // 10)]
        mean, spread = (values @ weights) / weights.sum(), values.std(correction=0)
        parts = {"mean": mean, "worst_decile": worst.mean(), "spread": spread}
        scores |= {f"{CLIENTS}{name}_{part}": float(value) for part, value in parts.items()}
    return scores


def measured(
    task: Task, module: nn.Module, state: Tensors, config: RunConfig, batches: Iterable[Batch]
) -> dict[str, float]:
    """Measure the mean loss and the metrics over batches, as `evaluate` does."""
    module.eval()
    device = next(iter(state.values())).device
    measures = {name: fresh(one, device) for name, one in task.metrics.items() if not isinstance(one, str)}
    loss = count = 0.0
    for batch in batches:
        inputs, targets = (mapped(lambda tensor: tensor.to(device), part) for part in batch)
        size = _size(targets)
        with autocast(config, device):
            outputs = outputs_of(module, state, task.prepare(inputs) if task.prepare else inputs)
            loss += float(task.loss(outputs, targets)) * size
        count += size
        for name, measure in measures.items():
            _update(name, measure, outputs, targets)
    scores = {LOSS: loss / count}
    for name in task.metrics:
        if name in measures:
            scores[name] = number(name, measures[name])
        elif name == PERPLEXITY:
            scores[name] = math.exp(scores[LOSS]) if scores[LOSS] < LARGEST_EXPONENT else math.inf
    return scores


def _update(name: str, measure: Any, outputs: Any, targets: Any) -> None:
    try:
        measure.update(outputs, targets)
    except LaserError:
        raise
    except Exception as error:
        raise DataError(f"metric {name}: raised {type(error).__name__}: {brief(reason_of(error))}") from None


def _size(targets: Tree) -> int:
    """Count the values of a tensor of targets, or the examples of others."""
    return targets.numel() if isinstance(targets, torch.Tensor) else len(next(tensors_of(targets)))
