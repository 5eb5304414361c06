"""Tasks: data, models, loss and metrics, as local training and the evaluation use them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from laser_fl.config import RunConfig
from laser_fl.data.adapters import as_data
from laser_fl.data.examples import Examples
from laser_fl.data.metrics import ACCURACY, LOSS, PERPLEXITY, Metric, named_metrics, scored
from laser_fl.data.streamed import Collate
from laser_fl.data.text import Text
from laser_fl.errors import ConfigError, did_you_mean, quoted
from laser_fl.models.base import Network, build
from laser_fl.registry import AUTO, MODELS
from laser_fl.rng import Device, RandomStreams
from laser_fl.shapes import Float, Shaped

Builder = Callable[..., nn.Module | Network]


def cross_entropy_of_all(
    outputs: Float[Tensor, "*batch classes"], targets: Shaped[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over all targets."""
    return cross_entropy(outputs.flatten(end_dim=-2), targets.flatten())


@dataclass(frozen=True)
class Task:
    """Data, models, loss and metrics: all that a run needs to know of a problem.

    train, test: a pair of tensors (inputs, targets), a map-style torch Dataset, a data set of Hugging Face, or a list
        with the data of each client; see `laser_fl.data.adapters`. They become Examples, Text or Streamed.
    models: builders by name, the first of which is the usual one; or one builder. A builder returns a module or a
        Network, and gets the config's keys that it has parameters for, and of `fixed` those that it takes.
    metrics: one or several: ``accuracy``, ``perplexity``, ``loss``, objects of torchmetrics, functions of (outputs,
        targets), which must leave both as they are, since all metrics get the same tensors; a mapping names them, and
        runs are compared by the first but the loss. auto: the perplexity for a Text, the accuracy where targets are
        integers and the loss is the default cross-entropy, else the loss.
    loss: (outputs, targets) -> the mean loss, a scalar; by default the cross-entropy, which ignores targets of -100.
    augment: (inputs (clients, batch, ...), a generator per client) -> inputs to train on.
    prepare: inputs as they are stored -> as a model reads them.
    trained: patterns, as ``*.lora_*``, of the names of the weights that are trained; (): all that require a gradient.
    undecayed: patterns of the names of the weights to which weight decay does not apply.
    collate: makes (inputs, targets) of a list of a Dataset's examples, as a DataLoader's does; for examples of
        different shapes.
    fixed: facts for builders, as {"classes": 10}. evaluation_batch: examples per forward pass of an evaluation; a
        GPU takes up to four times as many, but not above 2,048.

    Example:
        >>> import torch
        >>> data = torch.randn(20, 3), torch.randint(2, (20,))
        >>> task = Task(data, data, {"linear": lambda: torch.nn.Linear(3, 2)})
        >>> len(task.train)
        20
    """

    train: Any
    test: Any
    models: Mapping[str, Builder] | Builder
    metrics: Any = AUTO
    fixed: Mapping[str, Any] = field(default_factory=dict)
    evaluation_batch: int = 2048
    augment: Callable[[Tensor, list[torch.Generator]], Tensor] | None = None
    prepare: Callable[[Tensor], Tensor] | None = None
    loss: Callable[[Any, Any], Tensor] = cross_entropy_of_all
    trained: tuple[str, ...] = ()
    undecayed: tuple[str, ...] = ()
    collate: Collate | None = None

    def __post_init__(self) -> None:
        """Bring data, metrics and models into their own forms.

        Raises:
            ConfigError: a metric is of another kind, or its name contradicts its direction.
            DataError: the data are none that can be trained on.
        """
        for name in ("train", "test"):
            object.__setattr__(self, name, as_data(getattr(self, name), name, self.collate))
        given = self._usual_metrics() if isinstance(self.metrics, str) and self.metrics == AUTO else self.metrics
        object.__setattr__(self, "metrics", named_metrics(given))
        if not isinstance(self.models, Mapping):
            object.__setattr__(self, "models", {getattr(self.models, "__name__", "model"): self.models})

    def _usual_metrics(self) -> str:
        if isinstance(self.train, Text):
            return PERPLEXITY
        numbers = isinstance(self.train, Examples) and self.train.targets.is_floating_point()
        return ACCURACY if self.loss is cross_entropy_of_all and not numbers else LOSS

    @property
    def metric(self) -> Metric:
        """The metric by which runs are compared."""
        return Metric.named(scored(self.metrics)[0])

    def to(self, device: Device) -> "Task":
        """Return the same task with its data on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def network(self, config: RunConfig) -> Network:
        """Build the config's model, with initial weights drawn from its seed.

        Raises:
            ConfigError: the task has no such model, or its builder returns something else, or a pattern of the task
                fits no weight.
        """
        models: Mapping[str, Builder] = self.models  # type: ignore[assignment]
        name = next(iter(models)) if config.model == AUTO else config.model
        builder = models.get(name, MODELS.outside.get(name))
        if builder is None:
            rule = f"must be one of {', '.join(models)} for this task"
            raise ConfigError(f"model: {rule}, got {quoted(name)}{did_you_mean(name, models)}")
        with RandomStreams(config.seed).torch_global("initial weights"):
            built = build(builder, config, self.fixed)
        if isinstance(built, nn.Module):
            built = Network.of(built)
        if not isinstance(built, Network):
            raise ConfigError(f"model: {name} must be built as a torch.nn.Module, got {type(built).__name__}")
        return built.restricted(self.trained, self.undecayed)
