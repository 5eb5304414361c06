"""The flower engine: rounds beside those of Flower's FedAvg and empty ones, with the same nodes in the same run.

FedAvg neither compresses nor sends through the air: its nodes take one step of SGD and send the model.
"""

import json
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from laser_fl.config import RunConfig, parse
from simulations.benchmarks.base import Line, Request, line, milliseconds
from simulations.benchmarks.flower_app import RESULT, WARM_UP
from simulations.engines.app import Components
from simulations.engines.flower import launch


@dataclass(frozen=True)
class Case:
    """A network to time. gradients: ``own``, of the task's data, or ``stored`` ones, at no cost."""

    preset: str
    nodes: int
    rounds: int
    gradients: str


CASES = (
    Case("mnist", 16, 50, "own"),
    Case("mnist", 16, 50, "stored"),
    Case("cifar10", 16, 20, "stored"),
    Case("gpt2-wikitext103", 4, 10, "stored"),
)


def flower(request: Request) -> Iterator[Line]:
    """Time the paper's three networks at full size; a node per client, an actor per processor core."""
    for case in CASES:
        for strategy in request.strategies or ("laser",):
            config = request.config(case.preset, clients=case.nodes, dropout=0.0, strategy=strategy)
            yield _measure(case, config, request.rounds or case.rounds)


def _measure(case: Case, config: RunConfig, rounds: int) -> Line:
    components = Components(
        "simulations.benchmarks.flower_app:server", f"simulations.benchmarks.flower_app:{case.gradients}"
    )
    with tempfile.TemporaryDirectory(prefix="laser-fl-bench-") as folder:
        flat = config.to_flat() | {"rounds": rounds + WARM_UP, "out-dir": folder}
        launch(parse(flat).to_flat(), case.nodes, lambda text: None, components)
        figures = json.loads((Path(folder) / RESULT).read_text())
    wall, cpu = figures["wall"], figures["cpu"]
    return line(
        "flower",
        model=config.model,
        strategy=config.strategy,
        downlink=config.downlink,
        gradients=case.gradients,
        nodes=case.nodes,
        rounds=rounds,
        empty_ms=milliseconds(wall["empty"]),
        round_ms=milliseconds(wall["round"]),
        fedavg_ms=milliseconds(wall["fedavg"]),
        above_ms=milliseconds(wall["round"] - wall["empty"]),
        ratio=round(figures["ratio"], 3),
        empty_cpu_ms=milliseconds(cpu["empty"]),
        round_cpu_ms=milliseconds(cpu["round"]),
        fedavg_cpu_ms=milliseconds(cpu["fedavg"]),
        cpu_ratio=round(cpu["fedavg"] / cpu["round"], 3),
    )
