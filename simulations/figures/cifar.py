"""What the paper's figures on CIFAR share: settings, so that a run made for one serves the others, too."""

from collections.abc import Mapping, Sequence
from typing import Any

from simulations import presets
from simulations.sweep import Grid

STEP_SIZES = (0.001, 0.005, 0.01, 0.05)
SMALL = {"rounds": 300, "evaluate-every": 100}
SMALL_POWERS = (20.0, 80.0, 320.0, 1280.0)
SEEDS = (0, 1, 2)


def grid(scale: str, over: Mapping[str, Sequence[Any]], task: str = "cifar10", seeds: Sequence[int] = SEEDS) -> Grid:
    """All seeds of everything in `over`.

    The paper searches the step size per method and power (its Tables 7 and 9); at small scale it is one for all.
    """
    if scale == "small":
        return Grid(presets.load("cifar10-small") | SMALL | {"task": task}, {**over, "seed": seeds})
    return Grid(presets.load(task), {**over, "seed": seeds}, {"learning-rate": STEP_SIZES})


def noiseless(scale: str, task: str = "cifar10") -> Grid:
    """Plain SGD without noise."""
    return grid(scale, {"strategy": ["sgd"], "power": [float("inf")]}, task)
