"""The cases in which schemes are checked, and the exchanges of a scheme in a case, without noise."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import torch

from laser_fl.blocks import Block, Tensors
from laser_fl.power.split import phase_share
from laser_fl.rng import RandomStreams
from laser_fl.schemes.approximation import Approximation
from laser_fl.schemes.base import Received, RoundContext, Scheme
from laser_fl.testing.promises import Inspector

ROUNDS = (0, 2, 3)  # that give an update; in round 1 nobody transmits
USES = 100  # of the channel, by digital schemes
CAPACITIES = (150.0, 1e4, 1e6)  # bits of a digital link; the first into which a message fits is taken
MODELS = (
    (Block("hidden", (12, 10)), Block("hidden bias", (12,)), Block("kernel", (8, 2, 3, 3)), Block("out", (3, 20))),
    (Block("tall", (40, 4)), Block("turned", (9, 30), transposed=True), Block("square", (11, 11))),
    (Block("bias", (5,)), Block("scale", (1,)), Block("temperature", ())),
)
SETTINGS = (
    (4, torch.float64, 1.0),
    (1, torch.float32, 1.0),
    (4, torch.float32, math.inf),
    (4, torch.float64, 1e-4),
    (1, torch.float64, 1e4),
)


@dataclass(frozen=True)
class Case:
    """A model, its clients, their precision and power.

    power: of a round, linear, at a noise variance of 1; inf: no noise.
    """

    blocks: tuple[Block, ...]
    clients: int
    dtype: torch.dtype
    power: float
    seed: int

    def context(self, scheme: Scheme, round: int, phase: int) -> RoundContext:
        """Make the context of an exchange in which all clients transmit.

        Args:
            scheme: decides the share of the round's power, and the bits of a digital link.
            round: one of ROUNDS.
            phase: counted from 0.
        """
        everyone = tuple(range(self.clients))
        fitting = (bits for bits in CAPACITIES if scheme.transmits(bits, self.blocks))
        ctx = RoundContext(
            blocks=self.blocks,
            round=round,
            phase=phase,
            updates=ROUNDS.index(round),
            power=self.power,
            noise_std=0.0 if math.isinf(self.power) else 1.0,
            clients=self.clients,
            participants=everyone,
            transmitters=everyone,
            averaged=self.clients,
            bits=(next(fitting, math.inf),) * self.clients,
            streams=RandomStreams(self.seed),
        )
        return replace(ctx, power=self.power * phase_share(scheme, ctx))

    def gradients(self, round: int) -> Tensors:
        """Draw the clients' gradients of a round, of different sizes, (clients, *shape)."""
        drawn = {}
        for block in self.blocks:
            generator = RandomStreams(self.seed).generator(f"gradients of {block.name}", round)
            values = torch.randn(self.clients, *block.shape, generator=generator, dtype=torch.float64)
            drawn[block.name] = (values * block.size**0.5).to(self.dtype)
        return drawn

    def inspector(self, scheme: Scheme, where: str = "") -> Inspector:
        """Return the judge of a scheme in this case."""
        precision = str(self.dtype).removeprefix("torch.")
        clients = f"{self.clients} client" + ("s" if self.clients > 1 else "")
        return Inspector(
            scheme, f"{where}{clients}, {precision}, power {self.power:g}, model of '{self.blocks[0].name}'"
        )


CASES = tuple(Case(blocks, *setting, seed=seed) for seed, (blocks, setting) in enumerate(product(MODELS, SETTINGS)))


@dataclass(frozen=True)
class Exchange:
    """An exchange without noise, with copies of all that went in."""

    scheme: Scheme
    inspector: Inspector
    ctx: RoundContext
    corrected: Tensors
    shared: Tensors
    signals: Tensors
    approximations: dict[str, Approximation]
    received: Received
    update: Tensors | None
    next_shared: Tensors


def initial(scheme: Scheme, case: Case) -> Tensors:
    """Return the state that a scheme shares before the first round, in the case's precision."""
    inspector = case.inspector(scheme)
    drawn = scheme.init(case.blocks, RandomStreams(case.seed))
    again = scheme.init(case.blocks, RandomStreams(case.seed))
    inspector.require_same("init must draw the same from the same streams", again, drawn)
    return {name: tensor.to(case.dtype) for name, tensor in drawn.items()}


def rounds(scheme: Scheme, case: Case) -> Iterator[list[Exchange]]:
    """Make the exchanges of some rounds, a list of the phases for each; the shared state goes on."""
    shared = initial(scheme, case)
    for round in ROUNDS:
        corrected, exchanges = case.gradients(round), []
        for phase in range(len(scheme.traits.phase_shares)):
            exchanges.append(_exchange(scheme, case, case.context(scheme, round, phase), corrected, shared))
            shared = exchanges[-1].next_shared
        yield exchanges


def _exchange(scheme: Scheme, case: Case, ctx: RoundContext, corrected: Tensors, shared: Tensors) -> Exchange:
    inspector = case.inspector(scheme, f"round {ctx.round}, phase {ctx.phase}, ")
    with inspector.no_errors():
        _require_state(scheme, inspector, ctx, shared)
        signals, approximations = _encode(scheme, inspector, ctx, corrected, shared)
        received = exact(signals)
        update, next_shared = _decode(scheme, inspector, ctx, received, shared)
        return Exchange(
            scheme, inspector, ctx, corrected, shared, signals, approximations, received, update, next_shared
        )


def _require_state(scheme: Scheme, inspector: Inspector, ctx: RoundContext, shared: Tensors) -> None:
    declared = {name: shape for block in ctx.blocks for name, shape in scheme.shared_shapes(block, ctx).items()}
    made = {name: tuple(tensor.shape) for name, tensor in shared.items()}
    inspector.require(declared == made, "shared_shapes must declare the shared state", f"{declared} beside {made}")
    inspector.require(scheme.fits(shared, ctx), "fits must be True of the shared state", made)


def _encode(
    scheme: Scheme, inspector: Inspector, ctx: RoundContext, corrected: Tensors, shared: Tensors
) -> tuple[Tensors, dict[str, Approximation]]:
    given, state = copied(corrected), copied(shared)
    encoded: Any = scheme.encode(given, state, ctx)
    pair = isinstance(encoded, tuple) and len(encoded) == 2 and all(isinstance(part, dict) for part in encoded)
    inspector.require(pair, "encode must return two dicts, signals and approximations", type(encoded).__name__)
    inspector.require_same("encode must not change the corrected gradient", given, corrected)
    inspector.require_same("encode must not change the shared state", state, shared)
    signals, approximations = encoded
    _require_signals(scheme, inspector, ctx, signals)
    if scheme.traits.error_feedback:
        used = {tensor.untyped_storage().data_ptr() for tensor in given.values()}
        sharing = [name for name, signal in signals.items() if signal.untyped_storage().data_ptr() in used]
        promise = "with error feedback no signal may share its storage with the corrected gradient"
        inspector.require(not sharing, promise, f"signals {sharing}")
    return copied(signals), approximations


def _require_signals(scheme: Scheme, inspector: Inspector, ctx: RoundContext, signals: Tensors) -> None:
    declared = {name: shape for block in ctx.blocks for name, shape in scheme.shapes(block, ctx).items()}
    made = {name: tuple(signal.shape) for name, signal in signals.items()}
    rows = {name: (len(ctx.transmitters), *shape) for name, shape in declared.items()}
    promise = "shapes must declare the signals of encode, in their order"
    inspector.require(list(rows.items()) == list(made.items()), promise, f"{rows} beside {made}")


def _decode(
    scheme: Scheme, inspector: Inspector, ctx: RoundContext, received: Received, shared: Tensors
) -> tuple[Tensors | None, Tensors]:
    given, state = Received(copied(received.values), dict(received.noise_std)), copied(shared)
    decoded: Any = scheme.decode(given, state, ctx)
    inspector.require_same("decode must not change the received values", given.values, received.values)
    inspector.require_same("decode must not change the shared state", state, shared)
    pair = isinstance(decoded, tuple) and len(decoded) == 2 and isinstance(decoded[1], dict)
    inspector.require(pair, "decode must return an update or None, and the shared state", type(decoded).__name__)
    update, next_shared = decoded
    last = ctx.phase == len(scheme.traits.phase_shares) - 1
    expected = {block.name: block.shape for block in ctx.blocks} if last else None
    made = None if update is None else {name: tuple(tensor.shape) for name, tensor in update.items()}
    promise = "the update must have every block in its shape, and be None before the last phase"
    inspector.require(made == expected, promise, f"{made} beside {expected}")
    return None if update is None else copied(update), copied(next_shared)


def exact(signals: Tensors) -> Received:
    """Return the estimates over a channel without noise."""
    means = {name: signal.mean(dim=0) for name, signal in signals.items()}
    return Received(means, {name: torch.zeros((), dtype=torch.float64) for name in signals})


def copied(tensors: Tensors) -> Tensors:
    """Copy tensors, each contiguous."""
    return {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}


def dense(approximations: dict[str, Approximation], corrected: Tensors) -> Tensors:
    """Return approximations as tensors like the corrected gradients."""
    zeros = {name: torch.zeros_like(corrected[name]) for name in approximations}
    for name, approximation in approximations.items():
        approximation.add_to_(zeros[name])
    return zeros
