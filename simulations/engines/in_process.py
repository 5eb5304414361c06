"""The in-process engine: all clients in this process, called directly. For research and sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.federated.callbacks import Observer
from laser_fl.federated.client import Host
from laser_fl.federated.local_training import Crew
from laser_fl.federated.loop import train
from laser_fl.federated.setup import Setup, prepare
from laser_fl.storage.run_folder import RunFolder


class InProcess:
    """A run whose clients are all here."""

    def __init__(self, setup: Setup) -> None:
        """Raises ConfigError for what only data and length can tell is wrong."""
        self.training = setup.training()
        clients = range(setup.config.clients)
        crew = Crew(setup.task, setup.network, setup.config, clients)
        self._host = Host(clients, crew.answer, device=setup.device)

    def advance(self) -> bool:
        """Carry one broadcast to the clients and their replies back; True where that ended a round."""
        return self.training.absorb([self._host.answer(self.training.broadcast())])


def run(config: RunConfig, out: Path, observers: Sequence[Observer] = ()) -> dict[str, Any]:
    """Run `config` into the folder `out`; returns the summary.

    Raises:
        LaserError: the run could not start or did not complete; the folder keeps what there is.
    """
    setup = prepare(config)
    engine = InProcess(setup)
    folder = RunFolder(out, config, "in-process")
    try:
        train(engine.training, engine.advance, setup.evaluate, [folder, *observers])
    except BaseException as error:
        folder.fail(engine.training, error)
        raise
    return folder.finish(engine.training)
