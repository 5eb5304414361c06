"""What every task offers to workers and to the evaluation."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor, nn
from torch.func import functional_call

from laser_fl.blocks import Tensors
from laser_fl.models.base import Network
from laser_fl.streams import Device, Streams


@dataclass(frozen=True)
class Examples:
    """A data set as two tensors of equal length."""

    inputs: Shaped[Tensor, "examples ..."]
    targets: Shaped[Tensor, "examples ..."]

    def to(self, device: Device) -> "Examples":
        """The same examples on `device`."""
        return Examples(self.inputs.to(device), self.targets.to(device))

    def at(self, rows: Int64[Tensor, "*rows"]) -> "Examples":
        """The examples at `rows`, in their arrangement."""
        return Examples(self.inputs[rows], self.targets[rows])

    def first(self, count: int) -> "Examples":
        """The first `count` examples; all for 0."""
        return self if count == 0 else Examples(self.inputs[:count], self.targets[:count])


@dataclass(frozen=True)
class Task:
    """Data, models, loss and metric.

    models: name -> constructor. loss: (outputs, targets) -> mean loss.
    metric: name of what `score` gives. score: (outputs, targets) -> sum over examples.
    """

    train: Examples
    test: Examples
    models: Mapping[str, Callable[[], Network]]
    loss: Callable[[Tensor, Tensor], Tensor]
    metric: str
    score: Callable[[Tensor, Tensor], Tensor]

    def to(self, device: Device) -> "Task":
        """The same task with its data on `device`."""
        return replace(self, train=self.train.to(device), test=self.test.to(device))

    def model(self, name: str, streams: Streams) -> nn.Module:
        """A model with initial weights drawn from `streams`."""
        with streams.torch_global("initial weights"):
            return self.models[name]().module

    @torch.no_grad()
    def evaluate(self, model: nn.Module, weights: Tensors, examples: int = 0, batch: int = 2048) -> dict[str, float]:
        """Mean loss and metric of `weights` on the first `examples` test examples (0: all).

        batch: examples per forward pass. Returns {"loss": ..., <metric>: in [0, 1] for accuracy}.
        """
        test = self.test.first(examples)
        loss = score = 0.0
        for inputs, targets in zip(torch.split(test.inputs, batch), torch.split(test.targets, batch), strict=True):
            outputs = functional_call(model, weights, (inputs,))
            loss += float(self.loss(outputs, targets)) * len(targets)
            score += float(self.score(outputs, targets))
        return {"loss": loss / len(test.targets), self.metric: score / len(test.targets)}


def correct(outputs: Float[Tensor, "examples classes"], targets: Shaped[Tensor, " examples"]) -> Float[Tensor, ""]:
    """How many examples are classified right."""
    return (outputs.argmax(dim=-1) == targets).sum().float()
