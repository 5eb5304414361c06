"""The server's model: a replica that steps on the updates, its buffers, and the moving average of both."""

from collections.abc import Collection, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.config import RunConfig
from laser_fl.federated.optimizer import OptimizerConfig
from laser_fl.federated.replica import Replica, ReplicaState


class GlobalModel:
    """A model that steps on reconstructed gradients, with its exponential moving average."""

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        config: RunConfig,
        rounds: int,
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
        receiver: str = "plain",
    ) -> None:
        """Start at the initial model.

        Args:
            weights: the trained part of the initial model, by name; copied.
            config: of the run.
            rounds: length of the run, for the learning-rate schedule.
            undecayed: names of the weights to which weight decay does not apply.
            buffers: the part of the model that is not trained but follows the data; copied.
            receiver: name of the update filter, in UPDATE_FILTERS.
        """
        self.replica = Replica.new(weights, OptimizerConfig.of(config, rounds, undecayed, receiver))
        self._buffers = {name: b.detach().clone() for name, b in (buffers or {}).items()}
        self._decay = config.ema_decay
        self._rounds = rounds
        self._sums = {name: torch.zeros_like(w) for name, w in self.tensors.items()}
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
    def tensors(self) -> Tensors:
        """Weights and buffers."""
        return self.replica.weights | self._buffers

    @property
    def averaged(self) -> Tensors:
        """The bias-corrected moving average: Σ_t (1-d) d^(T-t) θ_t / (1 - d^T); before a step, θ_0."""
        if self._steps == 0:
            return self.tensors
        correction = 1 - self._decay**self._steps
        return {name: total / correction for name, total in self._sums.items()}

    def state(self, exchange: int, shared: Tensors) -> tuple[ReplicaState, Tensors, int]:
        """Return all that determines the next rounds: replica, buffers and sums by name, and steps of the average."""
        beside = {f"buffer/{n}": b for n, b in self._buffers.items()} | {f"sum/{n}": s for n, s in self._sums.items()}
        return self.replica.state(exchange, shared), beside, self._steps

    def restore(self, state: ReplicaState, beside: Tensors, steps: int) -> None:
        """Undo `state`; its tensors become the server's.

        Args:
            state: of the replica.
            beside: buffers and sums of the average, by name.
            steps: of the average.

        Raises:
            KeyError: the tensors are another model's.
        """
        self._buffers = {name: beside[f"buffer/{name}"] for name in self._buffers}
        self._sums = {name: beside[f"sum/{name}"] for name in self._sums}
        weights = {name: state.weights[name] for name in self.replica.weights}
        optimizer_config = replace(state.optimizer_config, rounds=self._rounds)  # the run may be longer than it was
        self.replica = Replica(replace(state, weights=weights, optimizer_config=optimizer_config))
        self._steps = steps

    def step(self, update: Tensors, noise: Tensors, buffers: Tensors | None = None, weighs: bool = True) -> None:
        """Do one optimizer iteration.

        Args:
            update: a gradient per block.
            noise: energy of the noise in each block of the update, a scalar.
            buffers: the next ones, by name.
            weighs: True where the update filter is to weigh the update by its noise.
        """
        self.replica.step(update, noise, weighs)
        self._buffers |= buffers or {}
        self._steps += 1
        torch._foreach_lerp_(list(self._sums.values()), list(self.tensors.values()), 1 - self._decay)
