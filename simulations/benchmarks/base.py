"""Shared parts of all benchmarks: a settled config, and a fresh process for each case."""

import multiprocessing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar

from laser_fl.config import RunConfig, parse
from laser_fl.errors import ConfigError
from simulations import presets

OWN = {"rounds", "epochs", "strategy"}  # keys that a benchmark sets by itself

P = ParamSpec("P")
R = TypeVar("R")
Line = dict[str, str | int | float | None]


@dataclass(frozen=True)
class Request:
    """A user's request for a benchmark.

    rounds: number of rounds to time; 0: the benchmark's own choice. strategies: for a benchmark that runs several;
    empty: all. overrides: config keys on top of the benchmark's. apart: each case in a fresh process, without which the
    peak of the process's memory is too low.
    """

    rounds: int = 0
    strategies: Sequence[str] = ()
    overrides: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = True

    def config(self, preset: str, only: Collection[str] | None = None, **keys: Any) -> RunConfig:
        """Return the preset with the benchmark's keys and the user's; its run is longer than any benchmark.

        Args:
            preset: name of the preset.
            only: the keys that a user may set, where others would make the benchmark's sides incomparable; None: all.
            **keys: of the benchmark, in snake_case.

        Raises:
            ConfigError: a key that a user may not set here, or a wrong value.
        """
        for key in self.overrides:
            if key in OWN or (only is not None and key not in only):
                raise ConfigError(f"{key}: is set by the benchmark, got -c {key}={self.overrides[key]}")
        own = {"strategy": next(iter(self.strategies), "laser")}
        own |= {key.replace("_", "-"): value for key, value in keys.items()}
        values = presets.load(preset) | {"device": "cpu", "rounds": 1_000_000, "epochs": 0} | own
        return parse({**values, **self.overrides})

    def only_laser(self) -> None:
        """Raise ConfigError where other strategies are asked of a benchmark of LASER."""
        if set(self.strategies) - {"laser"}:
            raise ConfigError(f"--strategies: must be laser for this benchmark, got {','.join(self.strategies)}")


Benchmark = Callable[[Request], Iterator[Line]]


def apart(measure: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `measure` in a process of its own, which starts with empty memory and ends afterwards."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(measure, *args, **kwargs).result()


def line(benchmark: str, **figures: str | int | float | None) -> Line:
    """Return one case's figures, the benchmark's name first."""
    return {"benchmark": benchmark, **figures}


def milliseconds(seconds: float) -> float:
    """Convert seconds to milliseconds, rounded to the microsecond."""
    return round(seconds * 1e3, 3)
