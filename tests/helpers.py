"""What several tests need to set a scene. Imported by tests only, after the type-checking hook."""

import torch

from laser_fl.blocks import blocks_of
from laser_fl.config import parse
from laser_fl.schemes import SCHEMES
from laser_fl.schemes.base import Context, Heard
from laser_fl.streams import Streams
from laser_fl.tables import from_fields

SHAPES = {"hidden": (12, 10), "hidden bias": (12,), "kernel": (8, 2, 3, 3), "out": (3, 20)}


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
    return Context(blocks, round, phase, power, noise_variance**0.5, clients, Streams(seed))


def scheme(name, **options):
    return from_fields(SCHEMES.load(name), parse({"strategy": name, **options}))


def exact(signals):
    """What a perfect channel would hear."""
    means = {name: signal.mean(dim=0) for name, signal in signals.items()}
    return Heard(means, {name: torch.zeros((), dtype=torch.float64) for name in signals})


def shared_of(scheme, shapes=SHAPES, dtype=torch.float64, round=0):
    """The state that a scheme shares before `round`, after rounds of normal gradients."""
    ctx = context(shapes)
    shared = {name: tensor.to(dtype) for name, tensor in scheme.init(ctx.blocks, ctx.streams).items()}
    for t in range(round):
        ctx = context(shapes, round=t)
        signals, _ = scheme.encode(tensors(shapes, seed=t, dtype=dtype), shared, ctx)
        _, shared = scheme.decode(exact(signals), shared, ctx)
    return shared


def names(table):
    """A table's names, for parametrize."""
    return list(table)
