"""The server's side of a run: broadcasts, the aggregation of replies, and the state to go on from later."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from laser_fl.blocks import Tensors, num_values
from laser_fl.channels.downlink import Downlink
from laser_fl.channels.exchange import ClientUpdate
from laser_fl.clipping import clip_deviations
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, TrainingError, brief
from laser_fl.federated.acknowledgements import Acknowledgements
from laser_fl.federated.air_interface import AirInterface
from laser_fl.federated.broadcast import Broadcast, Broadcaster
from laser_fl.federated.ledger import Ledger, LedgerRecord
from laser_fl.federated.model import GlobalModel
from laser_fl.federated.optimizer import update_filter_of
from laser_fl.federated.replica import ReplicaState
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.spectrum import spectrum
from laser_fl.federated.validation import AcceptedReplies, Fault, Form, Kind, Reply, ReplyValidator
from laser_fl.storage.checkpoint import CheckpointError, Numbers, Progress

NAMED = 3  # clients left out of a round that a warning names; the ledger names them all


class Server:
    """The server's side of a run, advanced one exchange at a time.

    `broadcast` returns the message to the clients, and `aggregate` takes their replies; the engine carries both.

    warning: the clients left out of the last round, with reasons, in a line for a log; empty where there are none.
    snapshots: name of the run under which client groups save their client state, in rounds after which it could go on;
        "": they save none.
    wait_for_snapshots: returns when the snapshots of clients in this process are written; others' are when they reply.
    folder: of the run's files; None where it has none.
    nodes: number of nodes among which the clients are spread; None where all are in this process.
    stop_reason: of a run that was stopped before its last round; empty for any other.
    """

    def __init__(
        self,
        config: RunConfig,
        weights: Mapping[str, Tensor],
        schedule: RoundSchedule,
        transposed: Collection[str] = (),
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
        sizes: Sequence[int] = (),
    ) -> None:
        """Build the parts of the run, and begin its first round.

        Args:
            config: of the run.
            weights: the trained part of the initial model, by name, on the device on which the server computes.
            schedule: of the run.
            transposed: names of the weights that are stored as (inputs, outputs).
            undecayed: names of the weights to which weight decay does not apply.
            buffers: the part of the model that follows the data without being trained.
            sizes: number of examples of each client; (): not known, and all hold some.

        Raises:
            ConfigError: no client is expected to transmit in the whole run; min-clients is above the number of
                clients; the weights cannot be sent; or the sizes do not fit.
        """
        if config.min_clients > config.clients:
            raise ConfigError(f"min-clients: must be at most the {config.clients} clients, got {config.min_clients}")
        self.config = config
        self.schedule = schedule
        self.air = AirInterface(config, weights, schedule, transposed, sizes)
        self.train_loss: float | None = None
        self.spectrum: dict[str, float] = {}
        self.warning = ""
        self.snapshots = ""
        self.wait_for_snapshots: Callable[[], None] = lambda: None
        self.folder: Path | None = None
        self.nodes: int | None = None
        self.stop_reason = ""
        scheme = self.air.scheme
        receiver = update_filter_of(config, scheme)
        self._weighs = receiver != "plain"
        self.global_model = GlobalModel(weights, config, schedule.rounds, undecayed, buffers or {}, receiver)
        downlink_power = math.inf if scheme.traits.noiseless else config.downlink_power
        self._broadcaster = Broadcaster(self.global_model, config.downlink, downlink_power)
        self._last_acknowledged = [-1] * config.clients
        self._exchange = self._since = 0
        self._buffers: Tensors = {}
        self._begin_round()

    @property
    def round(self) -> int:
        """The number of rounds done."""
        return self.air.round

    @property
    def ledger(self) -> Ledger:
        """The costs of all rounds done."""
        return self.air.ledger

    @property
    def finished(self) -> bool:
        """True after the last round, and in a run that was stopped."""
        return self.round >= self.schedule.rounds or bool(self.stop_reason)

    def stop(self, reason: str) -> None:
        """End the run after the current round, as completed; after the last one this changes nothing.

        reason: one line, for the run's summary.
        """
        if not self.finished:
            self.stop_reason = brief(reason) or "no reason was given"

    def scale_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate of all later steps, under any schedule, by `factor`.

        Nodes that compute the model by themselves get the server's whole state with the next broadcast, and the ledger
        counts it. Raises ConfigError where the factor is no positive number.
        """
        if not 0 < factor < math.inf:
            raise ConfigError(f"factor: must be a positive number, got {factor}")
        self.global_model.replica.scale_rates(factor)
        self._broadcaster.forget()

    def saves_after(self, round: int) -> bool:
        """Return True where the run needs a checkpoint after `round` rounds."""
        every = self.config.checkpoint_every
        return every > 0 and (round % every == 0 or round == self.schedule.rounds)

    @property
    def halted(self) -> bool:
        """True where the run has stopped for lack of replies, and could go on with them."""
        return self.air.phase == 0 and self.air.accounting.retries > self.config.max_retries

    @property
    def _saves(self) -> bool:
        """True where client groups must save a snapshot in this exchange: at a round's end, or before the run stops."""
        last = self.air.phase == self.air.phases - 1
        stops = self.air.phase == 0 and self.air.accounting.retries == self.config.max_retries > 0
        return bool(self.snapshots) and ((last and self.saves_after(self.round + 1)) or stops)

    @property
    def parameters(self) -> int:
        """The number of values of the model."""
        return sum(block.size for block in self.air.blocks)

    def state(self) -> tuple[Numbers, Tensors]:
        """Return all that determines the next rounds, between two rounds, except for the ledger."""
        replica, beside, steps = self.global_model.state(self._exchange, self.air.shared)
        update_values, sent = self._broadcaster.state()
        numbers = Progress(
            round=self.round,
            exchange=self._exchange,
            updates=self.air.updates,
            last_acknowledged=self._last_acknowledged,
            usual=self.air.usual_norms.largest,
            unsent={client: dict(shares) for client, shares in self.air.unsent.items()},
            train_loss=self.train_loss,
            update_values=update_values,
            replica=replica.numbers,
            steps=steps,
            stop_reason=self.stop_reason,
        ).model_dump()
        trees = {"replica": replica.model, "shared": self.air.shared, "server": beside, "sent": sent}
        return numbers, {f"{tree}/{name}": t for tree, named in trees.items() for name, t in named.items()}

    def restore(self, numbers: Numbers, tensors: Tensors, ledger: Sequence[LedgerRecord]) -> None:
        """Undo `state`; the tensors become the run's.

        Args:
            numbers: of `state`.
            tensors: of `state`, on any device.
            ledger: of the rounds until then.

        Raises:
            CheckpointError: it is the state of another run.
        """
        trees: dict[str, Tensors] = {tree: {} for tree in ("replica", "shared", "server", "sent")}
        for key, tensor in tensors.items():
            tree, _, name = key.partition("/")
            trees.setdefault(tree, {})[name] = tensor.to(next(iter(self.global_model.weights.values())).device)
        try:
            known = Progress.model_validate(numbers)
            state = ReplicaState.parse(known.replica, trees["replica"], trees["shared"])
            self.global_model.restore(state, trees["server"], known.steps)
        except (KeyError, TypeError, ValueError, RuntimeError, LaserError) as error:
            raise CheckpointError(f"checkpoint: is not this run's ({brief(str(error))})") from None
        if known.round > self.schedule.rounds or len(known.last_acknowledged) != self.config.clients:
            raise CheckpointError(
                f"checkpoint: is of {len(known.last_acknowledged)} clients after {known.round} rounds"
            )
        self._last_acknowledged = known.last_acknowledged
        self.train_loss, self._exchange, self._since = known.train_loss, state.exchange, state.exchange
        self.stop_reason = known.stop_reason
        self._broadcaster.restore(known.update_values, trees["sent"])
        self.air.restore(known.round, known.updates, known.usual, state.shared, Ledger(ledger), known.unsent)
        if not self.finished:
            self._begin_round()

    def resync(self, missed: bool) -> Broadcast:
        """Return the broadcast for nodes without a replica, or without recent copies: with all they need to begin.

        missed: True where they missed earlier messages, which costs another broadcast; False where they only lost their
            state.
        """
        if not self._broadcaster.compressed:
            weights = self.global_model.weights
            self.air.accounting.broadcast_floats += num_values(weights) if missed else 0
            return replace(self.broadcast(), weights=weights, downlink=Downlink("start"))
        state = self.global_model.replica.state(self._exchange, self.air.shared)
        self.air.accounting.broadcast_floats += state.num_values if missed else 0
        return replace(self.broadcast(), sync=state)

    def broadcast(self) -> Broadcast:
        """Return the message to the clients at the beginning of the next exchange."""
        return Broadcast(
            acknowledgements=Acknowledgements(
                exchange=self._exchange,
                last_acknowledged=tuple(self._last_acknowledged),
                unsent=self.air.unsent,
                since=self._since,
                save=self._saves,
                run=self.snapshots,
            ),
            weights=self._broadcaster.weights,
            shared={} if self._broadcaster.compressed else self.air.shared,
            scheme=self.air.scheme,
            context=self.air.context,
            downlink=self._broadcaster.downlink,
            buffers=self.global_model.buffers,
            sync=self._broadcaster.sync(self._exchange, self.air.shared),
        )

    def aggregate(self, replies: Sequence[Reply], faults: Sequence[Fault] = ()) -> bool:
        """Aggregate the replies to an exchange: through the channel, into the model, onto the ledger.

        Args:
            replies: to the broadcast.
            faults: of clients whose replies never came, as far as the engine knows.

        Returns:
            True where this exchange ended a round. An exchange to which too few clients replied must be repeated.

        Raises:
            TrainingError: it was repeated max-retries times.
        """
        accepted = self._expected().validate(replies, faults)
        self._count(accepted)
        if len(accepted.clients) < min(self.config.min_clients, len(self.air.participation.participants)):
            self._repeat(accepted)
            return False
        self.air.narrow(accepted.clients)
        self._receive(accepted.client_update)
        for client in accepted.clients:
            self._last_acknowledged[client] = self._exchange
        self._exchange += 1
        return self.air.phase == self.air.phases and self._end_round()

    def faults_in(self, reply: Reply) -> tuple[Fault, ...]:
        """Return the faults of a reply to this exchange, which stays to be aggregated."""
        return self._expected().validate([reply]).faults

    def fault_in_form(
        self, exchange: int, clients: tuple[int, ...], form: Mapping[str, Form]
    ) -> tuple[Kind, str] | None:
        """Return the first fault of a reply that its form shows: its exchange, its clients, and its parts' forms."""
        return next(self._expected().faults_in_form(exchange, clients, form), None)

    def _expected(self) -> ReplyValidator:
        """Return the validator of the replies to this exchange."""
        ctx, like = self.air.context, next(iter(self.global_model.weights.values()))
        buffers = self.global_model.buffers if self.air.phase == 0 else {}
        return ReplyValidator(self._exchange, ctx, self.air.scheme, like.dtype, buffers, self.air.usual_norms)

    def _count(self, accepted: AcceptedReplies) -> None:
        """Account for a broadcast and its replies, and for the faults; the air is not used yet."""
        accounting, first = self.air.accounting, self.air.phase == 0
        accounting.faults += accepted.faults
        accounting.broadcasts += first
        accounting.broadcast_floats += self._broadcaster.num_values(self._exchange, self.air.shared, first)
        self.air.count_reports(accepted.client_update)

    def _repeat(self, accepted: AcceptedReplies) -> None:
        """Repeat the exchange. Raises TrainingError after `max-retries` times."""
        self.air.accounting.retries += 1
        if self.air.accounting.retries <= self.config.max_retries:
            return
        answered, wanted = len(accepted.clients), len(self.air.participation.participants)
        raise TrainingError(
            f"round {self.round + 1}: {accepted.faults[0]}; {answered} of {wanted} clients answered as they should, in "
            f"{self.air.accounting.retries} tries, and min-clients is {self.config.min_clients}"
        )

    def _receive(self, client_update: ClientUpdate) -> None:
        """Aggregate the accepted updates of one exchange through the air."""
        ctx, before = self.air.context, self.air.shared
        if ctx.phase == 0 and ctx.participants:
            mean = partial(self.air.population.mean, clients=ctx.participants)
            clip = partial(clip_deviations, clients=len(ctx.participants), norm_cap=self.config.norm_cap)
            losses = clip({"losses": client_update.losses})["losses"]  # by themselves: buffers may be on a GPU
            self.train_loss = float(mean(losses))
            self._buffers = {name: mean(buffer) for name, buffer in clip(client_update.buffers).items()}
        result = self.air.aggregate(client_update)
        self._broadcaster.record(self._exchange, ctx, result.received, before)
        if self.air.undoes(ctx):
            self._broadcaster.forget()

    def _begin_round(self) -> None:
        """Draw the participation, and prepare the broadcast."""
        self.air.begin_round()
        self._broadcaster.begin_round()
        self._buffers = {}

    def _end_round(self) -> bool:
        """Step on the update; a round in which nobody transmitted leaves the server as it was."""
        result, faults = self.air.result, self.air.accounting.faults
        evaluates = self.schedule.evaluates_after(self.round)
        self.air.end_round(self._broadcaster.energy)
        self.warning = _warning(self.round, faults)
        self._broadcaster.end_round()
        self.spectrum = {}
        if result is not None and result.update is not None:
            if self.config.spectrum_rank and evaluates:
                self.spectrum = spectrum(result.update, self.air.blocks, self.config.spectrum_rank)
            noise = result.noise if self._weighs else {}
            self.global_model.step(result.update, noise, self._buffers, result.weighs)
        if not self.finished:
            self._begin_round()
        return True


def _warning(round: int, faults: Sequence[Fault]) -> str:
    if not faults:
        return ""
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return f"round {round}: left out {'; '.join(str(fault) for fault in faults[:NAMED])}{more}"
