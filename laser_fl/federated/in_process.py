"""A run whose clients are all in this process, called directly."""

from dataclasses import replace

from laser_fl.federated.client import ClientGroup
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.setup import Setup


class InProcess:
    """A run whose clients are all in this process."""

    def __init__(self, setup: Setup) -> None:
        """Make server and clients, after a trial of the model on the data.

        Raises:
            ConfigError: settings do not fit the data or the run's length.
            DataError: the model cannot be trained on the data.
        """
        setup.refuse_untrainable()
        self.server = setup.server()
        self.server.air.draw_here()
        clients = range(setup.config.clients)
        trainer = LocalTrainer(setup.task, setup.network, setup.config, clients)
        aside = setup.device.type == "cuda"  # whose memories must be copied anyway
        self._group = ClientGroup(clients, trainer.answer, device=setup.device, background=aside)
        self.server.wait_for_snapshots = self._group.wait

    def advance(self) -> bool:
        """Carry one broadcast to the clients and their replies back; return True where that ended a round."""
        return self.server.aggregate([replace(self._group.answer(self.server.broadcast()), own=True)])
