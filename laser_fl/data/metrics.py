"""Metrics: how scores of a name are compared and shown, and how they are measured on outputs and targets.

Files and tables carry a score under its name alone, so the name decides the rest: less is better where it has one of
the words in LESS_IS_BETTER, as torchmetrics' MeanSquaredError, Perplexity or HammingDistance do, or one of the
ABBREVIATIONS between underscores.
"""

import copy
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from laser_fl.data.trees import tensors_of
from laser_fl.errors import ConfigError, DataError, brief, quoted, reason_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOSS, PERPLEXITY, ACCURACY = "loss", "perplexity", "accuracy"
CLIENTS = "clients_"  # before the name of a score of the clients on their own examples
LESS_IS_BETTER = (LOSS, PERPLEXITY, "error", "distance", "divergence", "deviation")
ABBREVIATIONS = ("mse", "rmse", "mae", "mape", "nll", "wer", "cer", "bce", "ece", "fid")  # less is better, as well
IGNORED = -100  # cross-entropy's mark of a target that does not count


@dataclass(frozen=True)
class Metric:
    """The rule by which scores of one name are compared and shown.

    best: max or min. factor: multiplies a score to show it, in `unit`.
    """

    name: str
    best: Callable[[list[float]], float]
    factor: float = 1.0
    unit: str = ""

    @classmethod
    def named(cls, name: str) -> "Metric":
        """Return the rule of a name."""
        lower = name.lower()
        less = any(word in lower for word in LESS_IS_BETTER) or not set(ABBREVIATIONS).isdisjoint(lower.split("_"))
        less |= name.startswith(CLIENTS) and name.endswith("_spread")
        return KNOWN.get(name) or cls(name, min if less else max)

    @property
    def label(self) -> str:
        """The name, with the unit where it has one."""
        return f"{self.name} ({self.unit})" if self.unit else self.name

    @property
    def in_percent(self) -> bool:
        """True where it lies between 0 and 100 %, so that differences count in points."""
        return self.unit == "%"

    @property
    def sign(self) -> int:
        """1 where more is better, -1 where less is."""
        return 1 if self.best is max else -1

    def scale(self, axes: "Axes") -> str:
        """Return the vertical scale of curves: log where less is better and all scores are above 0, else linear."""
        heights = (np.asarray(line.get_ydata(), dtype=float) for line in axes.lines)
        return "log" if self.best is min and not any((some <= 0).any() for some in heights) else "linear"


KNOWN: Mapping[str, Metric] = {ACCURACY: Metric(ACCURACY, max, 100.0, "%")}


def scored(names: Collection[str]) -> list[str]:
    """Return the names by which runs are compared: all but the loss, or the loss where there is nothing else.

    The scores of the clients, ``clients_...``, do not count.
    """
    central = [name for name in names if not name.startswith(CLIENTS)]
    return [name for name in central if name != LOSS] or central


def metrics_in(columns: Collection[str], score: str = "test") -> list[Metric]:
    """List the metrics that have a score ``<score>_<name>`` among `columns`, of a summary, a table or a file."""
    opening = f"{score}_"
    return [Metric.named(n) for n in scored([c.removeprefix(opening) for c in columns if c.startswith(opening)])]


@runtime_checkable
class Measure(Protocol):
    """An object that measures a metric batch by batch, as those of torchmetrics do."""

    def reset(self) -> None:
        """Forget all batches."""

    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch."""

    def compute(self) -> Any:
        """Return the metric over all batches since the reset, as a single number."""


class Accuracy:
    """The share of outputs (*batch, classes) whose largest value is at the target's place, but for IGNORED targets."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._correct = self._count = torch.tensor(0)

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Take a batch. Raises DataError where outputs and targets do not fit together."""
        if outputs.ndim == 0 or outputs.shape[:-1] != targets.shape or outputs.shape[-1] < 2:
            shape = f"(*targets, 2 classes or more) with targets {tuple(targets.shape)}"
            rule = f"must be of shape {shape} for the accuracy; metrics= chooses another metric"
            raise DataError(f"the model's outputs {rule}; got {tuple(outputs.shape)}")
        self._correct = self._correct + (outputs.argmax(dim=-1) == targets).sum()  # read once, at the end
        self._count = self._count + (targets != IGNORED).sum()

    def compute(self) -> float:
        """Return the share, in [0, 1]."""
        correct, count = torch.stack([self._correct, self._count]).tolist()
        return float(correct / count)


class MeanOver:
    """The mean of a function of (outputs, targets) over examples."""

    def __init__(self, function: Callable[[Any, Any], Any]) -> None:
        """function: returns the mean over a batch, as a single number."""
        self._function = function
        self.reset()

    def reset(self) -> None:
        """Forget all batches."""
        self._total: float | Tensor = 0.0
        self._count = 0

    def update(self, outputs: Any, targets: Any) -> None:
        """Take a batch."""
        size = len(next(tensors_of(targets)))
        value = self._function(outputs, targets)
        on_device = isinstance(value, Tensor) and value.is_floating_point() and value.numel() == 1
        # A GPU is waited for once, at the end.
        self._total = self._total + (value.detach().double().flatten()[0] if on_device else float(value)) * size
        self._count += size

    def compute(self) -> float:
        """Return the mean."""
        return float(self._total / self._count)


Given = str | Measure | Callable[[Any, Any], Any]


def named_metrics(given: Given | Sequence[Given] | Mapping[str, Given]) -> dict[str, Measure | str]:
    """Return metrics by name; those that follow from the mean loss stay texts: ``loss`` itself, ``perplexity``.

    given: one or several of: the names ``accuracy``, ``loss``, ``perplexity``; objects of torchmetrics; functions of
        (outputs, targets) that return the mean over a batch. A mapping names them; a MetricCollection of torchmetrics
        stands for its metrics.

    Raises:
        ConfigError: there is none, or one is of another kind, or has a name that contradicts its direction.
    """
    named = _pairs(given)
    found = {name: _measure(name, metric) for name, metric in named}
    if not found or len(found) < len(named):
        raise ConfigError(f"metrics: must be named differently, at least one, got {', '.join(n for n, _ in named)}")
    return found


def _pairs(given: Any) -> list[tuple[str, Given]]:
    """List names and metrics, as they are given."""
    if isinstance(given, torch.nn.ModuleDict):
        return [(_snake(name), metric) for name, metric in given.items()]
    if isinstance(given, Mapping):
        return [(str(name), metric) for name, metric in given.items()]
    if isinstance(given, str) or not isinstance(given, Sequence):
        return [(given if isinstance(given, str) else _snake(getattr(given, "__name__", type(given).__name__)), given)]
    return [pair for one in given for pair in _pairs(one)]


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|\W+", "_", name).strip("_").lower()


def _measure(name: str, metric: Given) -> Measure | str:
    if not name.isidentifier() or name.startswith(CLIENTS):
        raise ConfigError(f"metrics: must have names of letters, digits and _, not {CLIENTS}..., got {quoted(name)}")
    if isinstance(metric, type):
        raise ConfigError(f"metrics: {name} must be an object: write {metric.__name__}(...)")
    if name == LOSS and metric != LOSS:
        raise ConfigError("metrics: must have another name than loss, which is the mean loss's, got 'loss'")
    if isinstance(metric, str):
        if metric in (LOSS, PERPLEXITY) and name != metric:
            raise ConfigError(f"metrics: {metric} must keep its name, got {quoted(name)}")
        if metric not in (ACCURACY, LOSS, PERPLEXITY):
            rule = f"must be {ACCURACY}, {LOSS}, {PERPLEXITY}, a function or a metric of torchmetrics"
            raise ConfigError(f"metrics: {rule}, got {quoted(metric)}")
        return Accuracy() if metric == ACCURACY else metric
    better = getattr(metric, "higher_is_better", None)
    if better is not None and better != (Metric.named(name).best is max):
        rule = "have" if not better else "not have"
        words = ", ".join(LESS_IS_BETTER + ABBREVIATIONS)
        raise ConfigError(f"metrics: {quoted(name)} must {rule} one of {words} in its name, which tells the direction")
    if isinstance(metric, Measure):
        return metric
    if not callable(metric):
        raise ConfigError(f"metrics: {name} must be a function or a metric of torchmetrics, got {quoted(metric)}")
    return MeanOver(metric)


def fresh(measure: Measure, device: torch.device) -> Measure:
    """Return a copy of a measure without batches, on the device of the outputs."""
    own = copy.deepcopy(measure)
    if isinstance(own, torch.nn.Module):
        own = own.to(device)
    own.reset()
    return own


def number(name: str, measure: Measure) -> float:
    """Compute a measure. Raises DataError where it fails, or is no single number."""
    try:
        return float(measure.compute())
    except Exception as error:
        kind = type(error).__name__
        raise DataError(f"metric {name}: must give a single number, raised {kind}: {brief(reason_of(error))}") from None
