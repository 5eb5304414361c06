"""What the paper's figures on CIFAR share: settings, so that a run made for one serves the others, too."""

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
    """All seeds of everything in `over`.

    The paper searches the step size per method and power (its Tables 7 and 9); at small scale it is one for all.
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
    """Every method over power, and the power that LASER saves.

    paper: per target accuracy, the powers at which LASER and Z-SGD reach it; their accuracies there stand for the
    paper's, since it gives no others. noiseless: plain SGD's (its Table 2). targets: at small scale.
    times: full, small.
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
