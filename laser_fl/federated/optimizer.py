"""The steps of a model: optimizer, learning rate over the run, update filter, and their state after a step.

The formulas are torch.optim's, and so are their bits. Its objects are not used: to make one, or to zero its gradients,
imports torch's compiler, which takes as long as torch itself.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.registry import AUTO, UPDATE_FILTERS
from laser_fl.schemes.base import Scheme

STEP, MOMENTUM, FIRST, SECOND = "step", "momentum_buffer", "exp_avg", "exp_avg_sq"  # an optimizer's state, as in torch
NOT_IN_A_CONFIG = ("rounds", "undecayed", "rate_factor")
WARM_UP = 0.02  # part of a one-cycle run in which the learning rate rises
REACH = 10.0  # sum of a run's step sizes: 1 / (p (1 - p)), a ten-class softmax's curvature along a standardised input


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate over a run of `rounds`.

    undecayed: names of the weights to which weight decay does not apply. receiver: name of the filter that weighs the
        updates, in UPDATE_FILTERS. rate_factor: multiplies the schedule's learning rates; a callback may change it. The
        rest is as in the config.
    """

    optimizer: str
    learning_rate: float
    momentum: float
    weight_decay: float
    lr_schedule: str
    lr_decay_at: float
    rounds: int
    undecayed: tuple[str, ...]
    receiver: str = "plain"
    rate_factor: float = 1.0

    @classmethod
    def of(
        cls, config: RunConfig, rounds: int, undecayed: Collection[str] = (), receiver: str = "plain"
    ) -> "OptimizerConfig":
        """Take it from the run's config.

        Args:
            config: of the run.
            rounds: length of the run.
            undecayed: names of the weights to which weight decay does not apply.
            receiver: name of the update filter, in UPDATE_FILTERS.
        """
        return cls(
            optimizer=config.optimizer,
            learning_rate=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
            lr_schedule=config.lr_schedule,
            lr_decay_at=config.lr_decay_at,
            rounds=rounds,
            undecayed=tuple(undecayed),
            receiver=receiver,
        )

    def due(self, steps: int) -> float:
        """Return the least sum of the update filter's gains over the first `steps` steps, in full steps.

        A run whose steps add up to no more than `REACH` needs all of them in full. A run that is longer by a factor
        could do with steps smaller by that factor, and has more time, by the same factor, to wait for gains to rise by
        themselves: the sum that is due falls with the square. It rises over the run: the noise of early steps stays
        longest, and gradients are largest then, and so is their noise. It is 0 for AdamW, which divides by the size of
        its input, so that a constant gain has no effect there.
        """
        if self.optimizer == "adamw":
            return 0.0
        reach = self.learning_rate * self.rounds / (1 - self.momentum)
        mean = min(1.0, REACH / reach) ** 2  # in this order: of a tiny rate the square is no number
        first, last = max(0.0, 2 * mean - 1), min(1.0, 2 * mean)
        return steps * (first + (last - first) * steps / (2 * self.rounds))

    @property
    def options(self) -> dict[str, str | float]:
        """The part of it that is in a run's config, by its keys there."""
        own = asdict(self)
        return {key.replace("_", "-"): own[key] for key in own if key not in NOT_IN_A_CONFIG}


def update_filter_of(config: RunConfig, scheme: Scheme) -> str:
    """Return the name of the run's update filter. Raises ConfigError where it cannot weigh the scheme's updates."""
    name = scheme.traits.receiver if config.receiver == AUTO else config.receiver
    if name != "plain" and not scheme.traits.linear:
        rule = f"must be plain or auto for strategy {config.strategy}, which is not linear"
        raise ConfigError(f"receiver: {rule}, got {config.receiver!r}")
    return name


@dataclass(frozen=True)
class _Group:
    """Weights that are decayed alike."""

    weights: Tensors
    decay: float


class Optimizer:
    """Steps of weights, which change in place, and the state that they need.

    state: tensors by ``<key>/<weight's name>``; it is empty before the first step.
    """

    def __init__(self, weights: Tensors, config: OptimizerConfig, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`, in its tensors and in those of `weights`."""
        self._config = config
        parts = [
            ({name: w for name, w in weights.items() if name not in config.undecayed}, config.weight_decay),
            ({name: w for name, w in weights.items() if name in config.undecayed}, 0.0),
        ]
        self._groups = [_Group(some, decay) for some, decay in parts if some]
        # A count of steps on a GPU would be waited for in every step.
        self.state = {key: tensor.cpu() if key.startswith(f"{STEP}/") else tensor for key, tensor in state.items()}

    @property
    def groups(self) -> int:
        """The number of groups of weights, each of which has its learning rate."""
        return len(self._groups)

    @torch.no_grad()
    def step(self, gradients: Tensors, rates: Collection[float]) -> None:
        """Do one step.

        Args:
            gradients: of the weights; they are left as they are.
            rates: the learning rate of each group.
        """
        stepped = self._adamw if self._config.optimizer == "adamw" else self._sgd
        for group, rate in zip(self._groups, rates, strict=True):
            stepped(group, [gradients[name] for name in group.weights], rate)

    def _sgd(self, group: _Group, gradients: list[Tensor], rate: float) -> None:
        buffers = [self.state.get(f"{MOMENTUM}/{name}") for name in group.weights]
        sgd(
            list(group.weights.values()),
            gradients,
            buffers,
            weight_decay=group.decay,
            momentum=self._config.momentum,
            lr=rate,
            dampening=0,
            nesterov=False,
            maximize=False,
        )
        for name, buffer in zip(group.weights, buffers, strict=True):
            if buffer is not None:
                self.state[f"{MOMENTUM}/{name}"] = buffer

    def _adamw(self, group: _Group, gradients: list[Tensor], rate: float) -> None:
        for name, weight in group.weights.items():
            if f"{STEP}/{name}" not in self.state:
                self.state[f"{STEP}/{name}"] = torch.zeros(())
                self.state[f"{FIRST}/{name}"] = torch.zeros_like(weight)
                self.state[f"{SECOND}/{name}"] = torch.zeros_like(weight)
        keys = (FIRST, SECOND, STEP)
        first, second, counts = ([self.state[f"{key}/{name}"] for name in group.weights] for key in keys)
        adamw(
            list(group.weights.values()),
            gradients,
            first,
            second,
            [],
            counts,
            amsgrad=False,
            beta1=0.9,
            beta2=0.95,
            lr=rate,
            weight_decay=group.decay,
            eps=1e-8,
            maximize=False,
        )


def next_rate(config: OptimizerConfig, steps: int, last: float) -> float:
    """Return the learning rate of the next step, without the factor; a round in which nobody transmitted is no step.

    Args:
        config: of the optimizer.
        steps: done so far.
        last: the learning rate of the last of them; that of the config before the first.
    """
    if config.lr_schedule == "one-cycle":
        return _one_cycle(config.learning_rate, steps, config.rounds)
    if config.lr_schedule == "step" and steps == round(config.lr_decay_at * config.rounds):
        return last * 0.1
    if config.lr_schedule == "cosine" and 0 < steps <= config.rounds:
        now, before = (1 + math.cos(math.pi * count / config.rounds) for count in (steps, steps - 1))
        return now / before * last
    return last


def _one_cycle(peak: float, steps: int, rounds: int) -> float:
    """Return the rate of epfml/llm-baselines, which rises from 1/100 of the peak, and falls to 1/5 of it."""
    start = peak / 100
    top = (WARM_UP + 1e-9) * (rounds + 1) - 1  # without the summand, some run would divide by zero
    if steps <= top:
        return _on_half_cosine(start, peak, steps / top)
    return _on_half_cosine(peak, start / 0.05, (steps - top) / (rounds - top))


def _on_half_cosine(start: float, end: float, part: float) -> float:
    return end + (start - end) / 2.0 * (math.cos(math.pi * part) + 1)


def first_state(weights: Tensors, optimizer_config: OptimizerConfig) -> Tensors:
    """Return tensors like those of the optimizer after a step."""
    if optimizer_config.optimizer == "sgd":
        return {f"{MOMENTUM}/{name}": w for name, w in weights.items()} if optimizer_config.momentum else {}
    count = torch.zeros(())
    states = ({f"{STEP}/{n}": count, f"{FIRST}/{n}": w, f"{SECOND}/{n}": w} for n, w in weights.items())
    return {key: tensor for state in states for key, tensor in state.items()}


def first_filter_state(weights: Tensors, optimizer_config: OptimizerConfig) -> Tensors:
    """Return tensors like those of the update filter after a step."""
    noise = {name: torch.zeros((), dtype=torch.float64) for name in weights}
    known: Tensors = UPDATE_FILTERS.load(optimizer_config.receiver)(weights, noise, {})[1]
    return known
