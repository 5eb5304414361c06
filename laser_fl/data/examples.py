"""Examples in memory: tensors with an axis of examples."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from laser_fl.config import RunConfig
from laser_fl.data.sampler import Epochs, Sampler, deal, held_out
from laser_fl.data.trees import Tree, mapped
from laser_fl.rng import Device, RandomStreams
from laser_fl.shapes import Int64, Shaped

Batch = tuple[Tree, Tree]


@dataclass(frozen=True)
class Examples:
    """Inputs and targets of equal length.

    inputs: a tensor, or a tuple or mapping of tensors, which a model takes as its arguments.
    groups: the natural client of each example, counted from 0; for partition=by-column.
    """

    inputs: Tree
    targets: Shaped[Tensor, "examples ..."]
    groups: Int64[Tensor, " examples"] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def device(self) -> torch.device:
        """The device on which the data lies."""
        return self.targets.device

    @property
    def stacked(self) -> bool:
        """True: a batch has one shape for all clients, so that these can be computed in one call."""
        return True

    def to(self, device: Device) -> "Examples":
        """Return the same examples on `device`."""
        inputs = mapped(lambda tensor: tensor.to(device), self.inputs)
        return replace(self, inputs=inputs, targets=self.targets.to(device))

    def at(self, rows: Int64[Tensor, "*rows"], into: Tensor | None = None) -> Batch:
        """Return (inputs, targets) of the examples at `rows`, in their arrangement.

        into: inputs of an earlier batch, to be overwritten where they have the same shape.
        """
        flat = rows.flatten()  # indexing by more than one axis is several times slower
        targets = self.targets.index_select(0, flat).view(*rows.shape, *self.targets.shape[1:])
        if not isinstance(self.inputs, Tensor):
            return mapped(lambda t: t.index_select(0, flat).view(*rows.shape, *t.shape[1:]), self.inputs), targets
        shape = (*rows.shape, *self.inputs.shape[1:])
        if into is None or into.shape != shape:
            into = self.inputs.new_empty(shape)
        torch.index_select(self.inputs, 0, flat, out=into.view(len(flat), *self.inputs.shape[1:]))
        return into, targets

    def batches(self, count: int, size: int, workers: int = 0) -> Iterator[Batch]:
        """Yield `count` of the examples (0: all), always the same ones, `size` at a time."""
        if 0 < count < len(self):
            for rows in torch.split(stratified(self.targets.cpu(), count).to(self.device), size):
                yield self.at(rows)
            return
        for start in range(0, len(self), size):
            part = partial(_part, start, start + size)
            yield mapped(part, self.inputs), part(self.targets)

    def select(self, rows: Int64[Tensor, " rows"], size: int) -> Iterator[Batch]:
        """Yield the examples at `rows`, `size` at a time."""
        for some in torch.split(rows.to(self.device), size):
            yield self.at(some)

    def held_out(self, config: RunConfig) -> Sequence[Tensor]:
        """Return the rows of each client that are held out from training, to evaluate on."""
        return held_out(self.targets, config, self.groups)

    def sampler(self, config: RunConfig, clients: range) -> Sampler:
        """Return shuffled epochs over the config's partition. Raises ConfigError where a client would get nothing."""
        return Epochs(config, deal(self.targets, config, self.groups), clients)


def _part(start: int, end: int, tensor: Tensor) -> Tensor:
    return tensor[start:end]


def stratified(labels: Shaped[Tensor, "examples ..."], count: int) -> Int64[Tensor, " count"]:
    """Draw `count` examples, rising, at random but with each label in proportion: the same ones in every run."""
    drawn = torch.randperm(len(labels), generator=RandomStreams(0).generator("evaluation examples"))
    if labels.is_floating_point() or labels.ndim > 1:  # no labels
        return drawn[:count].sort().values
    shuffled, places = labels[drawn], torch.empty(len(labels), dtype=torch.float64)
    numbers, counts = torch.unique(labels, return_counts=True)
    for label, size in zip(numbers, counts.tolist(), strict=True):  # an example's place among those of its label
        places[shuffled == label] = (torch.arange(size, dtype=torch.float64) + 0.5) / size  # in (0, 1)
    return drawn[places.argsort(stable=True)[:count]].sort().values
