"""Tasks: data, models, loss and metric, as local training and the evaluation use them."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy
from torch.utils.data import Dataset

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.data.metrics import TASK_METRICS
from laser_fl.data.sampler import Epochs, Sampler, Windows, deal
from laser_fl.errors import ConfigError, DataError, brief, quoted
from laser_fl.models.base import Network, build
from laser_fl.registry import AUTO, MODELS
from laser_fl.rng import Device, RandomStreams
from laser_fl.shapes import Float, Int64, Shaped

Batch = tuple[Shaped[Tensor, "..."], Shaped[Tensor, "..."]]


@dataclass(frozen=True)
class Examples:
    """A data set as two tensors of equal length."""

    inputs: Shaped[Tensor, "examples ..."]
    targets: Shaped[Tensor, "examples ..."]

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """The device on which the data lies."""
        return self.inputs.device

    def to(self, device: Device) -> "Examples":
        """Return the same examples on `device`."""
        return Examples(self.inputs.to(device), self.targets.to(device))

    def at(self, rows: Int64[Tensor, "*rows"], into: Tensor | None = None) -> Batch:
        """Return (inputs, targets) of the examples at `rows`, in their arrangement.

        into: inputs of an earlier batch, to be overwritten where they have the same shape.
        """
        flat = rows.flatten()  # indexing by more than one axis is several times slower
        shape = (*rows.shape, *self.inputs.shape[1:])
        if into is None or into.shape != shape:
            into = self.inputs.new_empty(shape)
        torch.index_select(self.inputs, 0, flat, out=into.view(len(flat), *self.inputs.shape[1:]))
        return into, self.targets.index_select(0, flat).view(*rows.shape, *self.targets.shape[1:])

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """Yield `count` of the examples (0: all), always the same ones, `size` at a time."""
        if 0 < count < len(self):
            for rows in torch.split(stratified(self.targets.cpu(), count).to(self.device), size):
                yield self.at(rows)
            return
        yield from zip(torch.split(self.inputs, size), torch.split(self.targets, size), strict=True)

    def sampler(self, config: RunConfig, clients: range) -> Sampler:
        """Return shuffled epochs over the config's partition. Raises ConfigError where a client would get nothing."""
        return Epochs(config, deal(self.targets, config), clients)


def stratified(labels: Shaped[Tensor, "examples ..."], count: int) -> Int64[Tensor, " count"]:
    """Draw `count` examples, rising, at random but with each label in proportion: the same ones in every run."""
    drawn = torch.randperm(len(labels), generator=RandomStreams(0).generator("evaluation examples"))
    if labels.is_floating_point() or labels.ndim > 1:  # no labels
        return drawn[:count].sort().values
    shuffled, places = labels[drawn], torch.empty(len(labels), dtype=torch.float64)
    for label, size in enumerate(labels.bincount().tolist()):  # an example's place among those of its label, in (0, 1)
        places[shuffled == label] = (torch.arange(size, dtype=torch.float64) + 0.5) / size
    return drawn[places.argsort(stable=True)[:count]].sort().values


def as_examples(data: Any, part: str) -> "Examples | Text":
    """Return data as Examples: a pair of tensors, or a map-style Dataset of pairs, stacked once.

    Args:
        data: of one of these kinds; Examples and Text stay as they are.
        part: its name, for messages.

    Raises:
        DataError: it is of another kind, or its examples have different shapes or no targets.
    """
    if isinstance(data, Examples | Text):
        return data
    if isinstance(data, Dataset):
        try:
            pairs = [(torch.as_tensor(x), torch.as_tensor(y)) for x, y in (data[i] for i in range(len(data)))]  # type: ignore[arg-type]
            data = tuple(torch.stack(part) for part in zip(*pairs, strict=True))
        except (TypeError, ValueError, RuntimeError, IndexError) as error:
            rule = "must give pairs (inputs, target) of equal shapes"
            raise DataError(f"{part} data: {rule} ({brief(str(error))})") from None
    if not isinstance(data, tuple | list) or len(data) != 2 or not all(isinstance(one, Tensor) for one in data):
        rule = "must be a pair of tensors (inputs, targets), or a torch Dataset"
        raise DataError(f"{part} data: {rule}, got {type(data).__name__}")
    inputs, targets = data
    if len(inputs) != len(targets):
        raise DataError(f"{part} data: must have a target for each input, got {len(inputs)} and {len(targets)}")
    if len(inputs) == 0:
        raise DataError(f"{part} data: must have examples, got none")
    return Examples(inputs, targets)


@dataclass(frozen=True)
class Text:
    """A text as tokens; an example is a window of `context` of them, and its targets the next ones.

    tokens: may be memory-mapped. context: tokens that a model reads at once.
    """

    tokens: Shaped[Tensor, " tokens"]
    context: int

    def __len__(self) -> int:
        """Count the windows that fill the text, the last one perhaps short."""
        return math.ceil((len(self.tokens) - 1) / self.context)

    @property
    def device(self) -> torch.device:
        """The device on which the data lies."""
        return self.tokens.device

    def to(self, device: Device) -> "Text":
        """Return the same text on `device`."""
        return Text(self.tokens.to(device), self.context)

    def at(self, starts: Int64[Tensor, "*rows"], into: Tensor | None = None) -> Batch:
        """Return (tokens, the tokens after them) of the windows that begin at `starts`; `into` is left alone."""
        places = starts.unsqueeze(-1) + torch.arange(self.context + 1, device=starts.device)
        windows = self.tokens[places].long()
        return windows[..., :-1], windows[..., 1:]

    def batches(self, count: int, size: int) -> Iterator[Batch]:
        """Yield `count` windows, evenly spread over the text (0: all, the last perhaps short), `size` at a time."""
        some, whole = 0 < count < len(self), (len(self.tokens) - 1) // self.context
        places = torch.arange(count if some else whole, device=self.tokens.device)
        if some:
            places = places * whole // count
        for starts in torch.split(places * self.context, size) if len(places) else ():
            yield self.at(starts)
        if not some and (rest := len(self.tokens) - 1 - whole * self.context):
            yield replace(self, context=rest).at(places.new_tensor([whole * self.context]))

    def sampler(self, config: RunConfig, clients: range) -> Sampler:
        """Return windows at random places.

        Raises:
            ConfigError: the text is shorter than the context, or a client's stretch of it is; or the partition goes by
                labels, which a text does not have.
        """
        if config.partition != "iid":
            raise ConfigError(f"partition: must be iid for a text, got {config.partition!r}")
        if len(self.tokens) <= self.context:
            raise ConfigError(f"context: must be below the text's {len(self.tokens)} tokens, got {self.context}")
        return Windows(config, len(self.tokens), self.context + 1, clients)


def cross_entropy_of_all(
    outputs: Float[Tensor, "*batch classes"], targets: Shaped[Tensor, "*batch"]
) -> Float[Tensor, ""]:
    """Return the mean cross-entropy over all targets."""
    return cross_entropy(outputs.flatten(end_dim=-2), targets.flatten())


@dataclass(frozen=True)
class Task:
    """Data, models, loss and metric: all that a run needs to know of a problem.

    train, test: Examples or Text; a pair of tensors (inputs, targets), or a map-style torch Dataset of such pairs,
        becomes Examples.
    models: builders by name, the first of which is the usual one. A builder returns a module or a Network, and gets the
        config's keys that it has parameters for, and `fixed`.
    metric: a name in TASK_METRICS; the perplexity is that of the loss. evaluation_batch: examples per forward pass.
    loss: (outputs, targets) -> the mean loss, a scalar.
    augment: (inputs (clients, batch, ...), a generator per client) -> inputs to train on.
    prepare: inputs as they are stored -> as a model reads them.

    Example:
        >>> import torch
        >>> data = torch.randn(20, 3), torch.randint(2, (20,))
        >>> task = Task(data, data, {"linear": lambda: torch.nn.Linear(3, 2)})
        >>> len(task.train)
        20
    """

    train: Any
    test: Any
    models: Mapping[str, Callable[..., nn.Module | Network]]
    metric: str = "accuracy"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    evaluation_batch: int = 2048
    augment: Callable[[Tensor, list[torch.Generator]], Tensor] | None = None
    prepare: Callable[[Tensor], Tensor] | None = None
    loss: Callable[[Any, Any], Tensor] = cross_entropy_of_all

    def __post_init__(self) -> None:
        """Take the data as Examples, and check them and the metric.

        Raises:
            ConfigError: no table or picture knows how to show the metric.
            DataError: the data are none that can be trained on.
        """
        for part in ("train", "test"):
            object.__setattr__(self, part, as_examples(getattr(self, part), part))
        if self.metric not in TASK_METRICS:
            raise ConfigError(f"task: its metric must be one of {', '.join(TASK_METRICS)}, got {self.metric!r}")

    def to(self, device: Device) -> "Task":
        """Return the same task with its data on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def network(self, config: RunConfig) -> Network:
        """Build the config's model, with initial weights drawn from its seed.

        Raises:
            ConfigError: the task has no such model, or its builder returns something else.
        """
        name = next(iter(self.models)) if config.model == AUTO else config.model
        builder = self.models.get(name, MODELS.outside.get(name))
        if builder is None:
            raise ConfigError(f"model: must be one of {', '.join(self.models)} for this task, got {quoted(name)}")
        with RandomStreams(config.seed).torch_global("initial weights"):
            built = build(builder, config, **self.fixed)
        if isinstance(built, nn.Module):
            return Network.of(built)
        if not isinstance(built, Network):
            raise ConfigError(f"model: {name} must be built as a torch.nn.Module, got {type(built).__name__}")
        return built

    @torch.no_grad()
    def evaluate(self, module: nn.Module, state: Tensors, config: RunConfig) -> dict[str, float]:
        """Measure the mean loss and the metric of a model on the config's test examples.

        Args:
            module: the network.
            state: its weights and buffers, by name.
            config: of the run.

        Returns:
            {"loss": ..., "accuracy": in [0, 1]} or {"loss": ..., "perplexity": ...}.
        """
        loss = correct = count = 0.0
        module.eval()
        device = next(iter(state.values())).device
        for batch in self.test.batches(config.evaluate_examples, self.evaluation_batch):
            inputs, targets = (values.to(device) for values in batch)
            with autocast(config, device):
                outputs = functional_call(module, state, (self.prepare(inputs) if self.prepare else inputs,))
                loss += float(self.loss(outputs, targets)) * targets.numel()
            correct += self._correct(outputs, targets) if self.metric == "accuracy" else 0.0
            count += targets.numel()
        mean = loss / count
        if self.metric == "perplexity":
            return {"loss": mean, "perplexity": math.exp(mean) if mean < 700 else math.inf}
        return {"loss": mean, self.metric: correct / count}

    def _correct(self, outputs: Tensor, targets: Tensor) -> float:
        """Count the outputs whose largest value is the target's. Raises DataError where these do not fit together."""
        if outputs.ndim == 0 or outputs.shape[:-1] != targets.shape:
            rule = f"must be of shape (*targets, classes), with targets {tuple(targets.shape)}, for the accuracy"
            raise DataError(f"the model's outputs {rule}, got {tuple(outputs.shape)}")
        return float((outputs.argmax(dim=-1) == targets).sum())


def autocast(config: RunConfig, device: torch.device) -> torch.autocast:
    """Return the config's precision for forward passes; weights and gradients stay in float32."""
    enabled = config.precision == "bfloat16" or (config.precision == "auto" and device.type == "cuda")
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)
