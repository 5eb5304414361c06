"""What the server tells the clients of its model: the model itself, its last step, or what it heard."""

from laser_fl.blocks import Tensors
from laser_fl.channels.downlink import Downlink, noise_std
from laser_fl.federated.model import Server
from laser_fl.federated.replica import News, State, checksum
from laser_fl.schemes.base import Context, Heard


class Broadcaster:
    """The server's end of the downlink. An exchange is one broadcast and its replies; a round has one or more.

    weights: what goes down of the model in this round; none where nodes make it by themselves of what was heard.
    downlink: what these are, and under which noise every client hears them.
    power: per broadcast of the weights, linear; inf: no noise.
    """

    def __init__(self, server: Server, content: str, power: float) -> None:
        """content: as the config's ``downlink``."""
        self._server = server
        self._content = content
        self.power = power
        self.weights: Tensors = {}
        self.downlink = Downlink()
        self._sent: Tensors | None = None  # the model that copies have, but for their noise
        self._news: News | None = None
        self._news_floats: int | None = None  # None where all is told, not news

    @property
    def compressed(self) -> bool:
        """Whether nodes make the model by themselves of what was heard."""
        return self._content == "compressed"

    @property
    def energy(self) -> float:
        """Of the round's broadcast, where it has noise to overcome."""
        return 0.0 if self.downlink.noise_std == 0 else self.power

    def begin_round(self) -> None:
        """Choose what goes down of the model as it is now."""
        weights = self._server.weights
        if self.compressed:
            self.weights, self.downlink = {}, Downlink("heard")
        elif self._content == "model":
            self.weights, self.downlink = weights, Downlink("model", noise_std(weights, self.power))
        elif self._sent is None:
            self.weights, self.downlink = weights, Downlink("start")
        else:
            update = {name: w - self._sent[name] for name, w in weights.items()}
            self.weights, self.downlink = update, Downlink("update", noise_std(update, self.power))

    def end_round(self) -> None:
        """Remember what was told, before the model steps."""
        if self._content == "update":
            self._sent = {name: w.clone() for name, w in self._server.weights.items()}

    def hear(self, exchange: int, context: Context, heard: Heard | None, shared: Tensors) -> None:
        """Note what an exchange brought, as news of the next. shared: the scheme's shared state before it."""
        if self.compressed:
            self._news = News(exchange, context, heard, checksum(self._server.weights, shared))
            self._news_floats = self._news.floats

    def forget(self) -> None:
        """Tell everything anew, and no news."""
        self._news = self._news_floats = None

    def told(self, exchange: int, shared: Tensors) -> News | State | None:
        """What nodes make the model of before `exchange`, by themselves; None where they are told the model."""
        return (self._news or self._server.replica.state(exchange, shared)) if self.compressed else None

    def floats(self, exchange: int, shared: Tensors, first: bool) -> int:
        """Values told before `exchange`. first: of its round; the model and its buffers are told once a round."""
        if not self.compressed:
            told = volume(shared)
        elif self._news_floats is None:
            told = self._server.replica.state(exchange, shared).floats
        else:
            told = self._news_floats
        return told + (volume(self.weights) + volume(self._server.buffers) if first else 0)

    def state(self) -> tuple[int | None, Tensors]:
        """All that decides how it goes on from here, between two rounds."""
        return self._news_floats, self._sent or {}

    def restore(self, news_floats: int | None, sent: Tensors) -> None:
        """Undo `state`. Nodes are told everything once more, which counts as the news that they were to be told."""
        self._news, self._news_floats, self._sent = None, news_floats, sent or None


def volume(tensors: Tensors) -> int:
    """How many values these are."""
    return sum(tensor.numel() for tensor in tensors.values())
