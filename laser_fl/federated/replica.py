"""A model and its optimizer, which step alike wherever they hear the same: on the server, and at nodes that follow it.

Where the server broadcasts what it heard instead of the model (``downlink = compressed``), every node decodes and
steps by itself. What it must know of the server's to begin with, or to begin again, is a `State`.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from pydantic import TypeAdapter
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.config import parse
from laser_fl.errors import TrainingError, quoted
from laser_fl.federated.optimizer import Stepping, first_received, first_state, optimizer_of, schedule_of
from laser_fl.registry import RECEIVERS
from laser_fl.schemes.base import Context, Heard, Scheme


class OutOfStepError(TrainingError):
    """A node has missed what it would need to follow the server."""


_NUMBERS = TypeAdapter(tuple[int, Stepping, int, tuple[float, ...]])


@dataclass(frozen=True)
class State:
    """All that decides how a replica goes on.

    exchange: how many exchanges it has followed. optimizer, received: what the optimizer and the receiver remember,
    by ``<key>/<weight's name>``. shared: the scheme's shared state. steps: of the learning-rate schedule; rates: the
    current ones.
    """

    exchange: int
    stepping: Stepping
    weights: Tensors
    optimizer: Tensors
    received: Tensors
    shared: Tensors
    steps: int
    rates: tuple[float, ...]

    @property
    def numbers(self) -> str:
        """All that is no tensor, as text."""
        return json.dumps([self.exchange, asdict(self.stepping), self.steps, self.rates])

    @property
    def model(self) -> Tensors:
        """Weights, the optimizer's tensors and the receiver's, in an order to which a first step only adds."""
        trees = {"weight": self.weights, "state": self.optimizer, "received": self.received}
        return {f"{kind}/{name}": tensor for kind, tree in trees.items() for name, tensor in tree.items()}

    @classmethod
    def parse(cls, numbers: str, model: Tensors, shared: Tensors) -> "State":
        """Undo `numbers` and `model`. Raises ValueError or ConfigError where they are no state."""
        exchange, stepping, steps, rates = _NUMBERS.validate_json(numbers)
        if stepping.receiver not in RECEIVERS:
            raise ValueError(f"there is no receiver {quoted(stepping.receiver)}")
        checked = Stepping.of(parse(stepping.options), stepping.rounds, stepping.undecayed, stepping.receiver)
        if exchange < 0 or not 0 <= steps <= stepping.rounds:
            raise ValueError(f"{steps} of {stepping.rounds} steps and {exchange} exchanges cannot be")
        weights, optimizer, received = (
            {name.removeprefix(kind): tensor for name, tensor in model.items() if name.startswith(kind)}
            for kind in ("weight/", "state/", "received/")
        )
        groups = {name in stepping.undecayed for name in weights}
        if not weights or len(rates) != len(groups):
            raise ValueError(f"{len(rates)} learning rates are not for {len(groups)} groups of weights")
        if _kinds(optimizer) != (_kinds(first_state(weights, checked)) if steps else {}):
            raise ValueError("it must hold the optimizer's tensors, which are like the weights")
        counts = [tensor for key, tensor in optimizer.items() if key.startswith("step/")]
        if counts and not (torch.stack(counts) >= 0).all():  # the optimizer divides by what it makes of them
            raise ValueError("the optimizer's steps must not be negative")
        if _kinds(received) != (_kinds(first_received(weights, checked)) if steps else {}):
            raise ValueError("it must hold the receiver's tensors, which are like the weights")
        return cls(exchange, checked, weights, optimizer, received, shared, steps, rates)

    def copied(self) -> "State":
        """The same in memory of its own."""
        trees = (self.weights, self.optimizer, self.received, self.shared)
        weights, optimizer, received, shared = (_copied(tree) for tree in trees)
        return replace(self, weights=weights, optimizer=optimizer, received=received, shared=shared)

    @property
    def floats(self) -> int:
        """How many values it is to be told."""
        trees = (self.weights, self.optimizer, self.received, self.shared)
        return sum(tensor.numel() for tree in trees for tensor in tree.values())


@dataclass(frozen=True)
class News:
    """What the server heard in the exchange number `exchange`, counted from 0, and that exchange's context.

    heard: None where nobody spoke. checksum: of weights and shared state before that, by which a node knows that it
        is in step.
    """

    exchange: int
    context: Context
    heard: Heard | None
    checksum: int

    @property
    def floats(self) -> int:
        """How many values it is to be told: those of the signals, and a noise level for each."""
        return sum(value.numel() + 1 for value in self.heard.values.values()) if self.heard else 0


class Replica:
    """A model and its optimizer; both change in place."""

    def __init__(self, state: State) -> None:
        """Go on from `state`, in its tensors."""
        self.weights = state.weights
        self._stepping = state.stepping
        self._receive = RECEIVERS.load(state.stepping.receiver)
        self._received = state.received
        self._optimizer = optimizer_of(state.weights, state.stepping)
        self._schedule = schedule_of(self._optimizer, state.stepping)
        for name, tensor in state.optimizer.items():
            key, _, weight = name.partition("/")
            self._optimizer.state[state.weights[weight]][key] = tensor
        if state.steps:
            known = {"last_epoch": state.steps, "_step_count": state.steps + 1, "_last_lr": list(state.rates)}
            self._schedule.load_state_dict(self._schedule.state_dict() | known)
            for group, rate in zip(self._optimizer.param_groups, state.rates, strict=True):
                group["lr"] = rate

    @classmethod
    def new(cls, weights: Mapping[str, Tensor], stepping: Stepping) -> "Replica":
        """One that has not stepped yet, in weights of its own."""
        return cls(State(0, stepping, _copied(weights), {}, {}, {}, 0, ()))

    def step(self, update: Tensors, noise: Tensors, weighs: bool = True) -> None:
        """One optimizer iteration on `update`, a gradient per block. noise: energy of the noise in each, a scalar.

        weighs: whether the receiver is to weigh the update by it.
        """
        steps: int = self._schedule.last_epoch
        update, self._received = self._receive(update, noise, self._received, weighs, self._stepping.due(steps + 1))
        for name, weight in self.weights.items():
            weight.grad = update[name]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()

    @property
    def rates(self) -> tuple[float, ...]:
        """The current learning rate of each group of weights."""
        return tuple(float(group["lr"]) for group in self._optimizer.param_groups)

    def state(self, exchange: int, shared: Tensors) -> State:
        """All of it, in the very tensors; `exchange` and `shared` are what its holder knows beside it."""
        names = {weight: name for name, weight in self.weights.items()}
        optimizer = {
            f"{key}/{names[weight]}": value
            for weight, values in self._optimizer.state.items()
            for key, value in values.items()
            if isinstance(value, Tensor)
        }
        steps: int = self._schedule.last_epoch
        return State(exchange, self._stepping, self.weights, optimizer, self._received, shared, steps, self.rates)


class Follower:
    """A node's replica of the server, and the scheme's shared state there."""

    def __init__(self, state: State) -> None:
        """Go on from `state`, in its tensors."""
        self._replica = Replica(state)
        self.shared = state.shared
        self._exchange = state.exchange

    @property
    def weights(self) -> Tensors:
        """The server's, too."""
        return self._replica.weights

    @property
    def state(self) -> State:
        """All of it, in the very tensors."""
        return self._replica.state(self._exchange, self.shared)

    def follow(self, news: News, scheme: Scheme) -> None:
        """Make of what was heard what the server made of it; news that is known changes nothing.

        Raises:
            OutOfStepError: an exchange in between was missed.
        """
        if news.exchange == self._exchange - 1:
            return
        if news.exchange != self._exchange:
            raise OutOfStepError(f"exchange {news.exchange} was told to a node that has followed {self._exchange}")
        model = {name: tuple(w.shape) for name, w in self.weights.items()}
        blocks = {block.name: block.shape for block in news.context.blocks}
        if model != blocks or (news.heard is not None and not scheme.fits(self.shared, news.context)):
            raise OutOfStepError(f"exchange {news.exchange} was told to a node of another model")
        if news.checksum != checksum(self.weights, self.shared):  # as on another kind of device
            raise OutOfStepError(f"exchange {news.exchange} was told to a node whose model is not the server's")
        if news.heard is not None:
            update, self.shared = scheme.decode(news.heard, self.shared, news.context)
            if update is not None:
                noise = scheme.noise_energies(news.heard, news.context)
                self._replica.step(update, noise, scheme.weighs(news.context))
        self._exchange += 1


def following(follower: Follower | None, told: News | State, scheme: Scheme) -> Follower:
    """The follower after a broadcast. Raises OutOfStepError where there is news, but nobody to make use of it."""
    if isinstance(told, State):
        return Follower(told.copied())
    if follower is None:
        raise OutOfStepError(f"exchange {told.exchange} was told to a node that follows nobody")
    follower.follow(told, scheme)
    return follower


def checksum(*trees: Tensors) -> int:
    """The sum of all bits as numbers of 32, which no order of adding changes."""
    return sum(int(tensor.reshape(-1).view(torch.int32).sum()) for tree in trees for tensor in tree.values())


def _kinds(tensors: Tensors) -> dict[str, tuple[torch.Size, torch.dtype]]:
    return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}


def _copied(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}
