"""Replicas of the model and its optimizer: equal inputs give equal steps, on the server and at nodes that follow it.

With ``downlink = compressed`` the server broadcasts the received signals instead of the model, and every node decodes
and steps by itself. A `ReplicaState` is all that a node must know of the server to begin, or to begin again.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import torch
from pydantic import TypeAdapter
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.config import parse
from laser_fl.errors import TrainingError, quoted
from laser_fl.federated.optimizer import (
    STEP,
    Optimizer,
    OptimizerConfig,
    first_filter_state,
    first_state,
    next_rate,
)
from laser_fl.registry import UPDATE_FILTERS
from laser_fl.schemes.base import Received, RoundContext, Scheme


class OutOfSyncError(TrainingError):
    """A node has missed a message without which it cannot follow the server."""


CONFIGS = 16  # that a process keeps checked: one run's is in all its messages

_NUMBERS = TypeAdapter(tuple[int, OptimizerConfig, int, tuple[float, ...]])


@dataclass(frozen=True)
class ReplicaState:
    """All that determines the next steps of a replica.

    exchange: number of exchanges that it has followed. optimizer, filter_state: the state of the optimizer and of the
    update filter, by ``<key>/<weight's name>``. shared: the scheme's shared state. steps: of the learning-rate
    schedule. rates: its current learning rates, without the factor.
    """

    exchange: int
    optimizer_config: OptimizerConfig
    weights: Tensors
    optimizer: Tensors
    filter_state: Tensors
    shared: Tensors
    steps: int
    rates: tuple[float, ...]

    @property
    def numbers(self) -> str:
        """The fields that are no tensors, as text."""
        return json.dumps([self.exchange, asdict(self.optimizer_config), self.steps, self.rates])

    @property
    def model(self) -> Tensors:
        """Weights, the optimizer's tensors and the update filter's, in an order to which a first step only adds."""
        trees = {"weight": self.weights, "state": self.optimizer, "received": self.filter_state}
        return {f"{kind}/{name}": tensor for kind, tree in trees.items() for name, tensor in tree.items()}

    @classmethod
    def parse(cls, numbers: str, model: Tensors, shared: Tensors) -> "ReplicaState":
        """Undo `numbers` and `model`.

        Args:
            numbers: as of the property.
            model: as of the property.
            shared: the scheme's shared state.

        Raises:
            ValueError: they are no state.
            ConfigError: its options are none of a config.
        """
        exchange, optimizer_config, steps, rates = _NUMBERS.validate_json(numbers)
        if optimizer_config.receiver not in UPDATE_FILTERS:
            raise ValueError(f"there is no update filter {quoted(optimizer_config.receiver)}")
        checked = _checked(optimizer_config)
        if not 0 <= (factor := optimizer_config.rate_factor) < math.inf:
            raise ValueError(f"the learning rate cannot be multiplied by {factor}")
        checked = replace(checked, rate_factor=factor)
        if exchange < 0 or not 0 <= steps <= optimizer_config.rounds:
            raise ValueError(f"{steps} of {optimizer_config.rounds} steps and {exchange} exchanges cannot be")
        weights, optimizer, filter_state = (
            {name.removeprefix(kind): tensor for name, tensor in model.items() if name.startswith(kind)}
            for kind in ("weight/", "state/", "received/")
        )
        groups = {name in optimizer_config.undecayed for name in weights}
        if not weights or len(rates) != len(groups):
            raise ValueError(f"{len(rates)} learning rates are not for {len(groups)} groups of weights")
        if _kinds(optimizer) != (_kinds(first_state(weights, checked)) if steps else {}):
            raise ValueError("it must contain the optimizer's tensors, which are like the weights")
        counts = [tensor for key, tensor in optimizer.items() if key.startswith(f"{STEP}/")]
        if counts and not (torch.stack(counts) >= 0).all():  # the optimizer divides by a function of them
            raise ValueError("the optimizer's steps must not be negative")
        if _kinds(filter_state) != (_kinds(first_filter_state(weights, checked)) if steps else {}):
            raise ValueError("it must contain the update filter's tensors, which are like the weights")
        return cls(exchange, checked, weights, optimizer, filter_state, shared, steps, rates)

    def copied(self) -> "ReplicaState":
        """Return a copy in memory of its own."""
        trees = (self.weights, self.optimizer, self.filter_state, self.shared)
        weights, optimizer, filter_state, shared = (_copied(tree) for tree in trees)
        return replace(self, weights=weights, optimizer=optimizer, filter_state=filter_state, shared=shared)

    @property
    def num_values(self) -> int:
        """The number of values that sending it takes."""
        trees = (self.weights, self.optimizer, self.filter_state, self.shared)
        return sum(tensor.numel() for tree in trees for tensor in tree.values())


@dataclass(frozen=True)
class ReplicaUpdate:
    """The signals that the server received in the exchange number `exchange`, counted from 0, and its context.

    received: None where nobody transmitted. checksum: of weights and shared state before that, by which a node knows
        that it is in sync.
    """

    exchange: int
    context: RoundContext
    received: Received | None
    checksum: int

    @property
    def num_values(self) -> int:
        """The number of values that sending it takes: those of the signals, and a noise level for each."""
        return sum(value.numel() + 1 for value in self.received.values.values()) if self.received else 0


class Replica:
    """A model and its optimizer; both change in place."""

    def __init__(self, state: ReplicaState) -> None:
        """Go on from `state`, in its tensors."""
        self.weights = state.weights
        self._optimizer_config = state.optimizer_config
        self._filter = UPDATE_FILTERS.load(state.optimizer_config.receiver)
        self._filter_state = state.filter_state
        self._optimizer = Optimizer(state.weights, state.optimizer_config, state.optimizer)
        self._steps = state.steps
        self._rates = (
            state.rates if state.steps else self._next((state.optimizer_config.learning_rate,) * self._optimizer.groups)
        )

    @classmethod
    def new(cls, weights: Mapping[str, Tensor], optimizer_config: OptimizerConfig) -> "Replica":
        """Make a replica that has not stepped yet, in weights of its own."""
        return cls(ReplicaState(0, optimizer_config, _copied(weights), {}, {}, {}, 0, ()))

    def step(self, update: Tensors, noise: Tensors, weighs: bool = True) -> None:
        """Do one optimizer iteration.

        Args:
            update: a gradient per block.
            noise: energy of the noise in each block, a scalar.
            weighs: True where the update filter is to weigh the update by its noise.
        """
        due = self._optimizer_config.due(self._steps + 1)
        update, self._filter_state = self._filter(update, noise, self._filter_state, weighs, due)
        self._optimizer.step(update, self.rates)
        self._steps += 1
        self._rates = self._next(self._rates)

    @property
    def rate_factor(self) -> float:
        """The factor by which callbacks have multiplied the schedule's learning rates."""
        return self._optimizer_config.rate_factor

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates of all later steps by `factor`."""
        config = self._optimizer_config
        self._optimizer_config = replace(config, rate_factor=config.rate_factor * factor)

    @property
    def rates(self) -> tuple[float, ...]:
        """The learning rate of the next step, for each group of weights."""
        return tuple(rate * self._optimizer_config.rate_factor for rate in self._rates)

    def _next(self, rates: tuple[float, ...]) -> tuple[float, ...]:
        """Return the schedule's rates of the next step, which come from those of the last one."""
        return tuple(next_rate(self._optimizer_config, self._steps, rate) for rate in rates)

    def state(self, exchange: int, shared: Tensors) -> ReplicaState:
        """Return its state, in the very tensors; the caller adds the number of the exchange and the shared state."""
        return ReplicaState(
            exchange,
            self._optimizer_config,
            self.weights,
            dict(self._optimizer.state),
            self._filter_state,
            shared,
            self._steps,
            self._rates,
        )


class ReplicaFollower:
    """A node's replica of the server, and its copy of the scheme's shared state."""

    def __init__(self, state: ReplicaState) -> None:
        """Go on from `state`, in its tensors."""
        self._replica = Replica(state)
        self.shared = state.shared
        self._exchange = state.exchange

    @property
    def weights(self) -> Tensors:
        """The current weights, equal to the server's."""
        return self._replica.weights

    @property
    def state(self) -> ReplicaState:
        """Its whole state, in the very tensors."""
        return self._replica.state(self._exchange, self.shared)

    def follow(self, update: ReplicaUpdate, scheme: Scheme) -> None:
        """Decode the received signals and step, as the server did; an update that is known changes nothing.

        Raises:
            OutOfSyncError: an exchange in between was missed.
        """
        if update.exchange == self._exchange - 1:
            return
        if update.exchange != self._exchange:
            raise OutOfSyncError(f"exchange {update.exchange} was sent to a node that has followed {self._exchange}")
        model = {name: tuple(w.shape) for name, w in self.weights.items()}
        blocks = {block.name: block.shape for block in update.context.blocks}
        if model != blocks or (update.received is not None and not scheme.fits(self.shared, update.context)):
            raise OutOfSyncError(f"exchange {update.exchange} was sent to a node of another model")
        if update.checksum != checksum(self.weights, self.shared):  # e.g. on another kind of device
            raise OutOfSyncError(f"exchange {update.exchange} was sent to a node whose model is not the server's")
        if update.received is not None:
            gradient, self.shared = scheme.decode(update.received, self.shared, update.context)
            if gradient is not None:
                noise = scheme.noise_energies(update.received, update.context)
                self._replica.step(gradient, noise, scheme.weighs(update.context))
        self._exchange += 1


def following(follower: ReplicaFollower | None, sync: ReplicaUpdate | ReplicaState, scheme: Scheme) -> ReplicaFollower:
    """Return the follower after a broadcast.

    Args:
        follower: of the node before it; None at first.
        sync: the broadcast's message.
        scheme: of the run.

    Raises:
        OutOfSyncError: it is an update, but an earlier exchange was missed, or there is no follower yet.
    """
    if isinstance(sync, ReplicaState):
        return ReplicaFollower(sync.copied())
    if follower is None:
        raise OutOfSyncError(f"exchange {sync.exchange} was sent to a node that follows nobody")
    follower.follow(sync, scheme)
    return follower


def checksum(*trees: Tensors) -> int:
    """Sum all bits as numbers of 32 bits; the order of adding does not change the sum."""
    sums = [tensor.reshape(-1).view(torch.int32).sum() for tree in trees for tensor in tree.values()]
    return sum(torch.stack(sums).tolist()) if sums else 0


@lru_cache(maxsize=CONFIGS)
def _checked(config: OptimizerConfig) -> OptimizerConfig:
    """Return the same options, checked as those of a run, without the factor. Raises ConfigError."""
    return OptimizerConfig.of(parse(config.options), config.rounds, config.undecayed, config.receiver)


def _kinds(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _copied(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
