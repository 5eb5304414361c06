"""What several tests need to set a scene. Imported by tests only, after the type-checking hook."""

import math

import torch

from laser_fl.blocks import blocks_of
from laser_fl.channels.base import Links
from laser_fl.config import parse
from laser_fl.federated.client import Host
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import Broadcast, receive, send
from laser_fl.power.allocations import signal_norm
from laser_fl.registry import EXCHANGES, RECOVERIES, SCHEMES, from_fields
from laser_fl.rng import Streams
from laser_fl.schemes.base import Context, Heard
from simulations import sweep

BITS, USES = 150.0, 100  # what a digital link carries, in how many channel uses
SHAPES = {"hidden": (12, 10), "hidden bias": (12,), "kernel": (8, 2, 3, 3), "out": (3, 20)}

# Every scheme with every option that is a table of its own, each once: what shared tests run over. Under less noise,
# laser-adaptive would be LASER there, and nothing of its own were tested.
LOUD = {"noise-variance": 1e4}
VARIANTS = {
    **{name: {"strategy": name} for name in SCHEMES},
    **{f"laser {name}": {"strategy": "laser", "factor-exchange": name} for name in EXCHANGES if name != "alternating"},
    **{f"a-dsgd {name}": {"strategy": "a-dsgd", "recovery": name} for name in RECOVERIES if name != "lmmse"},
    "random-k wiener": {"strategy": "random-k", "receiver": "wiener", "compression-factor": 0},
    "laser-adaptive": {"strategy": "laser-adaptive", **LOUD},
    "laser-adaptive without a rank": {"strategy": "laser-adaptive", "rank": 0, **LOUD},
}
# A run of laser-adaptive on MNIST that sends columns first, and is LASER at its end.
BECOMES_LASER = {"strategy": "laser-adaptive", "clients": 5, "power": 8.0, "power-policy": "steps-up"}


def tensors(shapes=SHAPES, clients=4, seed=0, dtype=torch.float64, scale=1.0):
    """Normal values per name, with a leading clients axis (none for clients=None)."""
    streams = Streams(seed)
    leading = () if clients is None else (clients,)
    return {
        name: scale * torch.randn(leading + shape, dtype=dtype, generator=streams.generator(name))
        for name, shape in shapes.items()
    }


def context(shapes=SHAPES, clients=4, round=0, power=1.0, noise_variance=1.0, seed=0, phase=0):
    blocks = blocks_of(tensors(shapes, clients=None))
    noise_std = 0.0 if math.isinf(power) else noise_variance**0.5
    everyone = tuple(range(clients))
    return Context(
        blocks=blocks,
        round=round,
        phase=phase,
        updates=round,
        power=power,
        noise_std=noise_std,
        clients=clients,
        present=everyone,
        speakers=everyone,
        averaged=clients,
        bits=(BITS,) * clients,
        streams=Streams(seed),
    )


def scheme(name, **options):
    """A scheme by the name of its strategy or of one of its VARIANTS."""
    config = parse(VARIANTS[name] | {key.replace("_", "-"): value for key, value in options.items()})
    return from_fields(SCHEMES.load(config.strategy), config)


def silent_losses(clients=4):
    return torch.zeros(clients, dtype=torch.float64)


def exact(signals):
    """What a perfect channel would hear."""
    means = {name: signal.mean(dim=0) for name, signal in signals.items()}
    return Heard(means, {name: torch.zeros((), dtype=torch.float64) for name in signals})


def shared_of(scheme, shapes=SHAPES, dtype=torch.float64, round=0):
    """The state that a scheme shares before `round`, after rounds of normal gradients heard exactly."""
    ctx = context(shapes)
    shared = {name: tensor.to(dtype) for name, tensor in scheme.init(ctx.blocks, ctx.streams).items()}
    for t in range(round):
        for phase in range(len(scheme.promises.phase_shares)):
            ctx = context(shapes, round=t, phase=phase)
            signals, _ = scheme.encode(tensors(shapes, seed=t, dtype=dtype), shared, ctx)
            _, shared = scheme.decode(exact(signals), shared, ctx)
    return shared


def walk_round(
    scheme, shared, memory, gradients, round=0, power=1.0, noise_variance=1.0, allocation=signal_norm, shapes=SHAPES
):
    """All phases of one round through send and receive.

    Returns (receptions per phase, uplinks per phase, contexts per phase, memory).
    """
    clients = len(next(iter(gradients.values())))
    receptions, uplinks, contexts = [], [], []
    for phase, share in enumerate(scheme.promises.phase_shares):
        ctx = context(shapes, clients, round, power * share, noise_variance, phase=phase)
        told = Broadcast({}, shared, scheme, ctx)
        uplink, memory = send(told, gradients if phase == 0 else None, silent_losses(clients), memory)
        reception = receive(uplink, shared, scheme, Links.ideal(clients), allocation, ctx, channel_uses=USES)
        shared = reception.shared
        receptions.append(reception)
        uplinks.append(uplink)
        contexts.append(ctx)
    return receptions, uplinks, contexts, memory


def assert_alike(actual, expected, relative=1e-5, scale=1.0):
    """Tensors by name are equal up to rounding: ‖difference‖ <= relative · scale · ‖expected‖, of each.

    Single values may lose all their digits where large ones cancel; a norm does not, on whatever machine.
    """
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        difference, norm = (float(t.double().norm()) for t in (actual[name] - tensor, tensor))
        assert difference <= relative * scale * norm, f"{name}: {difference:.2g} beside a norm of {norm:.2g}"


def absorb(training, uplink):
    """Let the server take what all clients present say at once."""
    told = training.broadcast()
    return training.absorb([Reply(told.receipts.exchange, told.context.present, uplink)])


def answer(broadcast, held, clients, respond):
    """A host's answer and what is held afterwards: (reply, held)."""
    host = Host(clients, respond, held)
    return host.answer(broadcast), host.held


def names(table):
    """A table's names, for parametrize."""
    return list(table)


def one_after_the_other(waiting, show, address, cpus, gpus):
    """Stands for Ray, which takes ten seconds to start, where a test is about something else."""
    failed = {}
    for run in waiting:
        if reason := sweep._carry_out(sweep._here(run)):
            failed[run.label] = reason
        show(run, reason)
    return failed
