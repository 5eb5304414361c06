"""Broadcasts: how to encode, and the model: itself, its last step, or the received signals that lead to it."""

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace

from laser_fl.blocks import Tensors, num_values
from laser_fl.channels.downlink import Downlink, noise_std
from laser_fl.channels.exchange import Instructions
from laser_fl.federated.acknowledgements import Acknowledgements
from laser_fl.federated.model import GlobalModel
from laser_fl.federated.replica import ReplicaState, ReplicaUpdate, checksum
from laser_fl.schemes.base import Received, RoundContext


@dataclass(frozen=True)
class Broadcast(Instructions):
    """The server's message to every client before an exchange: how to encode, and the model.

    weights: by name; (clients, *shape) where clients have their `own_weights`, since each received the model under
        noise of its own, or has stepped by itself.
    downlink: the content of the weights, before any client has received them.
    buffers: of the model (a batch norm's running mean and variance); noiseless.
    sync: where nodes make weights and shared state by themselves: the server's last step, or its whole state.
    acknowledgements: the number of this exchange, and which earlier ones the server has accepted.
    superposition: by transmitter, the factor of each signal, or one for all: precoding times gain times share; where
        the clients of this process add their signals up as they compute them; {}: they do not.
    """

    weights: Tensors = field(default_factory=dict)
    downlink: Downlink = field(default_factory=Downlink)
    own_weights: bool = False
    buffers: Tensors = field(default_factory=dict)
    sync: ReplicaUpdate | ReplicaState | None = None
    acknowledgements: Acknowledgements = field(default_factory=Acknowledgements)
    superposition: Mapping[int, tuple[float, ...]] = field(default_factory=dict)

    def of(self, clients: Container[int]) -> "Broadcast":
        """Return the same broadcast as some of the clients see it."""
        context = self.context.of(clients)
        return self if context is self.context else replace(self, context=context)

    @property
    def is_replica_update(self) -> bool:
        """True where only a node with a replica can use it."""
        return isinstance(self.sync, ReplicaUpdate)


class Broadcaster:
    """The server's end of the downlink. An exchange is one broadcast and its replies; a round has one or more.

    weights: the part of the model that this round's broadcast sends; none where nodes compute the model by themselves
        from the received signals.
    downlink: the content of the weights, and the noise under which every client receives them.
    power: per broadcast of the weights, linear; inf: no noise.
    """

    def __init__(self, model: GlobalModel, content: str, power: float) -> None:
        """Start with nothing sent.

        Args:
            model: of the server.
            content: as the config's ``downlink``.
            power: per broadcast of the weights, linear; inf: no noise.
        """
        self._model = model
        self._content = content
        self.power = power
        self.weights: Tensors = {}
        self.downlink = Downlink()
        self._sent: Tensors | None = None  # the model of the copies, but for their noise
        self._replica_update: ReplicaUpdate | None = None
        self._update_values: int | None = None  # None where the whole state is sent, not an update

    @property
    def compressed(self) -> bool:
        """True where nodes compute the model by themselves from the received signals."""
        return self._content == "compressed"

    @property
    def energy(self) -> float:
        """The energy of one broadcast of this round; 0 where the downlink has no noise."""
        return 0.0 if self.downlink.noise_std == 0 else self.power

    def begin_round(self) -> None:
        """Choose the part of the current model that this round's broadcast sends."""
        weights = self._model.weights
        if self.compressed:
            self.weights, self.downlink = {}, Downlink("received")
        elif self._content == "model":
            self.weights, self.downlink = weights, Downlink("model", noise_std(weights, self.power))
        elif self._sent is None:
            self.weights, self.downlink = weights, Downlink("start")
        else:
            update = {name: w - self._sent[name] for name, w in weights.items()}
            self.weights, self.downlink = update, Downlink("update", noise_std(update, self.power))

    def end_round(self) -> None:
        """Remember the model that was sent, before it steps."""
        if self._content == "update":
            self._sent = {name: w.clone() for name, w in self._model.weights.items()}

    def record(self, exchange: int, context: RoundContext, received: Received | None, shared: Tensors) -> None:
        """Make the replica update that the next broadcast sends.

        Args:
            exchange: number of the exchange that has just ended.
            context: of that exchange.
            received: the server's estimates in it; None where nobody transmitted.
            shared: the scheme's shared state before it.
        """
        if self.compressed:
            self._replica_update = ReplicaUpdate(exchange, context, received, checksum(self._model.weights, shared))
            self._update_values = self._replica_update.num_values

    def forget(self) -> None:
        """Drop the replica update: the next broadcast sends the whole state."""
        self._replica_update = self._update_values = None

    def sync(self, exchange: int, shared: Tensors) -> ReplicaUpdate | ReplicaState | None:
        """Return the message from which nodes compute the model before `exchange`; None where the model is sent."""
        return (self._replica_update or self._model.replica.state(exchange, shared)) if self.compressed else None

    def num_values(self, exchange: int, shared: Tensors, first: bool) -> int:
        """Count the values that the broadcast before `exchange` sends.

        Args:
            exchange: its number.
            shared: the scheme's shared state.
            first: True for the first exchange of a round; the model and its buffers are sent once a round.
        """
        if not self.compressed:
            count = num_values(shared)
        elif self._update_values is None:
            count = self._model.replica.state(exchange, shared).num_values
        else:
            count = self._update_values
        return count + (num_values(self.weights) + num_values(self._model.buffers) if first else 0)

    def state(self) -> tuple[int | None, Tensors]:
        """Return all that determines the next broadcasts, between two rounds: (values of the update, model sent)."""
        return self._update_values, self._sent or {}

    def restore(self, update_values: int | None, sent: Tensors) -> None:
        """Undo `state`. Nodes get the whole state once more, which counts as the replica update that was due."""
        self._replica_update, self._update_values, self._sent = None, update_values, sent or None
