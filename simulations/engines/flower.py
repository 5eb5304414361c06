"""The flower engine: the same run through ``flwr run``, on Ray-backed SuperNodes of a SuperLink of its own."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.storage.files import SUMMARY
from simulations.engines.app import TRAINING, Components
from simulations.engines.credentials import make_server
from simulations.engines.processes import HOST, free_ports
from simulations.engines.superlink import checked, run_app, summed_up, superlink
from simulations.engines.tokens import KEYS
from simulations.private import private_folder
from simulations.signals import ending_on_signals


def run(config: RunConfig, out: Path, nodes: int, show: Callable[[str], None]) -> dict[str, Any]:
    """Run `config` on simulated SuperNodes into the folder `out`.

    Args:
        config: of the run.
        out: the run's folder.
        nodes: number of SuperNodes.
        show: called with every line of the run's log.

    Returns:
        The summary.

    Raises:
        ConfigError, DataError: the run cannot start; all that can be known is checked before.
        TrainingError: the run failed, with its reason.
    """
    values = checked(config, out, nodes)
    with summed_up(out):
        launch(values, nodes, show)
    summary: dict[str, Any] = json.loads((out / SUMMARY).read_text())
    return summary


def launch(
    values: Mapping[str, Any], nodes: int, show: Callable[[str], None], components: Components = TRAINING
) -> None:
    """Run a Flower app on a SuperLink of its own.

    Args:
        values: its run config.
        nodes: number of SuperNodes.
        show: called with every line of the log.
        components: its two sides.

    Raises:
        TrainingError: it did not complete, with its reason.
    """
    with ending_on_signals(), private_folder() as home, simulation(home) as env:
        federation = f"num-supernodes={nodes} client-resources-num-cpus=1"
        run_app(env, values, show, "--federation-config", federation, components=components)


@contextmanager
def simulation(home: Path) -> Iterator[dict[str, str]]:
    """Run a SuperLink that simulates its SuperNodes; yield the environment in which ``flwr`` finds it.

    home: an empty folder of this user's.
    """
    with superlink(home, free_ports(1)[0], make_server(home / KEYS, HOST), ["--simulation"]) as env:
        yield env
