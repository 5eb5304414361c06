"""Figure 2 and Table 6: every method on CIFAR-10 over power, and the power that LASER saves."""

from simulations.figures import cifar
from simulations.figures.base import Figure, Judge, Scale
from simulations.figures.claims import LASER_LEADS
from simulations.figures.curves import over_power
from simulations.figures.judges import Claims, Reductions, Scores

STRATEGIES = ("z-sgd", "random-k", "sketch", "laser")
POWERS = tuple(250.0 * 2**i for i in range(10))
TABLE6 = {88.0: (250.0, 4000.0), 89.0: (500.0, 8000.0), 90.0: (1000.0, 16000.0), 91.0: (2000.0, 32000.0)}
NOISELESS = {("sgd", float("inf")): 93.0}  # Table 2


def _scale(scale: str, powers: tuple[float, ...], targets: tuple[float, ...], scores: Scores, time: str) -> Scale:
    grids = cifar.grid(scale, {"strategy": STRATEGIES, "power": powers}), cifar.noiseless(scale)
    tables: dict[str, Judge] = {
        "scores": scores,
        "reductions": Reductions(targets, TABLE6, tolerance=2.0),
        "claims": Claims((LASER_LEADS,)),
    }
    return Scale(grids, time, tables)


FIGURE2 = Figure(
    title="Figure 2 and Table 6: CIFAR-10",
    scales={
        "full": _scale(
            "full",
            POWERS,
            tuple(TABLE6),
            Scores(paper=NOISELESS, tolerance=1.0),
            "about 160 GPU hours (492 runs of 20 minutes), estimated for an H100",
        ),
        "small": _scale("small", cifar.SMALL_POWERS, (25.0, 30.0, 35.0), Scores(), "28 minutes on 2 cores"),
    },
    draw=over_power,
)
