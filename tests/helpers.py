"""Helpers of several tests. Imported by tests only, after the type-checking hook."""

import math

import torch

from laser_fl.blocks import blocks_of
from laser_fl.callbacks import Callback
from laser_fl.channels.base import ChannelState
from laser_fl.config import parse
from laser_fl.errors import LaserError
from laser_fl.federated.broadcast import Broadcast
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import aggregate_updates, encode_update
from laser_fl.power.allocations import signal_norm
from laser_fl.registry import FACTOR_EXCHANGES, RECOVERIES, SCHEMES
from laser_fl.rng import RandomStreams
from laser_fl.schemes.base import Received, RoundContext
from simulations import sweep

BITS, USES = 150.0, 100  # capacity of a digital link in bits, and its channel uses
SHAPES = {"hidden": (12, 10), "hidden bias": (12,), "kernel": (8, 2, 3, 3), "out": (3, 20)}

# Every scheme with every option that is a table of its own, each once; shared tests run over them. Under less noise,
# laser-adaptive would be LASER there, and nothing of its own would be tested.
LOUD = {"noise-variance": 1e4}
VARIANTS = {
    **{name: {"strategy": name} for name in SCHEMES},
    **{
        f"laser {name}": {"strategy": "laser", "factor-exchange": name}
        for name in FACTOR_EXCHANGES
        if name != "alternating"
    },
    **{f"a-dsgd {name}": {"strategy": "a-dsgd", "recovery": name} for name in RECOVERIES if name != "lmmse"},
    "random-k wiener": {"strategy": "random-k", "receiver": "wiener", "compression-factor": 0},
    "laser-adaptive": {"strategy": "laser-adaptive", **LOUD},
    "laser-adaptive without a rank": {"strategy": "laser-adaptive", "rank": 0, **LOUD},
}
# A run of laser-adaptive on MNIST that sends columns first, and is LASER at its end.
BECOMES_LASER = {"strategy": "laser-adaptive", "clients": 5, "power": 8.0, "power-policy": "steps-up"}


def tensors(shapes=SHAPES, clients=4, seed=0, dtype=torch.float64, scale=1.0):
    """Draw normal values per name, with a leading clients axis (none for clients=None)."""
    streams = RandomStreams(seed)
    leading = () if clients is None else (clients,)
    return {
        name: scale * torch.randn(leading + shape, dtype=dtype, generator=streams.generator(name))
        for name, shape in shapes.items()
    }


def context(shapes=SHAPES, clients=4, round=0, power=1.0, noise_variance=1.0, seed=0, phase=0):
    """Return the context of an exchange in which all clients transmit."""
    blocks = blocks_of(tensors(shapes, clients=None))
    noise_std = 0.0 if math.isinf(power) else noise_variance**0.5
    everyone = tuple(range(clients))
    return RoundContext(
        blocks=blocks,
        round=round,
        phase=phase,
        updates=round,
        power=power,
        noise_std=noise_std,
        clients=clients,
        participants=everyone,
        transmitters=everyone,
        averaged=clients,
        bits=(BITS,) * clients,
        streams=RandomStreams(seed),
    )


def scheme(name, **options):
    """Build a scheme by the name of its strategy or of one of its VARIANTS."""
    config = parse(VARIANTS[name] | {key.replace("_", "-"): value for key, value in options.items()})
    return SCHEMES.build(config.strategy, config)


def zero_losses(clients=4):
    """Return losses for a test that needs none."""
    return torch.zeros(clients, dtype=torch.float64)


def exact(signals):
    """Return the estimates over a noiseless channel."""
    means = {name: signal.mean(dim=0) for name, signal in signals.items()}
    return Received(means, {name: torch.zeros((), dtype=torch.float64) for name in signals})


def shared_of(scheme, shapes=SHAPES, dtype=torch.float64, round=0):
    """Return the state that a scheme shares before `round`, after rounds of normal gradients received exactly."""
    ctx = context(shapes)
    shared = {name: tensor.to(dtype) for name, tensor in scheme.init(ctx.blocks, ctx.streams).items()}
    for t in range(round):
        for phase in range(len(scheme.traits.phase_shares)):
            ctx = context(shapes, round=t, phase=phase)
            signals, _ = scheme.encode(tensors(shapes, seed=t, dtype=dtype), shared, ctx)
            _, shared = scheme.decode(exact(signals), shared, ctx)
    return shared


def walk_round(
    scheme,
    shared,
    memory,
    gradients,
    round=0,
    power=1.0,
    noise_variance=1.0,
    allocation=signal_norm,
    shapes=SHAPES,
    weights=None,
):
    """Carry one round through all its phases of `encode_update` and `aggregate_updates`.

    Args:
        scheme: to test.
        shared: its shared state.
        memory: of the clients.
        gradients: by name, (clients, *shape).
        round: its number.
        power: budget of the round.
        noise_variance: per value.
        allocation: split of the power over the blocks.
        shapes: of the model's blocks.
        weights: of the clients in the mean; None: all weigh 1.

    Returns:
        (aggregation results, client updates and contexts, each per phase; memory).
    """
    clients = len(next(iter(gradients.values())))
    results, client_updates, contexts = [], [], []
    for phase, share in enumerate(scheme.traits.phase_shares):
        ctx = context(shapes, clients, round, power * share, noise_variance, phase=phase)
        broadcast, drawn = Broadcast(scheme, shared, ctx), gradients if phase == 0 else None
        client_update, memory = encode_update(broadcast, drawn, zero_losses(clients), memory)
        result = aggregate_updates(
            client_update, shared, scheme, ChannelState.ideal(clients), allocation, ctx, USES, weights
        )
        shared = result.shared
        results.append(result)
        client_updates.append(client_update)
        contexts.append(ctx)
    return results, client_updates, contexts, memory


def assert_alike(actual, expected, relative=1e-5, scale=1.0):
    """Assert that tensors by name are equal up to rounding: ‖difference‖ <= relative · scale · ‖expected‖, for each.

    Single values may lose all their digits where large ones cancel; a norm does not, on any machine.
    """
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        difference, norm = (float(t.double().norm()) for t in (actual[name] - tensor, tensor))
        assert difference <= relative * scale * norm, f"{name}: {difference:.2g} beside a norm of {norm:.2g}"


def aggregate(server, client_update):
    """Aggregate the update of all participants, as one reply."""
    broadcast = server.broadcast()
    reply = Reply(broadcast.acknowledgements.exchange, broadcast.context.participants, client_update)
    return server.aggregate([reply])


def answer(broadcast, client_state, clients, respond):
    """Let a client group answer a broadcast. Returns (reply, next client state)."""
    group = ClientGroup(clients, respond, client_state)
    return group.answer(broadcast), group.client_state


def names(table):
    """Return a table's names, for parametrize."""
    return list(table)


def one_after_the_other(waiting, show, address, cpus, gpus):
    """Replace Ray, which takes ten seconds to start, in tests of something else."""
    failed = {}
    for run in waiting:
        if reason := sweep._carry_out(sweep._here(run)):
            failed[run.label] = reason
        show(run, reason)
    return failed


class StoppedError(LaserError):
    """The error of a run that `Stop` ends."""


class Stop(Callback):
    """Ends a run after a round as an error would."""

    def __init__(self, round):
        self.round = round

    def on_round(self, server, seconds):
        if server.round == self.round:
            raise StoppedError
