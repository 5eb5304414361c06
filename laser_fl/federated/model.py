"""The server's model: a replica that steps on what was heard, its buffers, and their moving average."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.federated.optimizer import Stepping
from laser_fl.federated.replica import Replica, State


class Server:
    """Steps on reconstructed gradients and keeps an exponential moving average of the model."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: RunConfig,
        rounds: int,
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
        receiver: str = "plain",
    ) -> None:
        """weights: what is trained of the initial model; copied. rounds: length of the run, for the schedule.

        undecayed: names of the weights to which weight decay does not apply. buffers: what is not trained
        but follows the data; copied. receiver: a name in RECEIVERS.
        """
        self.replica = Replica.new(weights, Stepping.of(config, rounds, undecayed, receiver))
        self._buffers = {name: b.detach().clone() for name, b in (buffers or {}).items()}
        self._decay = config.ema_decay
        self._rounds = rounds
        self._sums = {name: torch.zeros_like(w) for name, w in self.model.items()}
        self._steps = 0

    @property
    def weights(self) -> Tensors:
        """The current weights; they change in place with the next step."""
        return dict(self.replica.weights)

    @property
    def buffers(self) -> Tensors:
        """The current buffers."""
        return dict(self._buffers)

    @property
    def model(self) -> Tensors:
        """Weights and buffers."""
        return self.replica.weights | self._buffers

    @property
    def averaged_model(self) -> Tensors:
        """The bias-corrected moving average: Σ_t (1-d) d^(T-t) θ_t / (1 - d^T); before a step, θ_0."""
        if self._steps == 0:
            return self.model
        correction = 1 - self._decay**self._steps
        return {name: total / correction for name, total in self._sums.items()}

    def state(self, exchange: int, shared: Tensors) -> tuple[State, Tensors, int]:
        """All that decides how the server goes on: its replica, buffers and sums by name, and steps of the average."""
        beside = {f"buffer/{n}": b for n, b in self._buffers.items()} | {f"sum/{n}": s for n, s in self._sums.items()}
        return self.replica.state(exchange, shared), beside, self._steps

    def restore(self, state: State, beside: Tensors, steps: int) -> None:
        """Undo `state`; its tensors become the server's. Raises KeyError where they are another model's."""
        self._buffers = {name: beside[f"buffer/{name}"] for name in self._buffers}
        self._sums = {name: beside[f"sum/{name}"] for name in self._sums}
        weights = {name: state.weights[name] for name in self.replica.weights}
        stepping = replace(state.stepping, rounds=self._rounds)  # the run may be longer than it was
        self.replica = Replica(replace(state, weights=weights, stepping=stepping))
        self._steps = steps

    def step(self, update: Tensors, noise: Tensors, buffers: Tensors | None = None, weighs: bool = True) -> None:
        """One optimizer iteration on `update`, a gradient per block; the buffers become `buffers`.

        noise: energy of the noise in each block of the update. weighs: whether the receiver is to weigh it by that.
        """
        self.replica.step(update, noise, weighs)
        self._buffers |= buffers or {}
        self._steps += 1
        torch._foreach_lerp_(list(self._sums.values()), list(self.model.values()), 1 - self._decay)
