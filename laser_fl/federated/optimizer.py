"""The steps of a model: optimizer, learning rate over the run, update filter, and their state after a step."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.registry import AUTO, UPDATE_FILTERS
from laser_fl.schemes.base import Scheme

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


def build_optimizer(weights: Tensors, optimizer_config: OptimizerConfig) -> Optimizer:
    """Build the optimizer that steps `weights`."""
    parts = [
        ([w for name, w in weights.items() if name not in optimizer_config.undecayed], optimizer_config.weight_decay),
        ([w for name, w in weights.items() if name in optimizer_config.undecayed], 0.0),
    ]
    groups: list[dict[str, Any]] = [{"params": some, "weight_decay": decay} for some, decay in parts if some]
    if optimizer_config.optimizer == "adamw":
        return AdamW(groups, optimizer_config.learning_rate, betas=(0.9, 0.95))
    return SGD(groups, optimizer_config.learning_rate, optimizer_config.momentum)


def build_lr_schedule(optimizer: Optimizer, optimizer_config: OptimizerConfig) -> LRScheduler:
    """Build the learning rate over the run; a round in which nobody transmitted does not count."""
    rounds = optimizer_config.rounds
    if optimizer_config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=rounds)
    if optimizer_config.lr_schedule == "step":
        return MultiStepLR(optimizer, [round(optimizer_config.lr_decay_at * rounds)], gamma=0.1)
    if optimizer_config.lr_schedule == "one-cycle":  # as in epfml/llm-baselines: from 1/100 to 1/5 of the peak
        return OneCycleLR(
            optimizer,
            max_lr=optimizer_config.learning_rate,
            total_steps=rounds + 1,
            pct_start=WARM_UP + 1e-9,  # torch divides by zero where this makes exactly one step
            anneal_strategy="cos",
            cycle_momentum=False,
            div_factor=100,
            final_div_factor=0.05,
        )
    return ConstantLR(optimizer, factor=1.0)


def first_state(weights: Tensors, optimizer_config: OptimizerConfig) -> Tensors:
    """Return tensors like those of the optimizer after a step."""
    if optimizer_config.optimizer == "sgd":
        return {f"momentum_buffer/{name}": w for name, w in weights.items()} if optimizer_config.momentum else {}
    count = torch.zeros(())
    states = ({f"step/{n}": count, f"exp_avg/{n}": w, f"exp_avg_sq/{n}": w} for n, w in weights.items())
    return {key: tensor for state in states for key, tensor in state.items()}


def first_filter_state(weights: Tensors, optimizer_config: OptimizerConfig) -> Tensors:
    """Return tensors like those of the update filter after a step."""
    noise = {name: torch.zeros((), dtype=torch.float64) for name in weights}
    known: Tensors = UPDATE_FILTERS.load(optimizer_config.receiver)(weights, noise, {})[1]
    return known
