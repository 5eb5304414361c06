"""Every benchmark runs and says what it measured; how fast is nobody's test."""

import json

import pytest
import torch
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import prepare
from simulations.benchmarks import BENCHMARKS, peers
from simulations.benchmarks.base import apart
from simulations.benchmarks.compression import BLOCK, Hook, Ours
from simulations.benchmarks.flower import Case
from simulations.benchmarks.rounds import Floor, whole_round
from simulations.benchmarks.timing import PeakMemory, in_turn
from simulations.cli import app

ROUNDS = {
    "strategy",
    "clients",
    "batch_size",
    "client_batching",
    "device",
    "threads",
    "rounds",
    "floor_ms",
    "round_ms",
    "ratio",
    "peak_mb",
    "peak_device_mb",
    "waits",
}
PEERS = {
    "case", "side", "version", "status", "turns", "cpu_ms", "rounds_per_cpu_second", "ratio",
    "ratio_quartile_1", "ratio_quartile_3",
}  # fmt: skip
FIELDS = {
    "mnist": ROUNDS,
    "resnet18": ROUNDS,
    "cifar10": ROUNDS,
    "gpt2-full": ROUNDS,
    "gpt2-small": ROUNDS,
    "gpt2": ROUNDS,
    "growth": ROUNDS | {"bound_mb"},
    "population": {
        "strategy", "model", "clients", "cohort", "batch_size", "threads", "rounds", "all_ms", "round_ms", "ratio",
        "peak_mb",
    },
    "peers": PEERS,
    "peers-local": PEERS,
    "compression": {
        "rows", "columns", "rank", "clients", "device", "threads", "rounds", "peer_ms", "round_ms", "ratio",
    },
    "flower": {
        "model", "strategy", "downlink", "gradients", "nodes", "rounds", "empty_ms", "round_ms", "fedavg_ms",
        "above_ms", "ratio", "empty_cpu_ms", "round_cpu_ms", "fedavg_cpu_ms", "cpu_ratio",
    },
}  # fmt: skip


# They do what mnist and gpt2-small do, with networks whose full presets are tested, and what the real runtime does.
LARGE = ("resnet18", "cifar10", "gpt2", "gpt2-full", "peers-local", "flower")
CASES = {  # fewer and smaller ones: whether a benchmark runs does not depend on it
    "growth": ("simulations.benchmarks.rounds.GROWTH", (4, 16)),
    "population": ("simulations.benchmarks.population.CLIENTS", (1000,)),
    "compression": ("simulations.benchmarks.compression.SHAPES", ((10, 784), (64, 576))),
    "flower": ("simulations.benchmarks.flower.CASES", tuple(Case("mnist", 4, 1, kind) for kind in ("own", "stored"))),
    "peers": ("simulations.benchmarks.peers.CASES", peers.CASES[3:4]),  # with DDP; test_peers has the others
}


def bench(*arguments):
    return CliRunner().invoke(app, ["bench", *arguments])


@pytest.mark.thorough
@pytest.mark.benchmark
@pytest.mark.usefixtures("traced")
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.long] * (n in LARGE)) for n in BENCHMARKS])
def test_every_benchmark_runs_for_a_round(name, data_dir, monkeypatch):
    monkeypatch.setenv("LASER_FL_DATA", data_dir)
    if name in CASES:
        monkeypatch.setattr(*CASES[name])
    done = bench(name, "--rounds", "1", "--strategies", "laser")
    assert done.exit_code == 0, done.output
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines
    for line in lines:
        assert line.pop("benchmark") == name
        assert line.keys() == FIELDS[name]
        assert line.pop("peak_device_mb", None) is line.pop("waits", None) is None  # of a GPU
        assert line.get("status") in (None, peers.MEASURED) or line["cpu_ms"] is None
        assert line.get("cpu_ms", 1) is None or all(
            value > 0 for key, value in line.items() if key.endswith(("_ms", "_mb", "ratio")) and key != "above_ms"
        )


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["speed"], "NAME: must be one of mnist, "),
        (["mnist", "--strategies", "laser,sdg"], "--strategies: must be among sgd, "),
        (["peers", "--strategies", "sgd"], "--strategies: must be laser for this benchmark, got sgd"),
        (["peers", "-c", "model=mlp"], "model: is set by the benchmark, got -c model=mlp"),
        (["mnist", "-c", "rounds=5"], "rounds: is set by the benchmark, got -c rounds=5"),
        (["mnist", "-c", "powr=1"], "powr: unknown key, did you mean power?"),
    ],
)
def test_wrong_values_are_refused_in_one_line(arguments, line):
    done = bench(*arguments)
    assert done.exit_code == 2
    assert line in done.output


SMALL = {"model": "linear", "clients": 5, "batch-size": 16, "rounds": 9, "strategy": "sgd", "momentum": 0.9}


@pytest.mark.parametrize("batching", ["vmap", "loop"])
def test_the_floor_does_what_plain_gradients_without_noise_do(batching):
    """So it leaves out nothing that a round cannot do without."""
    setup = prepare(parse(SMALL | {"client-batching": batching}))
    floor, engine = Floor(setup), InProcess(setup)
    for _ in range(5):
        floor()
        whole_round(engine)
    for name, weight in engine.server.global_model.weights.items():
        torch.testing.assert_close(floor.weights[name], weight)


def test_both_sides_of_the_compression_make_the_same_update():
    gradient = torch.randn(4, 20, 30, generator=torch.Generator().manual_seed(0))
    config = parse({"clients": 4, "rank": 2, "factor-exchange": "two-phase", "power": "inf"})
    ours = Ours(gradient, config)
    hook = Hook(gradient, ours.broadcast.shared[BLOCK])
    torch.testing.assert_close(ours(), hook().clone(), rtol=1e-4, atol=1e-5)


def test_sides_take_turns_in_blocks():
    calls = []
    sides = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    assert in_turn(sides, 5, 1, torch.device("cpu"), block=2).keys() == sides.keys()
    assert "".join(calls) == "ab" + "aabb" + "aabb" + "ab"


def test_a_table_in_markdown_has_the_figures_of_the_lines(monkeypatch):
    lines = [{"benchmark": "mnist", "side": "loop", "ratio": 1.5}, {"benchmark": "mnist", "side": "pfl", "ratio": None}]
    monkeypatch.setattr(BENCHMARKS, "load", lambda name: lambda request: iter(lines))
    rows = ["| side | ratio |", "| --- | --- |", "| loop | 1.5 |", "| pfl |  |"]
    assert bench("mnist", "--markdown").stdout.splitlines() == rows


def _peak_of_twice_what_was_there(megabytes):
    client_state = torch.ones(megabytes * 250_000)
    peak = PeakMemory()
    del client_state
    for _ in range(2):
        torch.ones(2 * megabytes * 250_000)
    return peak.megabytes()


@pytest.mark.thorough
@pytest.mark.benchmark
def test_the_peak_is_what_was_held_at_once_since_then():
    """In a process of its own, as in a benchmark: what the heap of an old one has free hides what is taken."""
    peak = apart(_peak_of_twice_what_was_there, 50)
    if peak is None:
        pytest.skip("the system does not tell a process's peak")
    assert peak == pytest.approx(50, abs=30)
