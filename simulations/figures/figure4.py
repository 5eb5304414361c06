"""Figure 4 and Table 11: every method on CIFAR-100 over power, and the power that LASER saves."""

from simulations.figures import cifar
from simulations.figures.base import Figure, Judge, Scale
from simulations.figures.claims import LASER_LEADS
from simulations.figures.curves import over_power
from simulations.figures.judges import Claims, Reductions, Scores

STRATEGIES = ("z-sgd", "random-k", "sketch", "laser")
POWERS = tuple(500.0 * 2**i for i in range(10))
TABLE11 = {65.0: (500.0, 8000.0), 68.0: (1000.0, 32000.0), 70.0: (2000.0, 64000.0), 71.0: (8000.0, 256000.0)}
NOISELESS = {("sgd", float("inf")): 73.1}  # Table 2


def _scale(scale: str, powers: tuple[float, ...], targets: tuple[float, ...], scores: Scores, time: str) -> Scale:
    grids = cifar.grid(scale, {"strategy": STRATEGIES, "power": powers}, "cifar100"), cifar.noiseless(scale, "cifar100")
    tables: dict[str, Judge] = {
        "scores": scores,
        "reductions": Reductions(targets, TABLE11, tolerance=2.0),
        "claims": Claims((LASER_LEADS,)),
    }
    return Scale(grids, time, tables)


FIGURE4 = Figure(
    title="Figure 4 and Table 11: CIFAR-100",
    scales={
        "full": _scale(
            "full",
            POWERS,
            tuple(TABLE11),
            Scores(paper=NOISELESS, tolerance=1.0),
            "about 220 GPU hours (492 runs of 27 minutes), estimated for an H100",
        ),
        "small": _scale(
            "small", cifar.SMALL_POWERS, (2.0, 3.0, 4.0), Scores(), "28 minutes on 2 cores, as Figure 2; not measured"
        ),
    },
    draw=over_power,
)
