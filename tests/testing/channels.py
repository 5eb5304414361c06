"""A channel of somebody's own, and wrong ones with the promise that each breaks."""

import dataclasses
import math
from dataclasses import dataclass, replace

import torch

from laser_fl.channels.awgn import Awgn
from laser_fl.channels.base import ChannelState


@dataclass(frozen=True)
class Shadowed(Awgn):
    """A client is behind a wall in every third round on average; a right channel to make wrong ones of."""

    chance: float = 2 / 3

    def links(self, participants, clients, round, streams):
        draws = torch.rand(clients, generator=streams.generator("walls", round), dtype=torch.float64)
        ones = torch.ones(len(participants), dtype=torch.float64)
        return ChannelState((draws[list(participants)] < self.chance).double(), ones, ones)

    def transmission_probability(self, clients, streams):
        return torch.full((clients,), self.chance, dtype=torch.float64)


class NeverTheSameState(Shadowed):
    def links(self, participants, clients, round, streams):
        return self._with(super().links(participants, clients, round, streams))

    def _with(self, state):
        return replace(state, gain=torch.rand_like(state.gain))


class Crossed(NeverTheSameState):
    def _with(self, state):
        return replace(state, precoding=-state.precoding)


class Single(NeverTheSameState):
    def _with(self, state):
        return replace(state, gain=state.gain.float())


class Lost(NeverTheSameState):
    def _with(self, state):
        return replace(state, gain=state.gain / 0 * 0)


class OneRowTooMany(NeverTheSameState):
    def _with(self, state):
        return replace(state, precoding=torch.cat([state.precoding, torch.ones(1, dtype=torch.float64)]))


class Rivals(NeverTheSameState):
    """The more participants, the weaker each."""

    def _with(self, state):
        return replace(state, precoding=state.precoding / len(state.precoding))


class Louder(NeverTheSameState):
    def _with(self, state):
        return replace(state, noise_scale=2.0)


class Silenced(NeverTheSameState):
    def _with(self, state):
        return replace(state, noise_scale=-1.0)


class NoState(Shadowed):
    def links(self, participants, clients, round, streams):
        return super().links(participants, clients, round, streams).gain


class OnlyEveryone(Shadowed):
    def links(self, participants, clients, round, streams):
        if len(participants) < clients:
            raise IndexError("all clients participate")
        return super().links(participants, clients, round, streams)


class Optimist(Shadowed):
    def transmission_probability(self, clients, streams):
        return torch.full((clients,), 0.8, dtype=torch.float64)


class Percent(Shadowed):
    def transmission_probability(self, clients, streams):
        return 100 * super().transmission_probability(clients, streams)


class OneForAll(Shadowed):
    def transmission_probability(self, clients, streams):
        return super().transmission_probability(1, streams)


class AlwaysNoisy(Shadowed):
    def noise_std(self, clients):
        return 1.0


class NoNumber(Shadowed):
    def noise_std(self, clients):
        return math.nan


@dataclass(frozen=True)
class TakesAList(Shadowed):
    walls: list = dataclasses.field(default_factory=list, hash=False)


BROKEN_CHANNELS = {
    NeverTheSameState(1.0): "a second call of links must draw the same from the same round and streams",
    Crossed(1.0): "precoding must be >= 0",
    Single(1.0): "gain must be of float64 .torch.float32",
    Lost(1.0): "gain must be finite",
    OneRowTooMany(1.0): r"precoding must have a row per participant \(shape \(6,\); round 0, seed 0",
    Rivals(1.0): r"a client's precoding must not depend on the other participants \(client '1', off by 1.5 of its norm",
    Louder(1.0): "noise_scale² must be 1 on average .4, standard error 0;",
    Silenced(1.0): "noise_scale must be finite and >= 0",
    NoState(1.0): "links must return a ChannelState .Tensor;",
    OnlyEveryone(1.0): "must work on valid inputs .IndexError: all clients participate",
    Optimist(1.0): r"clients must transmit as often as transmission_probability says \(client 0: 0.\d*, not 0.800 ±",
    Percent(1.0): r"transmission_probability must be in \[0, 1\]",
    OneForAll(1.0): "transmission_probability must have a row per client",
    AlwaysNoisy(1.0): "noise_std must be 0 at a noise_variance of 0",
    NoNumber(1.0): "noise_std must be finite and >= 0",
    TakesAList(1.0): "options must be int, float or str",
}
