"""The server's side of a run: what goes down, what is made of what comes up, and all that it takes to go on later."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from laser_fl.allocations import ALLOCATIONS
from laser_fl.blocks import Tensors, blocks_of
from laser_fl.channels import CHANNELS
from laser_fl.channels.base import Channel
from laser_fl.checkpoints import CheckpointError, Numbers, Progress
from laser_fl.config import RunConfig
from laser_fl.downlink import Downlink, noise_std
from laser_fl.errors import ConfigError, LaserError, TrainingError, brief
from laser_fl.guards import NormCaps
from laser_fl.ledger import Entry, Tally
from laser_fl.pipeline import Broadcast, Uplink, receive
from laser_fl.plan import Plan
from laser_fl.policies import POLICIES
from laser_fl.receipts import Receipts
from laser_fl.replica import News, State, checksum
from laser_fl.replies import Expected, Fault, Reply, Taken
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Scheme
from laser_fl.server import Server
from laser_fl.spectrum import spectrum
from laser_fl.streams import Streams
from laser_fl.tables import from_fields
from laser_fl.turnout import Turnout, refuse_silence

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
            ConfigError: nobody is expected to speak in the whole run, or more are asked for than there are.
        """
        if config.min_clients > config.clients:
            raise ConfigError(f"min-clients: must be at most the {config.clients} clients, got {config.min_clients}")
        self.config = config
        self.plan = plan
        self.round = 0
        self.ledger: list[Entry] = []
        self.train_loss: float | None = None
        self.spectrum: dict[str, float] = {}
        self.warning = ""
        self.snapshots = ""
        self.server = Server(weights, config, plan.rounds, undecayed, buffers or {})
        self._blocks = blocks_of(weights, transposed)
        self._streams = Streams(config.seed)
        self._scheme: Scheme = from_fields(SCHEMES.load(config.strategy), config)
        channel = "awgn" if self._scheme.promises.noiseless else config.channel
        self._channel: Channel = from_fields(CHANNELS.load(channel), config)
        self._allocation = ALLOCATIONS.load(config.power_allocation)
        self._policy = POLICIES.load(config.power_policy)
        like = next(iter(weights.values()))
        self._shared = {n: t.to(like) for n, t in self._scheme.init(self._blocks, self._streams).items()}
        self._caps = NormCaps(config.norm_cap)
        self._taken = [-1] * config.clients
        self._updates = 0
        self._sent: Tensors | None = None
        self._exchange = self._since = 0
        self._news: News | None = None
        self._news_floats: int | None = None  # None where all is told, not news
        self._buffers: Tensors = {}
        self._update: Tensors | None = None
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
        numbers = Progress(
            round=self.round,
            exchange=self._exchange,
            updates=self._updates,
            taken=self._taken,
            usual=self._caps.usual,
            train_loss=self.train_loss,
            news_floats=self._news_floats,
            replica=replica.numbers,
            steps=steps,
        ).model_dump()
        trees = {"replica": replica.model, "shared": self._shared, "server": beside, "sent": self._sent or {}}
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
        self.train_loss, self._news_floats = known.train_loss, known.news_floats
        self._shared, self._sent = state.shared, trees["sent"] or None
        self._exchange = self._since = state.exchange
        self._news = None
        self.ledger = list(ledger)
        if not self.finished:
            self._begin_round()

    def start_over(self, missed: bool) -> Broadcast:
        """The same to nodes without a replica, or without copies that are up to date: with all they need to begin.

        missed: they missed what was told, which costs another broadcast; or they only lost what they had.
        """
        if not self._compressed:
            weights = self.server.weights
            self._tally.broadcast_floats += _floats(weights) if missed else 0
            return replace(self.broadcast(), weights=weights, downlink=Downlink("start"))
        state = self._state()
        self._tally.broadcast_floats += state.floats if missed else 0
        return replace(self.broadcast(), told=state)

    def broadcast(self) -> Broadcast:
        """What goes down before the next exchange."""
        return Broadcast(
            receipts=Receipts(self._exchange, tuple(self._taken), self._since, self._saves, self.snapshots),
            caps=self._caps.told,
            weights=self._down,
            shared={} if self._compressed else self._shared,
            scheme=self._scheme,
            context=self._context(),
            downlink=self._downlink,
            buffers=self.server.buffers,
            told=self._told(),
        )

    def absorb(self, replies: Sequence[Reply], faults: Sequence[Fault] = ()) -> bool:
        """Take what came up: through the channel, into the model, onto the ledger.

        faults: of clients whose replies never came, as far as the engine knows. Returns True where this exchange
        ended a round; one to which too few clients answered is to be repeated.

        Raises:
            TrainingError: it was repeated often enough.
        """
        taken = self._expected().take(replies, faults)
        self._tally.faults += taken.faults
        self._count_what_went_down()
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
        beside = len(self._caps.told.keys() & uplink.signals.keys())
        if self._phase == 0:
            beside += _floats(self._buffers)
        links, uses = self._turnout.links, self._turnout.channel_uses
        reception = receive(uplink, self._shared, self._scheme, links, self._allocation, ctx, uses)
        self._caps.observe(uplink.signals, uplink.signal_norms)
        if self._compressed:
            self._news = News(self._exchange, ctx, reception.heard, checksum(self.server.weights, self._shared))
            self._news_floats = self._news.floats
        self._shared = reception.shared
        if self._phase > 0 and not ctx.speakers:  # all who spoke before were left out: as if nobody had
            self._shared, self._news, self._news_floats = self._shared_before, None, None
        self._update = reception.update
        self._tally.take(reception.usage, ctx.speakers, reception.side_channel_floats + beside)

    def _count_what_went_down(self) -> None:
        """Of this exchange: what all nodes are told, and in a round's first phase the model."""
        if not self._compressed:
            self._tally.broadcast_floats += _floats(self._shared)
        elif self._news_floats is None:
            self._tally.broadcast_floats += self._state().floats
        else:
            self._tally.broadcast_floats += self._news_floats
        if self._phase == 0:
            self._tally.broadcast_floats += _floats(self._down) + _floats(self.server.buffers)

    def _begin_round(self) -> None:
        """Draw the turnout, and make what goes down."""
        self._turnout = Turnout.drawn(
            self.config, self._channel, self._scheme, self._blocks, self.round, self._power, self._streams
        )
        self._down, self._downlink = self._make_downlink()
        self._phase, self._shared_before = 0, self._shared
        self._tally = Tally(torch.zeros(self.config.clients, dtype=torch.float64))
        self._buffers, self._update = {}, None

    def _end_round(self) -> bool:
        """Step on the update; a round in which nobody spoke leaves the server as it was."""
        self.ledger.append(self._entry())
        self.warning = _warning(self.round + 1, self._tally.faults)
        update = self._update
        if self.config.downlink == "update":
            self._sent = {name: w.clone() for name, w in self.server.weights.items()}
        self.spectrum = {}
        if update is not None:
            if self.config.spectrum_rank and self.plan.evaluates_after(self.round):
                self.spectrum = spectrum(update, self._blocks, self.config.spectrum_rank)
            self.server.step(update, self._buffers)
            self._updates += 1
        self.round += 1
        if not self.finished:
            self._begin_round()
        return True

    def _make_downlink(self) -> tuple[Tensors, Downlink]:
        """What goes down of the model, and under which noise the clients hear it."""
        weights, power = self.server.weights, self._downlink_power
        if self._compressed:
            return {}, Downlink("heard")
        if self.config.downlink == "model":
            return weights, Downlink("model", noise_std(weights, power))
        if self._sent is None:
            return weights, Downlink("start")
        update = {name: w - self._sent[name] for name, w in weights.items()}
        return update, Downlink("update", noise_std(update, power))

    @property
    def _compressed(self) -> bool:
        """Whether nodes make the model by themselves of what was heard."""
        return self.config.downlink == "compressed"

    def _told(self) -> News | State | None:
        """What they make it of."""
        return (self._news or self._state()) if self._compressed else None

    def _state(self) -> State:
        return self.server.replica.state(self._exchange, self._shared)

    def _entry(self) -> Entry:
        """The round's line of the ledger; refused where a client exceeded the budget."""
        ideal = self._downlink.noise_std == 0  # or nothing was sent
        return self._tally.entry(
            round=self.round + 1,
            present=len(self._turnout.present),
            speakers=len(self._turnout.speakers),
            power=self._power,
            bandwidth=self.config.bandwidth,
            broadcast_energy=0.0 if ideal else self._downlink_power,
            broadcast_uses=0 if ideal else self.parameters,
        )

    @property
    def _downlink_power(self) -> float:
        """Of the server, per broadcast of the model."""
        return math.inf if self._scheme.promises.noiseless else self.config.downlink_power

    @property
    def _power(self) -> float:
        """The round's budget."""
        if self._scheme.promises.noiseless:
            return math.inf
        return float(self._policy(self.config.power, self.plan.step(self.round), self.plan.steps))

    def _context(self) -> Context:
        power, promises, turnout = self._power, self._scheme.promises, self._turnout
        sigma = math.sqrt(self._channel.noise_variance) * turnout.links.noise_scale
        averaged = turnout.present if promises.error_feedback else turnout.speakers
        return Context(
            blocks=self._blocks,
            round=self.round,
            phase=self._phase,
            updates=self._updates,
            power=power * promises.phase_shares[self._phase],
            noise_std=0.0 if math.isinf(power) else sigma,
            clients=self.config.clients,
            present=turnout.present,
            speakers=turnout.speakers,
            averaged=len(averaged),
            bits=turnout.bits,
            streams=self._streams,
        )


def _warning(round: int, faults: Sequence[Fault]) -> str:
    if not faults:
        return ""
    more = f"; and {len(faults) - NAMED} more" if len(faults) > NAMED else ""
    return f"round {round}: left out {'; '.join(str(fault) for fault in faults[:NAMED])}{more}"


def _floats(tensors: Tensors) -> int:
    return sum(tensor.numel() for tensor in tensors.values())
