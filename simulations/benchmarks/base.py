"""What all benchmarks share: a settled config, and a fresh process for each case."""

import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec

from laser_fl.config import RunConfig, parse
from laser_fl.schemes import SCHEMES
from simulations import presets

P = ParamSpec("P")
Line = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Request:
    """What a user asks of a benchmark.

    rounds: to time; 0: the benchmark's own choice. strategies: of those benchmarks that run several.
    overrides: config keys on top of the benchmark's.
    """

    rounds: int = 0
    strategies: Sequence[str] = tuple(SCHEMES)
    overrides: Mapping[str, Any] = field(default_factory=dict)

    def config(self, preset: str, **keys: Any) -> RunConfig:
        """The preset with the benchmark's keys (in snake_case) and the user's, longer than any benchmark."""
        own = {key.replace("_", "-"): value for key, value in keys.items()}
        values = presets.load(preset) | {"device": "cpu", "rounds": 1_000_000, "epochs": 0} | own
        return parse({**values, **self.overrides})


Benchmark = Callable[[Request], Iterator[Line]]


def apart(measure: Callable[P, Line], *args: P.args, **kwargs: P.kwargs) -> Line:
    """Call `measure` in a process of its own, which has nothing in memory yet and is gone afterwards."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure, *args, **kwargs).result()


def line(benchmark: str, **figures: str | int | float | None) -> Line:
    """One case's figures, the benchmark's name first."""
    return {"benchmark": benchmark, **figures}


def milliseconds(seconds: float) -> float:
    """To the microsecond."""
    return round(seconds * 1e3, 3)
