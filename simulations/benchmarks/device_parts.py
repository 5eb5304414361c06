"""The parts of ``.ci/device``: agreement with the CPU, benchmarks, and the paper's CIFAR-10."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from shutil import copyfile
from tempfile import TemporaryDirectory
from typing import Any

import torch

from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.data.sources import default_folder
from laser_fl.federated.server import Server
from laser_fl.storage.files import METRICS
from simulations import presets
from simulations.benchmarks import BENCHMARKS, agreement, synthetic
from simulations.benchmarks.base import Request

SKIPPED = "skipped"
STRATEGIES = ("laser", "z-sgd")
TOY: dict[str, dict[str, Any]] = {
    "cifar10": {"task": "tiny", "width": 4, "clients": 2, "batch-size": 8, "evaluate-examples": 8},
    "gpt2-full": {
        "layers": 1, "heads": 2, "embedding": 16, "context": 32, "clients": 2, "batch-size": 2, "accumulation-steps": 1,
    },
    "mnist": {"task": "few_digits", "clients": 2},
}  # fmt: skip
PRECISIONS = ("bfloat16", "tf32", "float32")
CHECKPOINT_EVERY = 25  # rounds: an epoch of CIFAR-10
RESERVE = 15.0  # seconds for the last evaluation

Figures = dict[str, Any]


@dataclass(frozen=True)
class Part:
    """Cases that share a process and a time.

    share: of the whole time; what a part leaves over goes to the next. names: True for toy size -> the cases, the most
    important first. work: (case, device, True for toy size, seconds left to the part, folder for files) -> figures.
    """

    share: float
    names: Callable[[bool], list[str]]
    work: Callable[[str, str, bool, float, Path], Figures]


def _agree(name: str, device: str, toy: bool, seconds: float, out: Path) -> Figures:
    return agreement.agree(name, device, toy)


def _bench_names(toy: bool) -> list[str]:
    """Return all of BENCHMARK.PRECISION.STRATEGY."""
    precisions = PRECISIONS[-1:] if toy else PRECISIONS
    return [f"{name}.{one}.{strategy}" for name in TOY for one in precisions for strategy in STRATEGIES]


def _bench(name: str, device: str, toy: bool, seconds: float, out: Path) -> Figures:
    benchmark, precision, strategy = name.split(".")
    keys = {"device": device, "precision": precision} | (TOY[benchmark] if toy else {})
    if benchmark == "mnist" and not toy and not (default_folder() / "MNIST").is_dir():
        keys["task"] = "digits"
    if "task" in keys:
        keys["task"] = f"{synthetic.__name__}:{keys['task']}"
    (line,) = BENCHMARKS.load(benchmark)(Request(2 if toy else 0, (strategy,), keys, apart=False))
    if torch.device(device).type == "cuda":
        torch.cuda.empty_cache()
    return {**line, "precision": precision, "gradient_share": round(line["floor_ms"] / line["round_ms"], 3)}


def _cifar(name: str, device: str, toy: bool, seconds: float, out: Path) -> Figures:
    """Train the paper's CIFAR-10 until its time is up; the run is stopped once on the way. Its metrics stay."""
    keys = presets.load("cifar10") | {"power": 500.0, "strategy": name, "device": device, "precision": "bfloat16"}
    keys |= {"checkpoint-every": CHECKPOINT_EVERY}
    if toy:
        keys |= TOY["cifar10"] | {"task": f"{synthetic.__name__}:tiny", "epochs": 3, "checkpoint-every": 2}
    elif not (default_folder() / "cifar-10-batches-py").is_dir():
        return {SKIPPED: f"there is no cifar-10-batches-py in {default_folder()}, which LASER_FL_DATA names"}
    others = len(STRATEGIES) - STRATEGIES.index(name)
    until = Until(time.monotonic() + seconds / others - RESERVE)
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        summary = agreement.stop_and_go_on(parse(keys), run, keys["checkpoint-every"] + 1, until)
        copyfile(run / METRICS, out / f"cifar-{name}.csv")
    return {"precision": keys["precision"], **summary}


class Until(Callback):
    """A callback that ends a run when its time is up."""

    def __init__(self, deadline: float) -> None:
        """deadline: on Python's monotonic clock."""
        self._deadline = deadline

    def on_round(self, server: Server, seconds: float) -> None:
        """Stop the run after this round, where it is time."""
        if time.monotonic() > self._deadline:
            server.stop("the time of .ci/device was up")


PARTS = {
    "agree": Part(0.35, agreement.names, _agree),
    "bench": Part(0.4, _bench_names, _bench),
    "cifar": Part(0.25, lambda toy: list(STRATEGIES), _cifar),
}
