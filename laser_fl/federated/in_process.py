"""A run whose clients are all in this process, called directly.

Where the signals of a round are too many to be kept side by side, clients add them up as they compute them, as the air
does: y_l = a_l Σ_i g_i b_i s_il + noise, of which the gains g_i and the precoding b_i are known before the gradients,
and the amplitude a_l follows from the norms alone. Results then differ in the order of the sum: about 1e-6, relative.
"""

from dataclasses import replace
from pathlib import Path

from laser_fl.blocks import Tensors
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.server import Server
from laser_fl.federated.setup import Setup
from laser_fl.federated.validation import Reply
from laser_fl.storage.files import CHECKPOINTS

SIDE_BY_SIDE = 2**26  # values of a round's signals


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
        self._trainer = LocalTrainer(setup.task, setup.network, setup.config, clients)
        aside = setup.device.type == "cuda"  # whose memories must be copied anyway
        self._group = ClientGroup(clients, self._respond, folder=self._snapshots, device=setup.device, background=aside)
        self.server.wait_for_snapshots = self._group.wait

    def advance(self) -> bool:
        """Carry one broadcast to the clients and their replies back; return True where that ended a round."""
        return self.server.aggregate([replace(self._group.answer(self.server.broadcast()), own=True)])

    def _snapshots(self, run: str) -> Path:
        """Return the folder for the clients' snapshots: they lie beside the server's checkpoints."""
        assert self.server.folder is not None
        return self.server.folder / CHECKPOINTS

    def _respond(self, broadcast: Broadcast, memory: Tensors) -> tuple[ClientUpdate, Tensors]:
        """Compute the clients' update, their signals added up where they are too many.

        A client that the server will leave out must not be in the sum. A norm that is no number shows at once; others
        show among all norms, and then all signals are computed once more, without those clients'.
        """
        if not superposes(self.server):
            return self._trainer.answer(broadcast, memory)
        state = self.server.air.participation.channel_state
        factors = dict(zip(broadcast.context.transmitters, (state.precoding * state.gain).tolist(), strict=True))
        client_update, memory = self._trainer.answer(replace(broadcast, superposition=factors), memory)
        reply = Reply(broadcast.acknowledgements.exchange, broadcast.context.participants, client_update, own=True)
        finite = client_update.signal_norms.isfinite().all(dim=1).tolist()
        summed = {client for client, whole in zip(broadcast.context.transmitters, finite, strict=True) if whole}
        if bad := summed & {fault.client for fault in self.server.faults_in(reply)}:
            some = factors | dict.fromkeys(bad, 0.0)
            client_update, memory = self._trainer.answer(replace(broadcast, superposition=some), memory)
        return client_update, memory


def superposes(server: Server) -> bool:
    """Return True where clients add up the signals of this exchange: many, of analog clients that remember nothing."""
    ctx, traits = server.air.context, server.air.scheme.traits
    if traits.error_feedback or traits.digital or len(traits.phase_shares) > 1 or not ctx.transmitters:
        return False
    equal = server.config.client_weighting == "equal"
    return equal and server.air.scheme.num_values(ctx) * len(ctx.transmitters) > SIDE_BY_SIDE
