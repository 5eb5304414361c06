"""The rounds of a run: one loop for every engine.

An engine supplies `advance`, which carries one broadcast to the clients and their uplinks back;
everything else (channel, decoding, optimizer, ledger, evaluation) is here, once.
"""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from laser_fl.allocations import ALLOCATIONS
from laser_fl.blocks import Tensors, blocks_of
from laser_fl.channels import CHANNELS
from laser_fl.channels.base import Channel, Usage
from laser_fl.config import RunConfig
from laser_fl.errors import TrainingError
from laser_fl.ledger import Entry, entry
from laser_fl.pipeline import Broadcast, Uplink, receive
from laser_fl.plan import Plan
from laser_fl.policies import POLICIES
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Scheme
from laser_fl.server import Server
from laser_fl.streams import Streams
from laser_fl.tables import from_fields

Evaluate = Callable[[Tensors], Mapping[str, float]]


class Training:
    """The server's side of a run, advanced one exchange at a time.

    `broadcast` says what goes down now, `absorb` takes what came up; between them lies the engine.
    """

    def __init__(
        self, config: RunConfig, weights: Mapping[str, Tensor], plan: Plan, transposed: Collection[str] = ()
    ) -> None:
        """weights: the initial model, on the device where the server computes.

        transposed: names of the weights that are stored as (inputs, outputs).
        """
        self.config = config
        self.plan = plan
        self.round = 0
        self.ledger: list[Entry] = []
        self.losses: Tensor | None = None
        self.server = Server(weights, config, plan.rounds)
        self._blocks = blocks_of(weights, transposed)
        self._streams = Streams(config.seed)
        self._scheme: Scheme = from_fields(SCHEMES.load(config.strategy), config)
        self._channel: Channel = from_fields(CHANNELS.load(config.channel), config)
        self._allocation = ALLOCATIONS.load(config.power_allocation)
        self._policy = POLICIES.load(config.power_policy)
        like = next(iter(weights.values()))
        self._shared = {n: t.to(like) for n, t in self._scheme.init(self._blocks, self._streams).items()}
        self._phase = 0
        self._usages: list[Usage] = []
        self._shared_floats = self._side_channel_floats = 0

    @property
    def finished(self) -> bool:
        """True after the last round."""
        return self.round >= self.plan.rounds

    @property
    def parameters(self) -> int:
        """Number of values of the model."""
        return sum(block.size for block in self._blocks)

    def broadcast(self) -> Broadcast:
        """What goes down before the next exchange."""
        return Broadcast(self.server.weights, self._shared, self._scheme, self._context())

    def absorb(self, uplink: Uplink) -> bool:
        """Take what came up: through the channel, into the model, onto the ledger.

        Returns True where this exchange ended a round.

        Raises:
            TrainingError: clients are missing, or a gradient is not finite.
        """
        if len(uplink.losses) != self.config.clients:
            heard, wanted = len(uplink.losses), self.config.clients
            raise TrainingError(f"round {self.round + 1}: {heard} of {wanted} clients answered")
        ctx = self._context()
        if self._phase == 0:
            self.losses = uplink.losses
        self._shared_floats += sum(tensor.numel() for tensor in self._shared.values())
        reception = receive(uplink, self._shared, self._scheme, self._channel, self._allocation, ctx)
        self._shared = reception.shared
        self._usages.append(reception.usage)
        self._side_channel_floats += reception.side_channel_floats
        self._phase += 1
        if reception.update is None:
            return False
        self.ledger.append(self._entry())
        self.server.step(reception.update)
        self.round, self._phase, self._usages = self.round + 1, 0, []
        self._shared_floats = self._side_channel_floats = 0
        return True

    def _entry(self) -> Entry:
        """The round's line of the ledger; refused where a client exceeded the budget."""
        return entry(
            round=self.round + 1,
            power=self._power,
            usages=self._usages,
            downlink_floats=self.parameters + self._shared_floats,
            side_channel_floats=self._side_channel_floats,
        )

    @property
    def _power(self) -> float:
        """The round's budget."""
        if self._scheme.promises.noiseless:
            return math.inf
        return float(self._policy(self.config.power, self.plan.step(self.round), self.plan.steps))

    def _context(self) -> Context:
        power = self._power
        return Context(
            blocks=self._blocks,
            round=self.round,
            phase=self._phase,
            power=power * self._scheme.promises.phase_shares[self._phase],
            noise_std=0.0 if math.isinf(power) else math.sqrt(self._channel.noise_variance),
            clients=self.config.clients,
            streams=self._streams,
        )


@dataclass(frozen=True)
class Metrics:
    """One evaluation.

    round: rounds done. epoch: passes over the data done. train_loss: mean over clients, last round.
    test: of the current weights. ema_test: of their moving average.
    """

    round: int
    epoch: float
    train_loss: float
    test: Mapping[str, float]
    ema_test: Mapping[str, float]

    def flat(self) -> dict[str, int | float]:
        """One row: round, epoch, train_loss, test_<metric>..., ema_test_<metric>...."""
        row: dict[str, int | float] = {"round": self.round, "epoch": self.epoch, "train_loss": self.train_loss}
        row |= {f"test_{name}": value for name, value in self.test.items()}
        return row | {f"ema_test_{name}": value for name, value in self.ema_test.items()}

    def line(self, rounds: int) -> str:
        """One line for a log; rounds: length of the run."""
        scores = "  ".join(f"{name} {self.test[name]:.4f} (averaged {self.ema_test[name]:.4f})" for name in self.test)
        return f"round {self.round}/{rounds}  train loss {self.train_loss:.4f}  test {scores}"


class Observer:
    """Looks on while a run goes; does nothing unless overridden."""

    def on_round(self, training: Training, seconds: float) -> None:
        """After every round; `training.ledger[-1]` is its entry. seconds: what it took."""

    def on_evaluation(self, training: Training, metrics: Metrics) -> None:
        """After every evaluation."""


def train(
    training: Training,
    advance: Callable[[], bool],
    evaluate: Evaluate | None = None,
    observers: Sequence[Observer] = (),
) -> None:
    """Run all rounds.

    advance: carries out one exchange and returns what `Training.absorb` returned.
    evaluate: weights -> metrics on test data; called for the current and the averaged weights.
    """
    while not training.finished:
        started = time.perf_counter()
        while not advance():
            pass
        seconds = time.perf_counter() - started
        for observer in observers:
            observer.on_round(training, seconds)
        if evaluate is not None and training.plan.evaluates_after(training.round - 1):
            metrics = _metrics(training, evaluate)
            for observer in observers:
                observer.on_evaluation(training, metrics)


def _metrics(training: Training, evaluate: Evaluate) -> Metrics:
    """Evaluate the current and the averaged weights. Raises TrainingError where a score is not finite."""
    assert training.losses is not None
    metrics = Metrics(
        round=training.round,
        epoch=training.round / training.plan.rounds_per_epoch,
        train_loss=float(training.losses.mean()),
        test=evaluate(training.server.weights),
        ema_test=evaluate(training.server.averaged_weights),
    )
    for name, value in metrics.flat().items():
        if not math.isfinite(value):
            raise TrainingError(f"round {training.round}: the {name} is {value}: the model has diverged")
    return metrics
