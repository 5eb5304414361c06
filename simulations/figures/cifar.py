"""Shared settings of the paper's figures on CIFAR, so that a run made for one figure serves the others, too."""

from collections.abc import Mapping, Sequence
from typing import Any

from simulations import presets
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import over_power
from simulations.figures.judges import Claim, Claims, Reductions, Scores
from simulations.sweep import Grid

STEP_SIZES = (0.001, 0.005, 0.01, 0.05)
SMALL = {"rounds": 300, "evaluate-every": 100}
SMALL_POWERS = (20.0, 80.0, 320.0, 1280.0)
SEEDS = (0, 1, 2)
STRATEGIES = ("z-sgd", "random-k", "sketch", "laser")
INFINITE = float("inf")


def grid(scale: str, over: Mapping[str, Sequence[Any]], task: str = "cifar10", seeds: Sequence[int] = SEEDS) -> Grid:
    """Return the grid of everything in `over`, with all seeds.

    The paper searches the step size per method and power (its Tables 7 and 9); at small scale it is one for all.

    Args:
        scale: full or small.
        over: per key, its values.
        task: cifar10 or cifar100.
        seeds: of every cell.
    """
    if scale == "small":
        return Grid(presets.load("cifar10-small") | SMALL | {"task": task}, {**over, "seed": seeds})
    return Grid(presets.load(task), {**over, "seed": seeds}, {"learning-rate": STEP_SIZES})


def figure(
    title: str,
    task: str,
    powers: Sequence[float],
    paper: Mapping[float, tuple[float, float]],
    noiseless: float,
    claims: tuple[Claim, ...],
    targets: Sequence[float],
    times: tuple[str, str],
) -> Figure:
    """Build the figure of every method over power, and of the power that LASER saves.

    Args:
        title: of the figure.
        task: cifar10 or cifar100.
        powers: at full scale.
        paper: per target accuracy in %, the powers at which LASER and Z-SGD reach it; the targets stand for their
            accuracies in the paper, which gives no others.
        noiseless: accuracy of plain SGD in % (the paper's Table 2).
        claims: of the paper.
        targets: accuracies in % at small scale.
        times: stated durations of the runs at full and at small scale.
    """
    reached = {
        (strategy, power): target
        for target, pair in paper.items()
        for strategy, power in zip(("laser", "z-sgd"), pair, strict=True)
    }
    scores = Scores(paper=reached | {("sgd", INFINITE): noiseless}, tolerance=1.0)

    def scale(name: str, powers: Sequence[float], targets: Sequence[float], scores: Scores, time: str) -> Scale:
        noisy = grid(name, {"strategy": STRATEGIES, "power": powers}, task)
        ideal = grid(name, {"strategy": ["sgd"], "power": [INFINITE]}, task)
        reductions = Reductions(targets, paper)
        return Scale(
            (noisy, ideal), time, {"scores": scores, "reductions": reductions, "claims": Claims(claims, noisy)}
        )

    return Figure(
        title,
        {
            "full": scale("full", powers, list(paper), scores, times[0]),
            "small": scale("small", SMALL_POWERS, targets, Scores(), times[1]),
        },
        over_power,
    )
