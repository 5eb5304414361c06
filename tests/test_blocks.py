"""Matrix views turn tensors into matrices and back."""

from math import prod

import pytest
import torch

from laser_fl.blocks import Block, blocks_of
from laser_fl.config import parse
from laser_fl.errors import ConfigError
from laser_fl.federated.client import ClientGroup
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.transport.messages import read_broadcast, write_broadcast
from tests.helpers import VARIANTS, names, tensors, zero_losses

pytestmark = pytest.mark.shapes


@pytest.mark.parametrize(
    ("shape", "transposed", "matrix"),
    [
        ((5,), False, (1, 5)),
        ((), False, (1, 1)),
        ((4, 6), False, (4, 6)),
        ((4, 6), True, (6, 4)),
        ((4, 2, 3, 3), False, (4, 18)),
    ],
)
@pytest.mark.parametrize("leading", [(), (3,)])
def test_a_matrix_view_goes_there_and_back(shape, transposed, matrix, leading):
    block = Block("x", shape, transposed)
    tensor = torch.arange(block.size * prod(leading), dtype=torch.float32).reshape((*leading, *shape))
    view = block.to_matrix(tensor)
    assert view.shape == (*leading, *matrix)
    assert torch.equal(block.from_matrix(view), tensor)
    if transposed:
        assert torch.equal(view, tensor.mT)


def test_blocks_follow_the_models_order():
    blocks = blocks_of({"w": torch.zeros(2, 3), "b": torch.zeros(2)}, transposed=["w"])
    assert [(b.name, b.size, b.is_vector, b.transposed) for b in blocks] == [
        ("w", 6, False, True),
        ("b", 2, True, False),
    ]


@pytest.mark.parametrize(
    ("weights", "line"),
    [
        ({"a": torch.ones(2), "a#1": torch.ones(2)}, "model: a weight must have a name without #, got 'a#1'"),
        ({"": torch.ones(2)}, "model: a weight must have a name without #, got ''"),
        ({"a": torch.ones(2, 0)}, r"model: the weight 'a' must have values, got the shape \[2, 0\]"),
        ({"a": torch.ones(2).long()}, "model: its weights must be floats of one type, got torch.int64"),
        (
            {"a": torch.ones(2), "b": torch.ones(2).double()},
            "model: its weights must be floats of one type, got torch.float32, torch.float64",
        ),
        ({}, "model: must have weights to train, got none"),
    ],
)
def test_weights_that_cannot_be_sent_are_refused_before_a_run_starts(weights, line):
    with pytest.raises(ConfigError, match=f"^{line}$"):
        Server(parse({"clients": 2}), weights, RoundSchedule(1))


@pytest.mark.parametrize("variant", names(VARIANTS))
def test_a_scalar_is_a_weight_like_any_other(variant):
    """Also on a message's way."""
    shapes, clients = {"temperature": (), "w": (8, 20)}, 3
    start = tensors(shapes, clients=None)
    values = {"clients": clients, "power": 1e3, "momentum": 0.9, "downlink-power": 1e6} | VARIANTS[variant]
    if variant.startswith("laser-adaptive"):
        values["receiver"] = "plain"  # its own gives nothing on so loud a value
    server = Server(parse(values), start, RoundSchedule(4))

    def respond(here, memory):
        drawn = tensors(shapes, clients, seed=here.context.round) if here.context.phase == 0 else None
        return encode_update(here, drawn, zero_losses(clients), memory)

    host = ClientGroup(range(clients), respond)
    while not server.finished:
        server.aggregate([host.answer(read_broadcast(write_broadcast(server.broadcast())))])
    assert not any(line.faults for line in server.ledger)
    moved = server.global_model.weights["temperature"]
    assert moved.shape == ()
    assert moved.isfinite()
    assert moved != start["temperature"]
