"""The flower engine: a round without its gradients, beside an empty round of as many nodes in the same run."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import tomli_w

from laser_fl.config import RunConfig
from simulations.benchmarks.base import Line, Request, line, milliseconds
from simulations.engines.flower import launch

NETWORKS = (("mnist", 16, 50), ("cifar10", 16, 20), ("gpt2-wikitext103", 4, 10))  # preset, nodes, rounds
APP = "from simulations.benchmarks.flower_app import client, server\n\n__all__ = ['client', 'server']\n"


def flower(request: Request) -> Iterator[Line]:
    """Time the paper's three networks at full size; a node per client, an actor per processor core."""
    request.only_laser()
    for preset, nodes, rounds in NETWORKS:
        config = request.config(preset, clients=nodes, dropout=0.0, strategy="laser")
        yield _measure(config, nodes, request.rounds or rounds)


def _measure(config: RunConfig, nodes: int, rounds: int) -> Line:
    with tempfile.TemporaryDirectory(prefix="laser-fl-bench-") as folder:
        app, result = Path(folder) / "app", Path(folder) / "result.json"
        app.mkdir()
        (app / "app.py").write_text(APP)
        (app / "LICENSE").write_text("Apache-2.0\n")
        values = config.to_flat() | {"timed-rounds": rounds, "result": str(result)}
        (app / "pyproject.toml").write_text(tomli_w.dumps(_project(values)))
        launch(app, values, nodes, lambda text: None)
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


def _project(values: dict[str, str | int | float]) -> dict[str, object]:
    """Return the content of the app's pyproject.toml."""
    app = {
        "publisher": "laser-fl",
        "fab-format-version": 1,
        "flwr-version-target": "1.41.0",
        "fab-include": ["app.py", "LICENSE"],
        "components": {"serverapp": "app:server", "clientapp": "app:client"},
        "config": values,
    }
    project = {
        "name": "laser-fl-bench",
        "version": "1.0.0",
        "license": {"file": "LICENSE"},
        "dependencies": ["flwr>=1.41.0"],
    }
    return {"project": project, "tool": {"flwr": {"app": app}}}
