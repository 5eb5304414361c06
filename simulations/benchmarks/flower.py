"""The flower engine: a round without its gradients, beside an empty round of as many nodes in the same run."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from laser_fl.config import RunConfig
from simulations.benchmarks.base import Line, Request, line, milliseconds
from simulations.engines.app import Components
from simulations.engines.flower import launch

NETWORKS = (("mnist", 16, 50), ("cifar10", 16, 20), ("gpt2-wikitext103", 4, 10))  # preset, nodes, rounds
APPS = Components("simulations.benchmarks.flower_app:server", "simulations.benchmarks.flower_app:client")


def flower(request: Request) -> Iterator[Line]:
    """Time the paper's three networks at full size; a node per client, an actor per processor core."""
    request.only_laser()
    for preset, nodes, rounds in NETWORKS:
        config = request.config(preset, clients=nodes, dropout=0.0, strategy="laser")
        yield _measure(config, nodes, request.rounds or rounds)


def _measure(config: RunConfig, nodes: int, rounds: int) -> Line:
    with tempfile.TemporaryDirectory(prefix="laser-fl-bench-") as folder:
        result = Path(folder) / "result.json"
        values = config.to_flat() | {"timed-rounds": rounds, "result": str(result)}
        launch(values, nodes, lambda text: None, APPS)
        seconds = json.loads(result.read_text())
    return line(
        "flower",
        model=config.model,
        strategy=config.strategy,
        downlink=config.downlink,
        nodes=nodes,
        rounds=rounds,
        empty_ms=milliseconds(seconds["empty"]),
        round_ms=milliseconds(seconds["round"]),
        above_ms=milliseconds(seconds["round"] - seconds["empty"]),
    )
