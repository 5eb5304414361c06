"""Every scheme equals its slow float64 twin over ten rounds, memory, warm start and noise included."""

from math import prod

import pytest
import torch

from laser_fl.channels.mac import apart, draw_noise
from laser_fl.registry import ALLOCATIONS
from laser_fl.schemes import sketch
from laser_fl.schemes.indices import draw_indices
from laser_fl.schemes.laser import orthonormal
from laser_fl.schemes.laser_adaptive import CORE, LONG, SHORT
from laser_fl.schemes.projection import Projection
from laser_fl.theory import best_share
from tests import oracle
from tests.effort import pairs
from tests.helpers import BITS, SHAPES, VARIANTS, context, scheme, shared_of, tensors, walk_round

ROUNDS, CLIENTS, POWER, VARIANCE = 10, 4, 0.2, 0.5
FACTOR = 0.3
MATRIX = {name: (shape[0], prod(shape[1:])) if len(shape) > 1 else shape for name, shape in SHAPES.items()}
SIZES = [prod(shape) for shape in SHAPES.values()]
EXAMPLES = (1, 30, 5, 1000)  # of the clients, where they weigh by them


def as_matrix(name, tensor):
    return tensor.reshape(MATRIX[name]).numpy()


def first(chosen):
    """The first shared state; where a twin makes use of it, the bases are orthonormal in float64, too."""
    return exactly_orthonormal(shared_of(chosen))


def exactly_orthonormal(shared):
    if not any(name.endswith(CORE) for name in shared):
        return shared
    return {n: t if n.endswith(CORE) else orthonormal(t) for n, t in shared.items()}


def walk(chosen, allocation, weights):
    """Ten rounds through send and receive; returns (updates, noises per round and phase, final memory)."""
    shared, memory, updates, noises = first(chosen), {}, [], []
    for t in range(ROUNDS):
        receptions, client_updates, contexts, memory = walk_round(
            chosen, shared, memory, tensors(seed=t), t, POWER, VARIANCE, ALLOCATIONS.load(allocation), weights=weights
        )
        shared = receptions[-1].shared
        assert sum(one.usage.client_power for one in receptions).max() <= POWER * (1 + 1e-9)
        updates.append([as_matrix(name, receptions[-1].update[name]) for name in SHAPES])
        drawn = [
            list(apart(draw_noise(u.signals, ctx), u.signals).values())
            for u, ctx in zip(client_updates, contexts, strict=True)
        ]
        noises.append([[z.numpy() for z in phase] for phase in drawn])
    return updates, noises, memory


def reshaped(noises):
    """Noise of uncompressed tensors with more axes, as matrices."""
    return [[[z.reshape(z.shape[0], -1) if z.ndim > 2 else z for z in phase] for phase in round] for round in noises]


def bases_of(chosen):
    shared = first(chosen)
    assert len(shared) >= 2
    return [shared[name].numpy() if name in shared else None for name in SHAPES]


def indices(factor=FACTOR):
    blocks, streams = context().blocks, context().streams
    sizes = tuple((b.size, max(1, int(factor * b.size))) for b in blocks)
    return [[drawn.tolist() for drawn in draw_indices(streams, "random-k", t, sizes)] for t in range(ROUNDS)]


def hashes():
    blocks, streams = context().blocks, context().streams
    counts = [max(1, int(FACTOR * b.size)) for b in blocks]
    sizes = tuple((b.size, count) for b, count in zip(blocks, counts, strict=True))
    drawn = [sketch.draw(streams, t, sizes) for t in range(ROUNDS)]
    return [[(buckets.tolist(), signs.tolist(), counts[i]) for i, (buckets, signs) in enumerate(row)] for row in drawn]


def projections():
    """The structured projections as dense matrices."""
    dense = []
    for index, size in enumerate(SIZES):
        drawn = Projection.drawn(context().streams, index, size, int(FACTOR * size))
        dense.append(drawn.project(torch.eye(size, dtype=torch.float64)).mT.numpy())
    return dense


def adaptive(chosen):
    """Its twin, given the first bases and the columns of every round."""
    shared = first(chosen)
    bases = [
        tuple(shared[name + part].numpy() for part in (SHORT, CORE, LONG)) if name + CORE in shared else None
        for name in SHAPES
    ]
    assert len(shared) >= 6
    rounds = [columns(chosen, context(round=t, power=POWER, noise_variance=VARIANCE)) for t in range(ROUNDS)]
    return oracle.Adaptive(bases, rounds, SHAPE_LIST)


def columns(chosen, ctx):
    """Of every block, those that are sent in a round; None where all of it is."""
    assert chosen.weighs(ctx)
    sampled = [block for block in ctx.blocks if chosen.laser.compresses(block)]
    sizes = tuple((max(block.matrix_shape), chosen.columns(block, ctx)) for block in sampled)
    drawn = draw_indices(ctx.streams, "laser columns", ctx.round, sizes)
    named = {block.name: some.tolist() for block, some in zip(sampled, drawn, strict=True)}
    return [named.get(name) for name in SHAPES]


SHAPE_LIST = list(MATRIX.values())
TWINS = {
    "sgd": lambda chosen: oracle.Plain(),
    "z-sgd": lambda chosen: oracle.Plain(),
    "signum": lambda chosen: oracle.Signs(),
    "random-k": lambda chosen: oracle.Chosen(indices(), SHAPE_LIST),
    "sketch": lambda chosen: oracle.Buckets(hashes(), SHAPE_LIST),
    "a-dsgd": lambda chosen: oracle.Projected(projections(), SHAPE_LIST, oracle.lmmse),
    "a-dsgd amp": lambda chosen: oracle.Projected(projections(), SHAPE_LIST, oracle.amp),
    "d-dsgd": lambda chosen: oracle.Digital(BITS, SHAPE_LIST),
    "random-k wiener": lambda chosen: oracle.Chosen(
        indices(best_share(POWER, VARIANCE, CLIENTS, sum(SIZES))), SHAPE_LIST
    ),
    "laser-adaptive": adaptive,
    "laser-adaptive without a rank": adaptive,
    "laser": lambda chosen: oracle.Alternating(bases_of(chosen)),
    "laser two-phase": lambda chosen: oracle.TwoPhase(bases_of(chosen), 0.4),
    "laser one-shot": lambda chosen: oracle.OneShot(bases_of(chosen), SHAPE_LIST),
}
RANKED = [name for name, keys in VARIANTS.items() if name.startswith("laser") and "rank" not in keys]


def test_every_scheme_has_a_twin():
    assert set(TWINS) == set(VARIANTS)


@pytest.mark.parametrize(("name", "allocation"), pairs(VARIANTS, ALLOCATIONS))
def test_a_scheme_equals_its_twin(name, allocation):
    assert_is_the_twin(name, allocation, rank=2)


@pytest.mark.parametrize(("name", "rank"), pairs(RANKED, [1, 3]))
def test_a_scheme_equals_its_twin_at_other_ranks(name, rank):
    assert_is_the_twin(name, "signal-norm", rank)


@pytest.mark.parametrize(("name", "allocation"), pairs(VARIANTS, ["min-mse", "signal-norm", "gradient-norm"]))
def test_a_scheme_equals_its_twin_where_clients_weigh_by_their_examples(name, allocation):
    assert_is_the_twin(name, allocation, rank=2, examples=EXAMPLES)


def assert_is_the_twin(name, allocation, rank, examples=None):
    given = {key.replace("-", "_"): value for key, value in VARIANTS[name].items() if key != "strategy"}
    chosen = scheme(name, **({"rank": rank, "compression_factor": FACTOR, "phase_split": 0.4} | given))
    weights = examples and torch.tensor([CLIENTS * n / sum(examples) for n in examples], dtype=torch.float64)
    updates, noises, memory = walk(chosen, allocation, weights)
    gradients = [
        [[as_matrix(n, g[i]) for n, g in tensors(seed=t).items()] for i in range(CLIENTS)] for t in range(ROUNDS)
    ]
    expected, remembered = oracle.simulate(
        TWINS[name](chosen), gradients, reshaped(noises), POWER, VARIANCE**0.5, allocation, sizes=examples
    )
    for got, wanted in zip(updates, expected, strict=True):
        for u, w in zip(got, wanted, strict=True):
            torch.testing.assert_close(torch.from_numpy(u), torch.from_numpy(w), rtol=1e-8, atol=1e-10)
    assert bool(memory) == chosen.traits.error_feedback
    for i in range(CLIENTS if memory else 0):
        for b, n in enumerate(SHAPES):
            client_state = torch.from_numpy(as_matrix(n, memory[n][i]))
            torch.testing.assert_close(client_state, torch.from_numpy(remembered[i][b]), rtol=1e-8, atol=1e-10)
