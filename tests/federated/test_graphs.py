"""A gradient that is repeated as a graph is the gradient; a stand-in of CUDA's graphs calls the function again."""

import math
import warnings

import pytest
import torch

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.task import Task
from laser_fl.data.trees import tensors_of
from laser_fl.errors import ConfigError
from laser_fl.federated import differentiation, trial
from laser_fl.federated.differentiation import Differentiation
from laser_fl.federated.graphs import KEPT, Graphed
from laser_fl.federated.setup import setup_of
from laser_fl.federated.traced import CALLS
from laser_fl.federated.trial import fastest, seconds_per_client, way_of
from laser_fl.models.gpt2 import gpt2
from laser_fl.models.resnet18 import resnet18
from laser_fl.models.small import mlp

pytestmark = pytest.mark.usefixtures("traced")

replayed = []


def captured_here(function):
    """Replay a function by calling it again, its outputs in the same memory."""
    function()
    outputs = function()

    def replay():
        replayed.append(outputs)
        for static, tensor in zip(tensors_of(outputs), tensors_of(function()), strict=True):
            static.copy_(tensor)

    return replay, outputs


def refused_here(function):
    raise RuntimeError("operation not permitted when stream is capturing\nand more")


@pytest.fixture
def graphs(monkeypatch):
    """Let graphs be captured by the stand-in."""
    replayed.clear()
    monkeypatch.setattr(
        differentiation, "Graphed", lambda function, failed: Graphed(function, pytest.fail, capture=captured_here)
    )


def task_of(builder, inputs, classes, **facts):
    generator = torch.Generator().manual_seed(0)
    data = Examples(inputs(generator), torch.randint(classes, (24,), generator=generator))
    return Task(data, data, {"mlp": builder}, fixed={"classes": classes}, **facts)


def images():
    return task_of(lambda: resnet18(width=4), lambda g: torch.randn(24, 3, 8, 8, generator=g), 10)


def tables(**facts):
    return task_of(lambda: mlp(6, 3), lambda g: torch.randn(24, 6, generator=g), 3, **facts)


def batches(task, network, seed, size=4, own_weights=False):
    """Draw the arguments of one client's gradient."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randint(24, (1, size), generator=generator)
    weights = {n: w + 0.01 * torch.randn(w.shape, generator=generator) for n, w in network.weights.items()}
    weights = {n: w.unsqueeze(0) for n, w in weights.items()} if own_weights else weights
    buffers = {n: torch.rand(1, *b.shape, generator=generator) for n, b in network.buffers.items()}
    return weights, own_weights, buffers, *task.train.at(rows)


@pytest.mark.parametrize("own_weights", [False, True])
@pytest.mark.parametrize("task", [images(), tables()], ids=["images", "tables"])
def test_gives_each_client_its_own_results_with_short_batches_between(task, own_weights, graphs):
    config = parse({})
    network = task.network(config)
    network.module.train()
    plain, graph = (Differentiation(task, network, config, graph=on) for on in (False, True))
    results = []
    for call in range(3 * CALLS):
        args = batches(task, network, call, 3 if call % 3 == 2 else 4, own_weights)
        given = [t.clone() for t in tensors_of(args[0])]
        results.append((plain(*args), graph(*args)))
        assert all(map(torch.equal, given, tensors_of(args[0])))
    assert len(replayed) > CALLS
    for expected, computed in results:  # at the end: later calls leave earlier results alone
        for part in ("gradients", "buffers"):
            pairs = zip(getattr(expected, part).values(), getattr(computed, part).values(), strict=True)
            assert all(torch.equal(a, b) and b.is_contiguous() for a, b in pairs)
        assert torch.equal(expected.losses, computed.losses)


def test_weights_that_step_in_place_are_read_anew():
    graphed = Graphed(lambda weights: {"double": 2 * weights["w"]}, capture=captured_here)
    weights = {"w": torch.zeros(3)}
    for _ in range(CALLS + 2):
        weights["w"] += 1
        assert torch.equal(graphed(weights)["double"], 2 * weights["w"])


def test_few_graphs_are_kept():
    graphed = Graphed(lambda x: 2 * x, capture=captured_here)
    for _ in range(CALLS):
        for size in range(1, KEPT + 4):
            assert torch.equal(graphed(torch.ones(size)), torch.full((size,), 2.0))
    assert len(graphed._traces) == KEPT


@pytest.mark.parametrize("asked", [True, False])
def test_a_function_that_no_graph_can_hold_is_called_and_that_is_said_once_where_a_graph_was_asked_for(asked):
    """CUDA itself refuses here: there is no GPU."""
    task = tables()
    config = parse({"client-batching": "graph" if asked else "auto"})
    network = task.network(config)
    plain, graph = (Differentiation(task, network, config, graph=on) for on in (False, True))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for call in range(3 * CALLS):
            args = batches(task, network, call, 3 + call % 2)
            assert torch.equal(plain(*args).losses, graph(*args).losses)
    assert len(warned) == asked
    if asked:
        assert str(warned[0].message).startswith("client-batching: clients go one by one without a CUDA graph: ")
        assert "\n" not in str(warned[0].message)


def test_a_refusal_is_not_tried_again():
    reasons = []
    graphed = Graphed(lambda x: x + 1, reasons.append, refused_here)
    for size in (1, 2):
        for _ in range(CALLS + 1):
            assert torch.equal(graphed(torch.ones(size)), torch.full((size,), 2.0))
    assert len(reasons) == 1
    assert reasons[0].startswith("operation not permitted when stream is capturing")


class TestWays:
    @pytest.mark.parametrize(
        ("seconds", "way"),
        [
            ({"loop": 1.0, "graph": 0.5, "vmap": 0.7}, "graph"),
            ({"loop": 1.0, "graph": 0.8, "vmap": 0.7}, "vmap"),
            ({"loop": 1.0, "graph": 0.98, "vmap": 1.2}, "loop"),
            ({"loop": 1.0, "graph": math.inf}, "loop"),
            ({"loop": math.inf, "graph": math.inf, "vmap": math.inf}, "loop"),
        ],
    )
    def test_the_fastest_is_taken_if_it_is_clearly_faster_than_the_loop(self, seconds, way):
        assert fastest(seconds) == way

    @pytest.mark.parametrize(("way", "calls"), [("loop", 1), ("vmap", 3)])
    def test_seconds_are_those_of_one_client(self, way, calls):
        task, config = tables(), parse({"batch-size": 4})
        network = task.network(config)
        assert seconds_per_client(task, network, config, way, calls, lambda call: call() and 6.0) == 6 / calls

    def test_a_way_that_fails_takes_for_ever(self):
        def out_of_memory(call):
            raise torch.OutOfMemoryError

        task, config = tables(), parse({"batch-size": 4})
        assert seconds_per_client(task, task.network(config), config, "loop", 1, out_of_memory) == math.inf

    @pytest.mark.parametrize(
        ("keys", "measured"),
        [
            ({}, ["loop", "graph", "vmap"]),
            ({"precision": "bfloat16"}, ["loop", "graph"]),
            ({"precision": "tf32"}, ["loop", "graph", "vmap"]),
        ],
    )
    def test_a_gpu_measures_what_is_possible(self, keys, measured, monkeypatch):
        seen = []
        monkeypatch.setattr(trial, "_device", lambda network: torch.device("cuda"))
        monkeypatch.setattr(trial, "seconds_per_client", lambda *args: seen.append(args[3:]) or len(seen))
        task, config = tables(), parse(keys)
        assert way_of(task, task.network(config), config, 16, 8) == "loop"
        assert seen == [(way, 8 if way == "vmap" else 1) for way in measured]

    def test_a_gpu_repeats_bit_by_bit_without_a_measurement(self, monkeypatch):
        monkeypatch.setattr(trial, "_device", lambda network: torch.device("cuda"))
        config = parse({"deterministic": True})
        assert way_of(tables(), tables().network(config), config, 16, 8) == "graph"
        own = tables(loss=torch.nn.functional.cross_entropy)
        assert way_of(own, own.network(config), config, 16, 8) == "loop"

    @pytest.mark.parametrize(("batching", "way"), [("auto", "vmap"), ("vmap", "vmap"), ("loop", "loop")])
    def test_a_cpu_measures_nothing(self, batching, way):
        config = parse({"client-batching": batching})
        assert way_of(tables(), tables().network(config), config, 16, 8) == way

    def test_a_model_that_draws_has_no_graph(self):
        config = parse({"client-batching": "graph"})
        network = gpt2(16, 1, 1, 4, 4, dropout=0.1)
        assert not network.repeats
        with pytest.warns(UserWarning, match="without a CUDA graph: the model draws$"):
            assert way_of(tables(), network, config, 4, 4) == "loop"

    def test_a_cpu_has_no_graphs(self):
        with pytest.raises(
            ConfigError, match="client-batching: must be auto, vmap or loop for device cpu, got 'graph'"
        ):
            setup_of(parse({"client-batching": "graph"}), tables())
