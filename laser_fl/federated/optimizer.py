"""How a model steps: optimizer, learning rate over the run, receiver; and what these remember after a step."""

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.registry import AUTO, RECEIVERS
from laser_fl.schemes.base import Scheme

WARM_UP = 0.02  # part of a one-cycle run in which the learning rate rises
REACH = 10.0  # sum of a run's step sizes: 1 / (p (1 - p)), a ten-class softmax's curvature along a standardised input


@dataclass(frozen=True)
class Stepping:
    """How a model steps: the optimizer and its learning rate over a run of `rounds`.

    undecayed: names of the weights to which weight decay does not apply. receiver: a name in RECEIVERS, of what
        weighs the updates. The rest is as in the config.
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

    @classmethod
    def of(cls, config: RunConfig, rounds: int, undecayed: Collection[str] = (), receiver: str = "plain") -> "Stepping":
        """The config's."""
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
        """What the receiver's gains of the first `steps` steps are to add up to at least, in full steps.

        A run whose steps add up to no more than `REACH` has none to give away. One that is longer by a factor could do
        with that much smaller ones, and has that much more time to wait for gains to rise by themselves: what is due
        falls with the square. It rises over the run: the noise of early steps stays longest, and gradients are largest
        then, and so is their noise. 0 for AdamW, which divides by the size of what it is given, so that there a
        constant gain is none.
        """
        if self.optimizer == "adamw":
            return 0.0
        reach = self.learning_rate * self.rounds / (1 - self.momentum)
        mean = min(1.0, REACH / reach) ** 2  # in this order: of a tiny rate the square is no number
        first, last = max(0.0, 2 * mean - 1), min(1.0, 2 * mean)
        return steps * (first + (last - first) * steps / (2 * self.rounds))

    @property
    def options(self) -> dict[str, str | float]:
        """What of it is in a run's config, by its keys there."""
        own = asdict(self)
        return {key.replace("_", "-"): own[key] for key in own if key not in ("rounds", "undecayed")}


def receiver_of(config: RunConfig, scheme: Scheme) -> str:
    """The name of the run's receiver. Raises ConfigError where it cannot weigh what the scheme makes of signals."""
    name = scheme.promises.receiver if config.receiver == AUTO else config.receiver
    if name != "plain" and not scheme.promises.linear:
        rule = f"must be plain or auto for strategy {config.strategy}, which is not linear"
        raise ConfigError(f"receiver: {rule}, got {config.receiver!r}")
    return name


def optimizer_of(weights: Tensors, stepping: Stepping) -> Optimizer:
    """The optimizer that steps `weights`."""
    parts = [
        ([w for name, w in weights.items() if name not in stepping.undecayed], stepping.weight_decay),
        ([w for name, w in weights.items() if name in stepping.undecayed], 0.0),
    ]
    groups: list[dict[str, Any]] = [{"params": some, "weight_decay": decay} for some, decay in parts if some]
    if stepping.optimizer == "adamw":
        return AdamW(groups, stepping.learning_rate, betas=(0.9, 0.95))
    return SGD(groups, stepping.learning_rate, stepping.momentum)


def schedule_of(optimizer: Optimizer, stepping: Stepping) -> LRScheduler:
    """The learning rate over the run; a round in which nobody spoke does not count."""
    rounds = stepping.rounds
    if stepping.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=rounds)
    if stepping.lr_schedule == "step":
        return MultiStepLR(optimizer, [round(stepping.lr_decay_at * rounds)], gamma=0.1)
    if stepping.lr_schedule == "one-cycle":  # as in epfml/llm-baselines: from 1/100 to 1/5 of the peak
        return OneCycleLR(
            optimizer,
            max_lr=stepping.learning_rate,
            total_steps=rounds + 1,
            pct_start=WARM_UP + 1e-9,  # torch divides by zero where this makes exactly one step
            anneal_strategy="cos",
            cycle_momentum=False,
            div_factor=100,
            final_div_factor=0.05,
        )
    return ConstantLR(optimizer, factor=1.0)


def first_state(weights: Tensors, stepping: Stepping) -> Tensors:
    """Tensors like those of the optimizer after a step."""
    if stepping.optimizer == "sgd":
        return {f"momentum_buffer/{name}": w for name, w in weights.items()} if stepping.momentum else {}
    count = torch.zeros(())
    states = ({f"step/{n}": count, f"exp_avg/{n}": w, f"exp_avg_sq/{n}": w} for n, w in weights.items())
    return {key: tensor for state in states for key, tensor in state.items()}


def first_received(weights: Tensors, stepping: Stepping) -> Tensors:
    """Tensors like those of the receiver after a step."""
    silence = {name: torch.zeros((), dtype=torch.float64) for name in weights}
    known: Tensors = RECEIVERS.load(stepping.receiver)(weights, silence, {})[1]
    return known
