"""Rounds of a cohort of one size, drawn from more and more clients: their cost must not grow with the run's clients."""

import time
from collections.abc import Iterator

from laser_fl.config import RunConfig, parse
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import device_of, prepare
from simulations.benchmarks import synthetic
from simulations.benchmarks.base import Line, Request, apart, line, milliseconds
from simulations.benchmarks.rounds import whole_round
from simulations.benchmarks.timing import PeakMemory, Side, in_turn

COHORT = 100
CLIENTS = (10_000, 100_000)
BATCH = 2  # examples that each of 100,000 clients holds of 200,000
WARM_UP = 5


def population(request: Request) -> Iterator[Line]:
    """Time rounds of 100 clients that are all there are, and of 100 out of many, in turn; 2 images each.

    Times are the processor's, of all its threads together.

    The peak of the memory is that of a whole process with the many clients alone, through as many rounds.
    """
    rounds = request.rounds or 100
    for strategy in request.strategies or ("laser", "z-sgd"):
        for clients in CLIENTS:
            few, many = (_config(request, strategy, count) for count in (COHORT, clients))
            yield line("population", **apart(_times, few, many, rounds), peak_mb=apart(_peak, many, rounds))


def _config(request: Request, strategy: str, clients: int) -> RunConfig:
    task, fraction = f"{synthetic.__name__}:many_digits", COHORT / clients
    config = request.config("mnist", clients=clients, fraction=fraction, batch_size=BATCH, task=task)
    return parse(config.to_flat() | {"strategy": strategy})


def _times(few: RunConfig, many: RunConfig, rounds: int) -> Line:
    engines = {"few": InProcess(prepare(few)), "many": InProcess(prepare(many))}
    sides: dict[str, Side] = {name: lambda engine=engine: whole_round(engine) for name, engine in engines.items()}  # type: ignore[misc]
    seconds = in_turn(sides, rounds, WARM_UP, device_of(many), clock=time.process_time)
    return {
        "strategy": many.strategy,
        "model": many.model,
        "clients": many.clients,
        "cohort": COHORT,
        "batch_size": many.batch_size,
        "threads": many.threads,
        "rounds": rounds,
        "all_ms": milliseconds(seconds["few"]),
        "round_ms": milliseconds(seconds["many"]),
        "ratio": round(seconds["many"] / seconds["few"], 3),
    }


def _peak(config: RunConfig, rounds: int) -> float | None:
    memory = PeakMemory()
    engine = InProcess(prepare(config))
    for _ in range(rounds):
        whole_round(engine)
    peak = memory.megabytes(whole=True)
    return None if peak is None else round(peak, 1)
