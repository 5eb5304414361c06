"""The in-process engine: all clients in this process, called directly. For research and sweeps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from laser_fl.config import RunConfig
from laser_fl.federated.callbacks import Callback
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.loop import train
from laser_fl.federated.setup import Setup, prepare
from laser_fl.storage.run_folder import RunFolder


class InProcess:
    """A run whose clients are all in this process."""

    def __init__(self, setup: Setup) -> None:
        """Make server and clients. Raises ConfigError for settings that do not fit the data or the run's length."""
        self.server = setup.server()
        clients = range(setup.config.clients)
        trainer = LocalTrainer(setup.task, setup.network, setup.config, clients)
        self._group = ClientGroup(clients, trainer.answer, device=setup.device)

    def advance(self) -> bool:
        """Carry one broadcast to the clients and their replies back; return True where that ended a round."""
        return self.server.aggregate([self._group.answer(self.server.broadcast())])


def run(config: RunConfig, out: Path, callbacks: Sequence[Callback] = ()) -> dict[str, Any]:
    """Run `config` into the folder `out`.

    Args:
        config: of the run.
        out: the run's folder.
        callbacks: called besides that which writes the folder.

    Returns:
        The summary.

    Raises:
        LaserError: the run could not start or did not complete; the folder keeps the results until then.
    """
    setup = prepare(config)
    engine = InProcess(setup)
    folder = RunFolder(out, config, "in-process")
    try:
        train(engine.server, engine.advance, setup.evaluate, [folder, *callbacks])
    except BaseException as error:
        folder.fail(engine.server, error)
        raise
    return folder.finish(engine.server)
