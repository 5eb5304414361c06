"""The air interface of a run: participation, power, the walk through the air, and the ledger.

It is the part of a server that knows neither the model's values nor where replies come from: `Server` adds both, and
`laser_fl.OverTheAir` is the air interface for anybody's own loop.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from laser_fl.blocks import Tensors, blocks_of
from laser_fl.channels.awgn import is_constant
from laser_fl.channels.base import Channel
from laser_fl.channels.exchange import AggregationResult, ClientUpdate, values_reported
from laser_fl.clipping import UsualNorms, clip_shares
from laser_fl.config import RunConfig
from laser_fl.errors import ConfigError
from laser_fl.federated.ledger import Ledger, RoundAccounting
from laser_fl.federated.participation import Participation, Population, refuse_outage
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.pipeline import aggregate_updates
from laser_fl.power.split import phase_share
from laser_fl.registry import ALLOCATIONS, CHANNELS, POLICIES, SCHEMES
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import RoundContext, Scheme, owners
from laser_fl.shapes import Float64

Unsent = Mapping[int, Mapping[str, float]]


class AirInterface:
    """The air interface between clients and server, advanced one exchange at a time.

    A round begins with `begin_round`, has an exchange per phase of the scheme (`aggregate`), and ends with `end_round`.

    round: number of the current round, counted from 0. phase: the next exchange's, counted from 0.
    updates: rounds before this one that gave an update. shared: the scheme's shared state.
    result: of the round's last exchange; None before the first.
    unsent: of the last exchange, by client that was clipped: the share of each block's approximation that was not sent.
    """

    participation: Participation
    accounting: RoundAccounting
    shared_before: Tensors
    phase: int
    result: AggregationResult | None
    unsent: Unsent
    _context: RoundContext | None = None  # made once an exchange
    _constant_participation: Participation | None = None

    def __init__(
        self,
        config: RunConfig,
        weights: Mapping[str, Tensor],
        schedule: RoundSchedule,
        transposed: Collection[str] = (),
        sizes: Sequence[int] = (),
    ) -> None:
        """Build the parts of the air. No round begins yet.

        Args:
            config: of the run.
            weights: the model's, by name, on the device on which the server computes; only their shapes matter.
            schedule: of the run.
            transposed: names of the weights that are stored as (inputs, outputs).
            sizes: number of examples of each client; (): not known, and all hold some.

        Raises:
            ConfigError: the weights cannot be sent, or no client is expected to transmit in the whole run; or the sizes
                are not those of the clients, or lack for a mean that is weighted by them.
        """
        if not weights:
            raise ConfigError("model: must have weights to train, got none")
        self.config, self.schedule = config, schedule
        self.population = Population.of(config, sizes)
        self.blocks = blocks_of(weights, transposed)
        self.streams = RandomStreams(config.seed, on_cpu=config.rng_device == "cpu")
        self.scheme: Scheme = SCHEMES.build(config.strategy, config)
        ideal = self.scheme.traits.noiseless
        self.channel: Channel = CHANNELS.build("awgn" if ideal else config.channel, config)
        self._allocation = ALLOCATIONS.build(config.power_allocation, config)
        self._policy = POLICIES.build(config.power_policy, config)
        like = next(iter(weights.values()))
        self._device = like.device
        self.shared = {n: t.to(like) for n, t in self.scheme.init(self.blocks, self.streams).items()}
        self.usual_norms = UsualNorms()
        self.unsent = {}
        self.ledger = Ledger()
        self.round = self.updates = 0
        self._participation_is_constant = (
            config.fraction == 1
            and config.dropout_rate == 0
            and is_constant(self.channel)
            and not self.scheme.traits.digital  # the capacity of links follows the power
        )
        refuse_outage(config, self.channel, schedule.rounds, self.streams, self.population.holders)

    def draw_here(self) -> None:
        """Draw what both sides must know on the server's device, since the clients are in the same process.

        Other devices would draw other numbers; so it is not done where clients are elsewhere, or with rng-device=cpu.
        """
        if not self.streams.on_cpu:
            self.streams, self._context = replace(self.streams, shared=str(self._device)), None

    @property
    def power(self) -> float:
        """The round's power budget, linear; after the last round, that of the last one, which policies know."""
        if self.scheme.traits.noiseless:
            return math.inf
        round = min(self.round, self.schedule.rounds - 1)
        return float(self._policy(self.config.power, self.schedule.step(round), self.schedule.steps))

    @property
    def phases(self) -> int:
        """The number of a round's exchanges."""
        return len(self.scheme.traits.phase_shares)

    @property
    def context(self) -> RoundContext:
        """The facts of the next exchange that both sides know."""
        if self._context is None:
            self._context = self._new_context()
        return self._context

    def _new_context(self) -> RoundContext:
        power, participation = self.power, self.participation
        ctx = RoundContext(
            blocks=self.blocks,
            round=self.round,
            phase=self.phase,
            updates=self.updates,
            power=power,
            noise_std=0.0 if math.isinf(power) else self.channel.noise_std(self.config.clients),
            clients=self.config.clients,
            participants=participation.participants,
            transmitters=participation.transmitters,
            averaged=len(self._averaged),
            bits=participation.bits,
            streams=self.streams,
        )
        return replace(ctx, power=power * phase_share(self.scheme, ctx))

    @property
    def _averaged(self) -> tuple[int, ...]:
        """The numbers of the clients that the server's mean is over."""
        remembers, participation = self.scheme.traits.error_feedback, self.participation
        return participation.participants if remembers else participation.transmitters

    def begin_round(self) -> None:
        """Draw the participation of a round, unless it is the same in every round."""
        self.participation = self._constant_participation or Participation.drawn(
            self.config,
            self.channel,
            self.scheme,
            self.blocks,
            self.round,
            self.power,
            self.streams,
            self.population.holders,
        )
        if self._participation_is_constant:
            self._constant_participation = self.participation
        self.phase, self.shared_before, self.result, self._context = 0, self.shared, None, None
        self.accounting = RoundAccounting(torch.zeros(self.config.clients, dtype=torch.float64))

    def narrow(self, clients: Sequence[int]) -> None:
        """Go on with the round with some of its participants only."""
        if len(clients) < len(self.participation.participants):
            self.participation, self._context = self.participation.of(clients), None

    def count_reports(self, client_update: ClientUpdate) -> None:
        """Account for an exchange's reports in the side channel: norms and buffers up."""
        self.accounting.side_channel_floats += values_reported(client_update, self.scheme)

    def aggregate(self, client_update: ClientUpdate) -> AggregationResult:
        """Carry one exchange of all participants through the air; the next phase follows.

        Where all who transmitted in the first phase were left out since, the shared state is as before the round.

        Raises:
            TrainingError: noise or signals are so large that an estimate is no number.
            PowerError: a digital message does not fit into its link.
        """
        ctx, participation = self.context, self.participation
        client_update = client_update.reported
        names, norms = list(client_update.signals), client_update.signal_norms
        shares = clip_shares(names, norms, self.config.norm_cap)
        result = aggregate_updates(
            client_update,
            self.shared,
            self.scheme,
            participation.channel_state,
            self._allocation,
            ctx,
            participation.channel_uses,
            self.population.weights(participation.transmitters, self._averaged),
            shares,
        )
        self.unsent = {} if shares is None else self._unsent(names, shares)
        self.accounting.clipped |= self.unsent.keys()
        self.usual_norms.observe(names, norms)
        norm_bounds = 0 if math.isinf(self.config.norm_cap) else len(names)  # which go down with the amplitudes
        self.accounting.take(result.usage, ctx.transmitters, result.side_channel_floats + norm_bounds)
        self.shared = self.shared_before if self.undoes(ctx) else result.shared
        self.result = result
        self.phase, self._context = self.phase + 1, None
        return result

    def _unsent(self, names: Sequence[str], shares: Float64[Tensor, "transmitters signals"]) -> Unsent:
        """Return, by client that was clipped, the share of each block's approximation that was not sent."""
        each = owners(names)
        first = [end - count for end, count in zip(accumulate(each.values()), each.values(), strict=True)]
        degrees = [self.scheme.traits.degree if count > 1 else 1 for count in each.values()]
        rows = (1 - shares[:, first] ** torch.tensor(degrees)).tolist()
        unsent = ({block: share for block, share in zip(each, row, strict=True) if share > 0} for row in rows)
        return {client: some for client, some in zip(self.context.transmitters, unsent, strict=True) if some}

    def undoes(self, ctx: RoundContext) -> bool:
        """Return True for a later phase without transmitters: all who had transmitted in the round were left out."""
        return ctx.phase > 0 and not ctx.transmitters

    def end_round(self, broadcast_energy: float = 0.0) -> None:
        """Write the round into the ledger; the next one may begin.

        broadcast_energy: of one broadcast of the model; 0 on an ideal downlink.

        Raises:
            PowerError: a client's energy exceeds the budget.
        """
        record = self.accounting.record(
            round=self.round + 1,
            participants=len(self.participation.participants),
            transmitters=len(self.participation.transmitters),
            power=self.power,
            bandwidth=self.config.bandwidth,
            broadcast_energy=broadcast_energy,
            broadcast_uses=sum(block.size for block in self.blocks) if broadcast_energy else 0,
        )
        self.ledger.append(record)
        self.round += 1
        self.updates += self.result is not None and self.result.update is not None

    def restore(
        self,
        round: int,
        updates: int,
        usual: Mapping[str, float],
        shared: Tensors,
        ledger: Ledger,
        unsent: Unsent | None = None,
    ) -> None:
        """Go on between two rounds, from where another one of the same run was; `begin_round` follows.

        Args:
            round: its number of rounds done.
            updates: its number of updates.
            usual: its usual norms, by signal.
            shared: its scheme's shared state.
            ledger: of its rounds.
            unsent: of its last exchange.
        """
        self.round, self.updates, self.shared, self.ledger = round, updates, shared, ledger
        self.usual_norms, self.unsent = UsualNorms(usual), unsent or {}
