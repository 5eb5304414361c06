"""Whole rounds in one process, beside what they cannot do without: the gradients and the optimizer's step."""

import gc
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from laser_fl.config import RunConfig, parse
from laser_fl.schemes import SCHEMES
from laser_fl.server import optimizer_of
from laser_fl.setup import Setup, prepare
from laser_fl.worker import Crew
from simulations import presets
from simulations.benchmarks.timing import PeakMemory, in_turn
from simulations.engines.in_process import InProcess

WARM_UP = 3


class Floor:
    """A round's least work: every client's gradient, their mean, the optimizer's step."""

    def __init__(self, setup: Setup) -> None:
        training = setup.training()
        network = setup.network
        self._broadcast = training.broadcast()
        self._crew = Crew(setup.task, network, setup.config, range(setup.config.clients))
        self._optimizer = optimizer_of(self._broadcast.weights, network.undecayed, setup.config)
        self._round = 0

    def __call__(self) -> None:
        broadcast = replace(self._broadcast, context=replace(self._broadcast.context, round=self._round))
        total = {}
        for computed in self._crew.compute(broadcast):
            for name, gradient in computed.gradients.items():
                summed = gradient.sum(dim=0) if len(gradient) > 1 else gradient[0]
                total[name] = total[name].add_(summed) if name in total else summed
        for name, weight in broadcast.weights.items():
            weight.grad = total[name].div_(broadcast.context.clients)
        self._optimizer.step()
        self._round += 1


def whole_round(engine: InProcess) -> None:
    while not engine.advance():
        pass
