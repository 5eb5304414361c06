"""laser-fl beside its peers: the same rounds in turn, in one process, on one thread, by processor time.

Other processes disturb processor time less than they do the clock; it counts all threads of this process. A ratio is
that of a side to LASER within one turn, of which the median and the quartiles are reported.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numpy as np

from laser_fl.config import RunConfig
from laser_fl.federated.setup import prepare
from simulations.benchmarks import peers_cifar, peers_ddp, peers_sides
from simulations.benchmarks.base import Line, Request, apart, line, milliseconds
from simulations.benchmarks.peers_work import Ours, Side, Work

KEYS = ("threads", "data-dir", "seed")  # that a user may set
WARM_UP = 3  # rounds; LASER's third one traces what later ones replay
MEASURED = "measured"


@dataclass(frozen=True)
class Peer:
    """A side: its class, the package that it comes with, and the command that installs this."""

    build: Callable[[Work], Side]
    package: str
    install: str = ""


@dataclass(frozen=True)
class Case:
    """Work that several sides do.

    sides: beside LASER. turns: of each side. rounds: of a side in a turn. keys: of the config. warm_up: rounds of each
    side before its first turn.
    """

    name: str
    sides: tuple[str, ...]
    turns: int
    rounds: int
    keys: Mapping[str, Any]
    warm_up: int = WARM_UP


OURS = {name: Peer(partial(Ours, strategy=name), "laser-fl") for name in ("laser", "sgd")}
PEERS = OURS | {
    "loop": Peer(peers_sides.Loop, "torch"),
    "loop, batches ready": Peer(peers_sides.LoopHandedOver, "torch"),
    "local loop": Peer(peers_sides.LocalLoop, "torch"),
    "pfl": Peer(peers_sides.Pfl, "pfl", "pip install pfl"),
    "BlazeFL": Peer(peers_sides.BlazeFL, "blazefl", "pip install 'blazefl[contrib,reproducibility]'"),
    "BlazeFL, DataLoader": Peer(
        peers_sides.BlazeFLDataLoader, "blazefl", "pip install 'blazefl[contrib,reproducibility]'"
    ),
    "DDP with PowerSGD hook": Peer(peers_ddp.Hook, "torch"),
}
FEDSGD = ("sgd", "loop", "loop, batches ready", "pfl", "BlazeFL", "BlazeFL, DataLoader")
HOOK = {"clients": 2, "batch_size": 1024, "factor_exchange": "two-phase", "power": float("inf")}
CASES = (
    Case("linear, 16 x 128", FEDSGD, 60, 5, {"model": "linear"}),
    Case("mlp, 16 x 128", FEDSGD, 40, 3, {"model": "mlp"}),
    Case(
        "linear, 1,000 x 60",
        ("sgd", "loop", "pfl", "BlazeFL"),
        15,
        1,
        {"model": "linear", "clients": 1000, "batch_size": 60},
    ),
    Case("linear, 2 x 1,024, rank 2", ("DDP with PowerSGD hook",), 60, 5, HOOK | {"model": "linear"}),
    Case("mlp, 2 x 1,024, rank 2", ("DDP with PowerSGD hook",), 40, 3, HOOK | {"model": "mlp"}),
)
PUBLISHED = Case("CNN, 100 x 50 x 50", ("sgd", "local loop", "pfl", "BlazeFL"), 3, 1, {}, warm_up=1)


def peers(request: Request) -> Iterator[Line]:
    """Time rounds on MNIST at learning rate 0.1, without momentum; `rounds` counts turns."""
    request.only_laser()
    for case in CASES:
        keys = {"learning_rate": 0.1, "momentum": 0.0, "weight_decay": 0.0} | dict(case.keys)
        yield from _lines("peers", case, request.config("mnist", only=KEYS, **keys), request)


def peers_local(request: Request) -> Iterator[Line]:
    """Time rounds in BlazeFL's published setting, with 50 local steps; `rounds` counts turns."""
    request.only_laser()
    config = request.config(
        "cifar10",
        only=KEYS,
        task=f"{peers_cifar.__name__}:images",
        model="network",
        partition=f"{peers_cifar.__name__}:shards",
        clients=peers_cifar.CLIENTS,
        batch_size=peers_cifar.BATCH,
        local_steps=peers_cifar.LOCAL_STEPS,
        learning_rate=peers_cifar.LEARNING_RATE,
        momentum=0.0,
        weight_decay=0.0,
        lr_schedule="constant",
    )
    yield from _lines("peers-local", PUBLISHED, config, request)


def _lines(benchmark: str, case: Case, config: RunConfig, request: Request) -> Iterator[Line]:
    """Measure the sides that are installed, in a fresh process; name the others, too."""
    versions = {name: _installed(PEERS[name].package) for name in ("laser", *case.sides)}
    there = tuple(name for name, found in versions.items() if found)
    os.environ["TQDM_DISABLE"] = "1"  # for the process to come: BlazeFL draws a progress bar per round
    measured = apart(_measure, config, replace(case, turns=request.rounds or case.turns, sides=there))
    for name, found in versions.items():
        status = MEASURED if found else f"not installed: {PEERS[name].install}"
        figures = measured.get(name) or dict.fromkeys(measured["laser"])
        yield line(benchmark, case=case.name, side=name, version=found, status=status, **figures)


def _installed(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _measure(config: RunConfig, case: Case) -> dict[str, Line]:
    """Return the figures of each side. config: of the work. case: with LASER among its sides."""
    work = Work.of(prepare(config), case.warm_up + case.turns * case.rounds)
    sides = {name: PEERS[name].build(work) for name in case.sides}
    seconds = in_turn(sides, case.turns, case.rounds, case.warm_up)
    return {name: _figures(own, seconds["laser"]) for name, own in seconds.items()}


def in_turn(sides: Mapping[str, Side], turns: int, rounds: int, warm_up: int) -> dict[str, np.ndarray]:
    """Call the sides in turn, after a warm-up.

    Args:
        sides: each runs a round when called.
        turns: of each side.
        rounds: consecutive ones of a side in a turn; a run's rounds follow each other, too.
        warm_up: rounds of each side before.

    Returns:
        Processor seconds per round, by side and turn.
    """
    for side in sides.values():
        for _ in range(warm_up):
            side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            started = side.processor_seconds()
            for _ in range(rounds):
                side()
            seconds[name].append((side.processor_seconds() - started) / rounds)
    return {name: np.array(own) for name, own in seconds.items()}


def _figures(seconds: np.ndarray, ours: np.ndarray) -> Line:
    """Return a side's figures. seconds: of its rounds, by turn. ours: likewise, of LASER's."""
    low, ratio, high = np.percentile(seconds / ours, (25, 50, 75)).tolist()
    middle = float(np.median(seconds))
    return {
        "turns": len(seconds),
        "cpu_ms": milliseconds(middle),
        "rounds_per_cpu_second": round(1 / middle, 2),
        "ratio": round(ratio, 3),
        "ratio_quartile_1": round(low, 3),
        "ratio_quartile_3": round(high, 3),
    }
