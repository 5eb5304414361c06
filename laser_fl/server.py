"""The server's model: weights, buffers, optimizer, learning-rate schedule, moving average."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler, MultiStepLR, OneCycleLR

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig

WARM_UP = 0.02  # part of a one-cycle run in which the learning rate rises


class Server:
    """Steps on reconstructed gradients and keeps an exponential moving average of the model."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: RunConfig,
        rounds: int,
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        """weights: what is trained of the initial model; copied. rounds: length of the run, for the schedule.

        undecayed: names of the weights to which weight decay does not apply. buffers: what is not trained
        but follows the data; copied.
        """
        self._parameters = {name: w.detach().clone() for name, w in weights.items()}
        self._buffers = {name: b.detach().clone() for name, b in (buffers or {}).items()}
        self._optimizer = optimizer_of(self._parameters, undecayed, config)
        self._schedule = _schedule(self._optimizer, config, rounds)
        self._decay = config.ema_decay
        self._sums = {name: torch.zeros_like(w) for name, w in self.model.items()}
        self._steps = 0

    @property
    def weights(self) -> Tensors:
        """The current weights; they change in place with the next step."""
        return dict(self._parameters)

    @property
    def buffers(self) -> Tensors:
        """The current buffers."""
        return dict(self._buffers)

    @property
    def model(self) -> Tensors:
        """Weights and buffers."""
        return self._parameters | self._buffers

    @property
    def averaged_model(self) -> Tensors:
        """The bias-corrected moving average: Σ_t (1-d) d^(T-t) θ_t / (1 - d^T); before a step, θ_0."""
        if self._steps == 0:
            return self.model
        correction = 1 - self._decay**self._steps
        return {name: total / correction for name, total in self._sums.items()}

    def step(self, update: Tensors, buffers: Tensors | None = None) -> None:
        """One optimizer iteration on `update`, a gradient per block; the buffers become `buffers`."""
        for name, parameter in self._parameters.items():
            parameter.grad = update[name]
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._schedule.step()
        self._buffers |= buffers or {}
        self._steps += 1
        torch._foreach_lerp_(list(self._sums.values()), list(self.model.values()), 1 - self._decay)


def optimizer_of(parameters: Tensors, undecayed: Collection[str], config: RunConfig) -> Optimizer:
    """The config's optimizer; weight decay does not apply to those `undecayed`."""
    groups: list[dict[str, Any]] = [
        {"params": [p for name, p in parameters.items() if name not in undecayed], "weight_decay": config.weight_decay},
        {"params": [p for name, p in parameters.items() if name in undecayed], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.optimizer == "adamw":
        return AdamW(groups, config.learning_rate, betas=(0.9, 0.95))
    return SGD(groups, config.learning_rate, config.momentum)


def _schedule(optimizer: Optimizer, config: RunConfig, rounds: int) -> LRScheduler:
    """The learning rate over the run; a round in which nobody spoke does not count."""
    if config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=rounds)
    if config.lr_schedule == "step":
        return MultiStepLR(optimizer, [round(config.lr_decay_at * rounds)], gamma=0.1)
    if config.lr_schedule == "one-cycle":  # as in epfml/llm-baselines: from 1/100 to 1/5 of the peak
        return OneCycleLR(
            optimizer,
            max_lr=config.learning_rate,
            total_steps=rounds + 1,
            pct_start=WARM_UP + 1e-9,  # torch divides by zero where this makes exactly one step
            anneal_strategy="cos",
            cycle_momentum=False,
            div_factor=100,
            final_div_factor=0.05,
        )
    return ConstantLR(optimizer, factor=1.0)
