"""The server's side of a run: broadcasts, the aggregation of replies, and the state to go on from later."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, blocks_of
from laser_fl.channels.base import Channel
from laser_fl.channels.downlink import Downlink
from laser_fl.clipping import NormClipper
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, TrainingError, brief
from laser_fl.federated.acknowledgements import Acknowledgements
from laser_fl.federated.broadcast import Broadcast, Broadcaster, num_values
from laser_fl.federated.ledger import Ledger, LedgerRecord, RoundAccounting
from laser_fl.federated.model import GlobalModel
from laser_fl.federated.optimizer import update_filter_of
from laser_fl.federated.participation import Participation, refuse_outage
from laser_fl.federated.replica import ReplicaState
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.spectrum import spectrum
from laser_fl.federated.validation import AcceptedReplies, Fault, Reply, ReplyValidator
from laser_fl.pipeline import AggregationResult, ClientUpdate, aggregate_updates, values_reported
from laser_fl.power.split import phase_share
from laser_fl.registry import ALLOCATIONS, CHANNELS, POLICIES, SCHEMES
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import RoundContext, Scheme
from laser_fl.storage.checkpoint import CheckpointError, Numbers, Progress

NAMED = 3  # clients left out of a round that a warning names; the ledger names them all


class Server:
    """The server's side of a run, advanced one exchange at a time.

    `broadcast` returns the message to the clients, and `aggregate` takes their replies; the engine carries both.

    warning: the clients left out of the last round, with reasons, in a line for a log; empty where there are none.
    snapshots: folder in which client groups save their client state, in rounds after which the run could go on;
        "": none.
    """

    _participation: Participation
    _accounting: RoundAccounting
    _phase: int
    _shared_before: Tensors

    def __init__(
        self,
        config: RunConfig,
        weights: Mapping[str, Tensor],
        schedule: RoundSchedule,
        transposed: Collection[str] = (),
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Build the parts of the run, and begin its first round.

        Args:
            config: of the run.
            weights: the trained part of the initial model, by name, on the device on which the server computes.
            schedule: of the run.
            transposed: names of the weights that are stored as (inputs, outputs).
            undecayed: names of the weights to which weight decay does not apply.
            buffers: the part of the model that follows the data without being trained.

        Raises:
            ConfigError: no client is expected to transmit in the whole run; min-clients is above the number of
                clients; or the weights cannot be sent.
        """
        if config.min_clients > config.clients:
            raise ConfigError(f"min-clients: must be at most the {config.clients} clients, got {config.min_clients}")
        if not weights:
            raise ConfigError("model: must have weights to train, got none")
        self.config = config
        self.schedule = schedule
        self.round = 0
        self.ledger = Ledger()
        self.train_loss: float | None = None
        self.spectrum: dict[str, float] = {}
        self.warning = ""
        self.snapshots = ""
        self._blocks = blocks_of(weights, transposed)
        self._streams = RandomStreams(config.seed)
        self._scheme: Scheme = SCHEMES.build(config.strategy, config)
        receiver = update_filter_of(config, self._scheme)
        self.global_model = GlobalModel(weights, config, schedule.rounds, undecayed, buffers or {}, receiver)
        ideal = self._scheme.traits.noiseless
        self._broadcaster = Broadcaster(
            self.global_model, config.downlink, math.inf if ideal else config.downlink_power
        )
        self._channel: Channel = CHANNELS.build("awgn" if ideal else config.channel, config)
        self._allocation = ALLOCATIONS.build(config.power_allocation, config)
        self._policy = POLICIES.build(config.power_policy, config)
        like = next(iter(weights.values()))
        self._shared = {n: t.to(like) for n, t in self._scheme.init(self._blocks, self._streams).items()}
        self._norm_clipper = NormClipper(config.norm_cap)
        self._last_acknowledged = [-1] * config.clients
        self._updates = 0
        self._exchange = self._since = 0
        self._buffers: Tensors = {}
        self._result: AggregationResult | None = None
        refuse_outage(config, self._channel, schedule.rounds, self._streams)
        self._begin_round()

    @property
    def finished(self) -> bool:
        """True after the last round."""
        return self.round >= self.schedule.rounds

    def saves_after(self, round: int) -> bool:
        """Return True where the run needs a checkpoint after `round` rounds."""
        every = self.config.checkpoint_every
        return every > 0 and (round % every == 0 or round == self.schedule.rounds)

    @property
    def halted(self) -> bool:
        """True where the run has stopped for lack of replies, and could go on with them."""
        return self._phase == 0 and self._accounting.retries > self.config.max_retries

    @property
    def _saves(self) -> bool:
        """True where client groups must save a snapshot in this exchange: at a round's end, or before the run stops."""
        last = self._phase == len(self._scheme.traits.phase_shares) - 1
        stops = self._phase == 0 and self._accounting.retries == self.config.max_retries > 0
        return bool(self.snapshots) and ((last and self.saves_after(self.round + 1)) or stops)

    @property
    def parameters(self) -> int:
        """The number of values of the model."""
        return sum(block.size for block in self._blocks)

    def state(self) -> tuple[Numbers, Tensors]:
        """Return all that determines the next rounds, between two rounds, except for the ledger."""
        replica, beside, steps = self.global_model.state(self._exchange, self._shared)
        update_values, sent = self._broadcaster.state()
        numbers = Progress(
            round=self.round,
            exchange=self._exchange,
            updates=self._updates,
            last_acknowledged=self._last_acknowledged,
            usual=self._norm_clipper.usual,
            train_loss=self.train_loss,
            update_values=update_values,
            replica=replica.numbers,
            steps=steps,
        ).model_dump()
        trees = {"replica": replica.model, "shared": self._shared, "server": beside, "sent": sent}
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
        self.round, self._updates, self._last_acknowledged = known.round, known.updates, known.last_acknowledged
        self._norm_clipper = NormClipper(self.config.norm_cap, known.usual)
        self.train_loss, self._shared = known.train_loss, state.shared
        self._exchange = self._since = state.exchange
        self._broadcaster.restore(known.update_values, trees["sent"])
        self.ledger = Ledger(ledger)
        if not self.finished:
            self._begin_round()

    def resync(self, missed: bool) -> Broadcast:
        """Return the broadcast for nodes without a replica, or without recent copies: with all they need to begin.

        missed: True where they missed earlier messages, which costs another broadcast; False where they only lost their
            state.
        """
        if not self._broadcaster.compressed:
            weights = self.global_model.weights
            self._accounting.broadcast_floats += num_values(weights) if missed else 0
            return replace(self.broadcast(), weights=weights, downlink=Downlink("start"))
        state = self.global_model.replica.state(self._exchange, self._shared)
        self._accounting.broadcast_floats += state.num_values if missed else 0
        return replace(self.broadcast(), sync=state)

    def broadcast(self) -> Broadcast:
        """Return the message to the clients at the beginning of the next exchange."""
        return Broadcast(
            acknowledgements=Acknowledgements(
                self._exchange, tuple(self._last_acknowledged), self._since, self._saves, self.snapshots
            ),
            norm_bounds=self._norm_clipper.norm_bounds,
            weights=self._broadcaster.weights,
            shared={} if self._broadcaster.compressed else self._shared,
            scheme=self._scheme,
            context=self._context(),
            downlink=self._broadcaster.downlink,
            buffers=self.global_model.buffers,
            sync=self._broadcaster.sync(self._exchange, self._shared),
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
        if len(accepted.clients) < min(self.config.min_clients, len(self._participation.participants)):
            self._repeat(accepted)
            return False
        self._participation = self._participation.of(accepted.clients)
        self._receive(accepted.client_update)
        for client in accepted.clients:
            self._last_acknowledged[client] = self._exchange
        self._exchange += 1
        self._phase += 1
        return self._phase == len(self._scheme.traits.phase_shares) and self._end_round()

    def _expected(self) -> ReplyValidator:
        """Return the validator of the replies to this exchange."""
        ctx, like = self._context(), next(iter(self.global_model.weights.values()))
        buffers = self.global_model.buffers if self._phase == 0 else {}
        bounded = not math.isinf(self.config.norm_cap)
        bounds = self._norm_clipper.norm_bounds
        return ReplyValidator(self._exchange, ctx, self._scheme, like.dtype, buffers, bounds, bounded)

    def _count(self, accepted: AcceptedReplies) -> None:
        """Account for a broadcast and its replies, and for the faults; the air is not used yet."""
        accounting = self._accounting
        bounds = self._norm_clipper.norm_bounds.keys() & accepted.client_update.signals.keys()
        accounting.faults += accepted.faults
        accounting.broadcasts += self._phase == 0
        accounting.broadcast_floats += self._broadcaster.num_values(self._exchange, self._shared, self._phase == 0)
        accounting.side_channel_floats += len(bounds) + values_reported(accepted.client_update, self._scheme)

    def _repeat(self, accepted: AcceptedReplies) -> None:
        """Repeat the exchange. Raises TrainingError after `max-retries` times."""
        self._accounting.retries += 1
        if self._accounting.retries <= self.config.max_retries:
            return
        answered, wanted = len(accepted.clients), len(self._participation.participants)
        raise TrainingError(
            f"round {self.round + 1}: {accepted.faults[0]}; {answered} of {wanted} clients answered as they should, in "
            f"{self._accounting.retries} tries, and min-clients is {self.config.min_clients}"
        )

    def _receive(self, client_update: ClientUpdate) -> None:
        """Aggregate the accepted updates of one exchange through the air."""
        ctx = self._context()
        if self._phase == 0 and ctx.participants:
            self.train_loss = float(client_update.losses.mean())
            self._buffers = {name: b.mean(dim=0) for name, b in client_update.buffers.items()}
        channel_state, uses = self._participation.channel_state, self._participation.channel_uses
        result = aggregate_updates(
            client_update, self._shared, self._scheme, channel_state, self._allocation, ctx, uses
        )
        at_bound = self._norm_clipper.reached(client_update.signals, client_update.signal_norms)
        self._accounting.clipped |= {client for client, cut in zip(ctx.transmitters, at_bound, strict=True) if cut}
        self._norm_clipper.observe(client_update.signals, client_update.signal_norms)
        self._broadcaster.record(self._exchange, ctx, result.received, self._shared)
        self._shared = result.shared
        if self._phase > 0 and not ctx.transmitters:  # all who transmitted before were left out: undo their phases
            self._shared = self._shared_before
            self._broadcaster.forget()
        self._result = result
        self._accounting.take(result.usage, ctx.transmitters, result.side_channel_floats)

    def _begin_round(self) -> None:
        """Draw the participation, and prepare the broadcast."""
        self._participation = Participation.drawn(
            self.config, self._channel, self._scheme, self._blocks, self.round, self._power, self._streams
        )
        self._broadcaster.begin_round()
        self._phase, self._shared_before = 0, self._shared
        self._accounting = RoundAccounting(torch.zeros(self.config.clients, dtype=torch.float64))
        self._buffers, self._result = {}, None

    def _end_round(self) -> bool:
        """Step on the update; a round in which nobody transmitted leaves the server as it was."""
        self.ledger.append(self._record())
        self.warning = _warning(self.round + 1, self._accounting.faults)
        result = self._result
        self._broadcaster.end_round()
        self.spectrum = {}
        if result is not None and result.update is not None:
            if self.config.spectrum_rank and self.schedule.evaluates_after(self.round):
                self.spectrum = spectrum(result.update, self._blocks, self.config.spectrum_rank)
            self.global_model.step(result.update, result.noise, self._buffers, result.weighs)
            self._updates += 1
        self.round += 1
        if not self.finished:
            self._begin_round()
        return True

    def _record(self) -> LedgerRecord:
        """Make the round's ledger record. Raises PowerError where a client exceeded the budget."""
        energy = self._broadcaster.energy
        return self._accounting.record(
            round=self.round + 1,
            participants=len(self._participation.participants),
            transmitters=len(self._participation.transmitters),
            power=self._power,
            bandwidth=self.config.bandwidth,
            broadcast_energy=energy,
            broadcast_uses=self.parameters if energy else 0,
        )

    @property
    def _power(self) -> float:
        """The round's power budget, linear."""
        if self._scheme.traits.noiseless:
            return math.inf
        return float(self._policy(self.config.power, self.schedule.step(self.round), self.schedule.steps))

    def _context(self) -> RoundContext:
        power, traits, participation = self._power, self._scheme.traits, self._participation
        averaged = participation.participants if traits.error_feedback else participation.transmitters
        ctx = RoundContext(
            blocks=self._blocks,
            round=self.round,
            phase=self._phase,
            updates=self._updates,
            power=power,
            noise_std=0.0 if math.isinf(power) else self._channel.noise_std(self.config.clients),
            clients=self.config.clients,
            participants=participation.participants,
            transmitters=participation.transmitters,
            averaged=len(averaged),
            bits=participation.bits,
            streams=self._streams,
        )
        return replace(ctx, power=power * phase_share(self._scheme, ctx))


def _warning(round: int, faults: Sequence[Fault]) -> str:
    if not faults:
        return ""
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return f"round {round}: left out {'; '.join(str(fault) for fault in faults[:NAMED])}{more}"
