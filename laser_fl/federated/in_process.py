"""A run whose clients are all in this process, called directly.

Where the signals of a round are too many to be kept side by side, clients add them up as they compute them, as the air
does: y_l = a_l Σ_i g_i b_i f_il s_il + noise, of which the gains g_i and the precoding b_i are known before the
gradients, and the amplitude a_l and the shares f_il follow from the norms alone. Results then differ in the order of
the sum: about 1e-6, relative.
"""

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from laser_fl.blocks import Tensors
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.clipping import clip_shares
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.local_training import LocalTrainer
from laser_fl.federated.server import Server
from laser_fl.federated.setup import Setup
from laser_fl.federated.validation import Reply
from laser_fl.shapes import Float64
from laser_fl.storage.files import CHECKPOINTS

SIDE_BY_SIDE = 2**26  # values of a round's signals

Factors = Float64[Tensor, "transmitters _"]  # of each signal, or one for all: precoding times gain times share


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

        A client that the server will leave out must not be in the sum, and signals above the norm cap only in part. A
        norm that is no number shows at once; others show among all norms, and then all signals are computed once more,
        without those clients', and with shares of those that are clipped.
        """
        if not superposes(self.server):
            return self._trainer.answer(broadcast, memory)
        state = self.server.air.participation.channel_state
        factors = (state.precoding * state.gain).unsqueeze(1)
        client_update, memory = self._trainer.answer(_superposing(broadcast, factors), memory)
        others = self._with_shares(broadcast, client_update, factors)
        if others is not factors:
            client_update, memory = self._trainer.answer(_superposing(broadcast, others), memory)
        return client_update, memory

    def _with_shares(self, broadcast: Broadcast, client_update: ClientUpdate, factors: Factors) -> Factors:
        """Return the factors of each signal where clients were added up that are left out, or are to be clipped."""
        exchange, ctx = broadcast.acknowledgements.exchange, broadcast.context
        faults = self.server.faults_in(Reply(exchange, ctx.participants, client_update, own=True))
        bad = {fault.client for fault in faults}
        signal_norms = client_update.signal_norms.cpu()
        good = torch.tensor([client not in bad for client in ctx.transmitters])
        shares = clip_shares(list(client_update.signals), signal_norms[good], self.server.config.norm_cap)
        if shares is None and (good | ~signal_norms.isfinite().all(dim=1)).all():
            return factors
        each = factors.repeat(1, signal_norms.shape[1])
        each[~good] = 0.0
        if shares is not None:
            each[good] *= shares
        return each


def _superposing(broadcast: Broadcast, factors: Factors) -> Broadcast:
    rows = map(tuple, factors.tolist())
    return replace(broadcast, superposition=dict(zip(broadcast.context.transmitters, rows, strict=True)))


def superposes(server: Server) -> bool:
    """Return True where clients add up the signals of this exchange: many, of analog clients that remember nothing."""
    ctx, traits = server.air.context, server.air.scheme.traits
    if traits.error_feedback or traits.digital or len(traits.phase_shares) > 1 or not ctx.transmitters:
        return False
    equal = server.config.client_weighting == "equal"
    return equal and server.air.scheme.num_values(ctx) * len(ctx.transmitters) > SIDE_BY_SIDE
