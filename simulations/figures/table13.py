"""Table 13: every method on MNIST at three powers."""

from simulations import presets
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import over_power
from simulations.figures.judges import Scores
from simulations.sweep import Grid

STRATEGIES = ("z-sgd", "signum", "random-k", "sketch", "a-dsgd", "laser")
POWERS = (0.1, 1.0, 10.0)
PAPER = {
    "z-sgd": (81.3, 87.9, 91.9),
    "signum": (76.7, 83.2, 85.4),
    "random-k": (86.1, 89.3, 91.5),
    "sketch": (81.9, 88.2, 91.7),
    "a-dsgd": (81.6, 86.9, 87.3),
    "laser": (84.3, 89.9, 92.3),
}
CELLS = {(name, power): value for name, row in PAPER.items() for power, value in zip(POWERS, row, strict=True)}
NOISELESS = 92.3  # Table 2


def _scale(seeds: tuple[int, ...], epochs: int, time: str) -> Scale:
    base = presets.load("mnist") | {"epochs": epochs}
    noisy = Grid(base, {"strategy": STRATEGIES, "power": POWERS, "seed": seeds})
    noiseless = Grid(base | {"strategy": "sgd", "power": float("inf")}, {"seed": seeds})
    scores = Scores(paper=CELLS | {("sgd", float("inf")): NOISELESS}, tolerance=1.0)
    return Scale((noisy, noiseless), time, {"scores": scores})


TABLE13 = Figure(
    title="Table 13: test accuracy on MNIST (%)",
    scales={
        "full": _scale((0, 1, 2), 50, "10 minutes on 2 cores"),
        "small": _scale((0,), 10, "1 minute on 2 cores"),
    },
    draw=over_power,
)
