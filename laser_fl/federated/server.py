"""The server's side of a run: what goes down, what is made of what comes up, and all that it takes to go on later."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, blocks_of
from laser_fl.channels.base import Channel
from laser_fl.channels.downlink import Downlink
from laser_fl.clipping import NormCaps
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError, LaserError, TrainingError, brief
from laser_fl.federated.acknowledgements import Receipts
from laser_fl.federated.broadcast import Broadcaster, volume
from laser_fl.federated.ledger import Entry, Ledger, Tally
from laser_fl.federated.model import Server
from laser_fl.federated.optimizer import receiver_of
from laser_fl.federated.participation import Turnout, refuse_silence
from laser_fl.federated.replica import State
from laser_fl.federated.schedule import Plan
from laser_fl.federated.spectrum import spectrum
from laser_fl.federated.validation import Expected, Fault, Reply, Taken
from laser_fl.pipeline import Broadcast, Reception, Uplink, receive, reported
from laser_fl.power.split import phase_share
from laser_fl.registry import ALLOCATIONS, CHANNELS, POLICIES, SCHEMES, from_fields
from laser_fl.rng import Streams
from laser_fl.schemes.base import Context, Scheme
from laser_fl.storage.checkpoint import CheckpointError, Numbers, Progress

NAMED = 3  # of those who are left out of a round, in a warning; the ledger names them all


class Training:
    """The server's side of a run, advanced one exchange at a time.

    `broadcast` says what goes down now, `absorb` takes what came up; between them lies the engine.

    warning: who was left out of the last round, and why, in a line for a log; empty where nobody was.
    snapshots: where hosts keep what their clients hold, in rounds after which the run could go on; "": nowhere.
    """

    _turnout: Turnout
    _tally: Tally
    _phase: int
    _shared_before: Tensors

    def __init__(
        self,
        config: RunConfig,
        weights: Mapping[str, Tensor],
        plan: Plan,
        transposed: Collection[str] = (),
        undecayed: Collection[str] = (),
        buffers: Mapping[str, Tensor] | None = None,
    ) -> None:
        """weights: what is trained of the initial model, on the device where the server computes.

        transposed: names of the weights that are stored as (inputs, outputs). undecayed: of those to
        which weight decay does not apply. buffers: what follows the data without being trained.

        Raises:
            ConfigError: nobody is expected to speak in the whole run, or more are asked for than there are; or weights
                that cannot be sent.
        """
        if config.min_clients > config.clients:
            raise ConfigError(f"min-clients: must be at most the {config.clients} clients, got {config.min_clients}")
        if not weights:
            raise ConfigError("model: must have weights to train, got none")
        self.config = config
        self.plan = plan
        self.round = 0
        self.ledger = Ledger()
        self.train_loss: float | None = None
        self.spectrum: dict[str, float] = {}
        self.warning = ""
        self.snapshots = ""
        self._blocks = blocks_of(weights, transposed)
        self._streams = Streams(config.seed)
        self._scheme: Scheme = from_fields(SCHEMES.load(config.strategy), config)
        receiver = receiver_of(config, self._scheme)
        self.server = Server(weights, config, plan.rounds, undecayed, buffers or {}, receiver)
        ideal = self._scheme.promises.noiseless
        self._broadcaster = Broadcaster(self.server, config.downlink, math.inf if ideal else config.downlink_power)
        self._channel: Channel = from_fields(CHANNELS.load("awgn" if ideal else config.channel), config)
        self._allocation = ALLOCATIONS.load(config.power_allocation)
        self._policy = POLICIES.load(config.power_policy)
        like = next(iter(weights.values()))
        self._shared = {n: t.to(like) for n, t in self._scheme.init(self._blocks, self._streams).items()}
        self._caps = NormCaps(config.norm_cap)
        self._taken = [-1] * config.clients
        self._updates = 0
        self._exchange = self._since = 0
        self._buffers: Tensors = {}
        self._reception: Reception | None = None
        refuse_silence(config, self._channel, plan.rounds, self._streams)
        self._begin_round()

    @property
    def finished(self) -> bool:
        """True after the last round."""
        return self.round >= self.plan.rounds

    def saves_after(self, round: int) -> bool:
        """Whether the run is to be able to go on from after `round` rounds."""
        every = self.config.checkpoint_every
        return every > 0 and (round % every == 0 or round == self.plan.rounds)

    @property
    def stuck(self) -> bool:
        """True where the run has stopped for want of answers, and could go on with them."""
        return self._phase == 0 and self._tally.retries > self.config.max_retries

    @property
    def _saves(self) -> bool:
        """Whether hosts are to take a snapshot in this exchange: of a round's end, or before the run stops."""
        last = self._phase == len(self._scheme.promises.phase_shares) - 1
        stops = self._phase == 0 and self._tally.retries == self.config.max_retries > 0
        return bool(self.snapshots) and ((last and self.saves_after(self.round + 1)) or stops)

    @property
    def parameters(self) -> int:
        """Number of values of the model."""
        return sum(block.size for block in self._blocks)

    def state(self) -> tuple[Numbers, Tensors]:
        """All that decides how the run goes on from here, between two rounds, but for the ledger."""
        replica, beside, steps = self.server.state(self._exchange, self._shared)
        news_floats, sent = self._broadcaster.state()
        numbers = Progress(
            round=self.round,
            exchange=self._exchange,
            updates=self._updates,
            taken=self._taken,
            usual=self._caps.usual,
            train_loss=self.train_loss,
            news_floats=news_floats,
            replica=replica.numbers,
            steps=steps,
        ).model_dump()
        trees = {"replica": replica.model, "shared": self._shared, "server": beside, "sent": sent}
        return numbers, {f"{tree}/{name}": t for tree, named in trees.items() for name, t in named.items()}

    def restore(self, numbers: Numbers, tensors: Tensors, ledger: Sequence[Entry]) -> None:
        """Undo `state`; the tensors become the run's. ledger: of the rounds until then.

        Raises:
            CheckpointError: it is the state of another run.
        """
        trees: dict[str, Tensors] = {tree: {} for tree in ("replica", "shared", "server", "sent")}
        for key, tensor in tensors.items():
            tree, _, name = key.partition("/")
            trees.setdefault(tree, {})[name] = tensor.to(next(iter(self.server.weights.values())).device)
        try:
            known = Progress.model_validate(numbers)
            state = State.parse(known.replica, trees["replica"], trees["shared"])
            self.server.restore(state, trees["server"], known.steps)
        except (KeyError, TypeError, ValueError, RuntimeError, LaserError) as error:
            raise CheckpointError(f"checkpoint: is not this run's ({brief(str(error))})") from None
        if known.round > self.plan.rounds or len(known.taken) != self.config.clients:
            raise CheckpointError(f"checkpoint: is of {len(known.taken)} clients after {known.round} rounds")
        self.round, self._updates, self._taken = known.round, known.updates, known.taken
        self._caps = NormCaps(self.config.norm_cap, known.usual)
        self.train_loss, self._shared = known.train_loss, state.shared
        self._exchange = self._since = state.exchange
        self._broadcaster.restore(known.news_floats, trees["sent"])
        self.ledger = Ledger(ledger)
        if not self.finished:
            self._begin_round()

    def start_over(self, missed: bool) -> Broadcast:
        """The same to nodes without a replica, or without copies that are up to date: with all they need to begin.

        missed: they missed what was told, which costs another broadcast; or they only lost what they had.
        """
        if not self._broadcaster.compressed:
            weights = self.server.weights
            self._tally.broadcast_floats += volume(weights) if missed else 0
            return replace(self.broadcast(), weights=weights, downlink=Downlink("start"))
        state = self.server.replica.state(self._exchange, self._shared)
        self._tally.broadcast_floats += state.floats if missed else 0
        return replace(self.broadcast(), told=state)

    def broadcast(self) -> Broadcast:
        """What goes down before the next exchange."""
        return Broadcast(
            receipts=Receipts(self._exchange, tuple(self._taken), self._since, self._saves, self.snapshots),
            caps=self._caps.told,
            weights=self._broadcaster.weights,
            shared={} if self._broadcaster.compressed else self._shared,
            scheme=self._scheme,
            context=self._context(),
            downlink=self._broadcaster.downlink,
            buffers=self.server.buffers,
            told=self._broadcaster.told(self._exchange, self._shared),
        )

    def absorb(self, replies: Sequence[Reply], faults: Sequence[Fault] = ()) -> bool:
        """Take what came up: through the channel, into the model, onto the ledger.

        faults: of clients whose replies never came, as far as the engine knows. Returns True where this exchange
        ended a round; one to which too few clients answered is to be repeated.

        Raises:
            TrainingError: it was repeated often enough.
        """
        taken = self._expected().take(replies, faults)
        self._count(taken)
        if len(taken.clients) < min(self.config.min_clients, len(self._turnout.present)):
            self._repeat(taken)
            return False
        self._turnout = self._turnout.of(taken.clients)
        self._hear(taken.uplink)
        for client in taken.clients:
            self._taken[client] = self._exchange
        self._exchange += 1
        self._phase += 1
        return self._phase == len(self._scheme.promises.phase_shares) and self._end_round()

    def _expected(self) -> Expected:
        """What the replies to this exchange must be like."""
        ctx, like = self._context(), next(iter(self.server.weights.values()))
        buffers = self.server.buffers if self._phase == 0 else {}
        capped = not math.isinf(self.config.norm_cap)
        return Expected(self._exchange, ctx, self._scheme, like.dtype, buffers, self._caps.told, capped)

    def _count(self, taken: Taken) -> None:
        """Note what a broadcast and its replies cost, and whose replies were no good; the air is not used yet."""
        tally, told = self._tally, self._caps.told.keys() & taken.uplink.signals.keys()
        tally.faults += taken.faults
        tally.broadcasts += self._phase == 0
        tally.broadcast_floats += self._broadcaster.floats(self._exchange, self._shared, self._phase == 0)
        tally.side_channel_floats += len(told) + reported(taken.uplink, self._scheme)

    def _repeat(self, taken: Taken) -> None:
        """Let the exchange be repeated. Raises TrainingError after `max-retries` times."""
        self._tally.retries += 1
        if self._tally.retries <= self.config.max_retries:
            return
        answered, wanted = len(taken.clients), len(self._turnout.present)
        raise TrainingError(
            f"round {self.round + 1}: {taken.faults[0]}; {answered} of {wanted} clients answered as they should, in "
            f"{self._tally.retries} tries, and min-clients is {self.config.min_clients}"
        )

    def _hear(self, uplink: Uplink) -> None:
        """One exchange through the air."""
        ctx = self._context()
        if self._phase == 0 and ctx.present:
            self.train_loss = float(uplink.losses.mean())
            self._buffers = {name: b.mean(dim=0) for name, b in uplink.buffers.items()}
        links, uses = self._turnout.links, self._turnout.channel_uses
        reception = receive(uplink, self._shared, self._scheme, links, self._allocation, ctx, uses)
        at_cap = self._caps.reached(uplink.signals, uplink.signal_norms)
        self._tally.clipped |= {client for client, cut in zip(ctx.speakers, at_cap, strict=True) if cut}
        self._caps.observe(uplink.signals, uplink.signal_norms)
        self._broadcaster.hear(self._exchange, ctx, reception.heard, self._shared)
        self._shared = reception.shared
        if self._phase > 0 and not ctx.speakers:  # all who spoke before were left out: as if nobody had
            self._shared = self._shared_before
            self._broadcaster.forget()
        self._reception = reception
        self._tally.take(reception.usage, ctx.speakers, reception.side_channel_floats)

    def _begin_round(self) -> None:
        """Draw the turnout, and make what goes down."""
        self._turnout = Turnout.drawn(
            self.config, self._channel, self._scheme, self._blocks, self.round, self._power, self._streams
        )
        self._broadcaster.begin_round()
        self._phase, self._shared_before = 0, self._shared
        self._tally = Tally(torch.zeros(self.config.clients, dtype=torch.float64))
        self._buffers, self._reception = {}, None

    def _end_round(self) -> bool:
        """Step on the update; a round in which nobody spoke leaves the server as it was."""
        self.ledger.append(self._entry())
        self.warning = _warning(self.round + 1, self._tally.faults)
        reception = self._reception
        self._broadcaster.end_round()
        self.spectrum = {}
        if reception is not None and reception.update is not None:
            if self.config.spectrum_rank and self.plan.evaluates_after(self.round):
                self.spectrum = spectrum(reception.update, self._blocks, self.config.spectrum_rank)
            self.server.step(reception.update, reception.noise, self._buffers, reception.weighs)
            self._updates += 1
        self.round += 1
        if not self.finished:
            self._begin_round()
        return True

    def _entry(self) -> Entry:
        """The round's line of the ledger; refused where a client exceeded the budget."""
        energy = self._broadcaster.energy
        return self._tally.entry(
            round=self.round + 1,
            present=len(self._turnout.present),
            speakers=len(self._turnout.speakers),
            power=self._power,
            bandwidth=self.config.bandwidth,
            broadcast_energy=energy,
            broadcast_uses=self.parameters if energy else 0,
        )

    @property
    def _power(self) -> float:
        """The round's budget."""
        if self._scheme.promises.noiseless:
            return math.inf
        return float(self._policy(self.config.power, self.plan.step(self.round), self.plan.steps))

    def _context(self) -> Context:
        power, promises, turnout = self._power, self._scheme.promises, self._turnout
        averaged = turnout.present if promises.error_feedback else turnout.speakers
        ctx = Context(
            blocks=self._blocks,
            round=self.round,
            phase=self._phase,
            updates=self._updates,
            power=power,
            noise_std=0.0 if math.isinf(power) else self._channel.noise_std(self.config.clients),
            clients=self.config.clients,
            present=turnout.present,
            speakers=turnout.speakers,
            averaged=len(averaged),
            bits=turnout.bits,
            streams=self._streams,
        )
        return replace(ctx, power=power * phase_share(self._scheme, ctx))


def _warning(round: int, faults: Sequence[Fault]) -> str:
    if not faults:
        return ""
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return f"round {round}: left out {'; '.join(str(fault) for fault in faults[:NAMED])}{more}"
