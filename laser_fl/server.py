"""The server's model: weights, optimizer, learning-rate schedule, moving average."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ConstantLR, CosineAnnealingLR, LRScheduler

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig


class Server:
    """Steps on reconstructed gradients and keeps an exponential moving average of the weights."""

    def __init__(self, weights: Mapping[str, Tensor], config: RunConfig, rounds: int) -> None:
        """weights: the initial model; copied. rounds: length of the run, for the schedule."""
        self._parameters = {name: w.detach().clone() for name, w in weights.items()}
        self._optimizer = _optimizer(list(self._parameters.values()), config)
        self._schedule = _schedule(self._optimizer, config, rounds)
        self._decay = config.ema_decay
        self._sums = {name: torch.zeros_like(w) for name, w in self._parameters.items()}
        self._steps = 0

    @property
    def weights(self) -> Tensors:
        """The current weights; they change in place with the next step."""
        return dict(self._parameters)

    @property
    def averaged_weights(self) -> Tensors:
        """The bias-corrected moving average: Σ_t (1-d) d^(T-t) θ_t / (1 - d^T); before a step, θ_0."""
        if self._steps == 0:
            return self.weights
        correction = 1 - self._decay**self._steps
        return {name: total / correction for name, total in self._sums.items()}

    def step(self, update: Tensors) -> None:
        """One optimizer iteration on `update`, a gradient per block."""
        for name, parameter in self._parameters.items():
            parameter.grad = update[name]
        self._optimizer.step()
        self._schedule.step()
        self._steps += 1
        torch._foreach_lerp_(list(self._sums.values()), list(self._parameters.values()), 1 - self._decay)


def _optimizer(parameters: list[Tensor], config: RunConfig) -> Optimizer:
    if config.optimizer == "adamw":
        return AdamW(parameters, config.learning_rate, betas=(0.9, 0.95), weight_decay=config.weight_decay)
    return SGD(parameters, config.learning_rate, config.momentum, weight_decay=config.weight_decay)


def _schedule(optimizer: Optimizer, config: RunConfig, rounds: int) -> LRScheduler:
    if config.lr_schedule == "cosine":
        return CosineAnnealingLR(optimizer, T_max=rounds)
    return ConstantLR(optimizer, factor=1.0)
