"""The Flower engine walks the same way as the in-process engine, bit for bit where it can."""

import json
import threading
import time
from dataclasses import dataclass

import pandas as pd
import psutil
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from safetensors.torch import load_file

from clients.client_app import app as client_app
from clients.node import hosted, hosted_here, reply
from laser_fl.callbacks import Callback
from laser_fl.channels.fading import Fading
from laser_fl.config import parse
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.federated.validation import Reply
from laser_fl.pipeline import encode_update
from laser_fl.registry import SCHEMES
from laser_fl.transport.arrays import read_tensors, write_tensors
from laser_fl.transport.messages import read_broadcast, write_broadcast
from laser_fl.transport.replies import read_form, read_reply, write_reply
from simulations.engines import flower, in_process
from strategies import Laser, OverTheAir, OwnScheme, Sgd, ZSgd
from strategies.server_app import app as server_app
from tests.effort import few, pairs
from tests.grids import SHORT, FakeGrid, run_config, run_on_grid
from tests.helpers import VARIANTS, assert_alike, names, tensors
from tests.testing.schemes import TopK


@pytest.mark.parametrize(("variant", "nodes"), pairs(VARIANTS, [2, 5, 1]))
def test_any_number_of_nodes_gives_the_in_process_run_bit_for_bit(tmp_path, variant, nodes):
    """Clients one by one, the same number of threads."""
    options = VARIANTS[variant] | {"client_batching": "loop"}
    run_on_grid(run_config(tmp_path / "grid", **options), nodes)
    in_process.run(run_config(tmp_path / "direct", **options), tmp_path / "direct")
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / "grid" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
    summary = json.loads((tmp_path / "grid" / "summary.json").read_text())
    assert (summary["status"], summary["engine"]) == ("completed", "flower")


@pytest.mark.parametrize("variant", few(VARIANTS, "laser", "laser two-phase", "random-k"))
def test_what_clipped_clients_have_not_sent_is_remembered_bit_for_bit(tmp_path, variant):
    options = VARIANTS[variant] | {"client_batching": "loop", "norm_cap": 1.0}
    run_on_grid(run_config(tmp_path / "grid", **options), 2)
    in_process.run(run_config(tmp_path / "direct", **options), tmp_path / "direct")
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / "grid" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()
    if variant not in ("signum", "d-dsgd"):  # whose signals are as large at all clients
        assert pd.read_csv(tmp_path / "grid" / "ledger.csv").clipped.min() > 0


@pytest.mark.parametrize("variant", few(VARIANTS, "laser", "laser two-phase", "random-k", "a-dsgd"))
def test_batched_nodes_give_the_in_process_run_up_to_rounding(tmp_path, variant):
    run_on_grid(run_config(tmp_path / "grid", **VARIANTS[variant]), 2)
    in_process.run(run_config(tmp_path / "direct", **VARIANTS[variant]), tmp_path / "direct")
    a, b = (load_file(tmp_path / engine / "weights.safetensors") for engine in ("grid", "direct"))
    assert_alike(a, b)


def run_on_flower_and_here(tmp_path, batching):
    """``flwr run`` on Ray, on a SuperLink of its own, with the app's default configuration but for its length."""
    config = parse({"rounds": 6, "evaluate-every": 3, "client-batching": batching})
    lines = []
    summary = flower.run(config, tmp_path / "flower", nodes=2, show=lines.append)
    in_process.run(config, tmp_path / "direct")
    assert summary["status"] == "completed"
    assert any("round 6/6" in line for line in lines)


def test_the_real_runtime_gives_the_in_process_run_bit_for_bit(tmp_path):
    """The one test by default in which Flower and Ray start; clients one by one."""
    run_on_flower_and_here(tmp_path, "loop")
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / "flower" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()


@pytest.mark.thorough
@pytest.mark.simulation
@pytest.mark.long
def test_the_real_runtime_gives_the_in_process_run_up_to_rounding_where_clients_are_batched(tmp_path, traced):
    run_on_flower_and_here(tmp_path, "vmap")
    a, b = (load_file(tmp_path / engine / "weights.safetensors") for engine in ("flower", "direct"))
    assert_alike(a, b)
    ledgers = [pd.read_csv(tmp_path / engine / "ledger.csv") for engine in ("flower", "direct")]
    pd.testing.assert_frame_equal(*ledgers, rtol=1e-5)


@pytest.mark.thorough
@pytest.mark.simulation
@pytest.mark.long
def test_a_run_that_fails_in_the_real_runtime_fails_here_with_its_reason(tmp_path):
    with pytest.raises(TrainingError, match=r"round 2: client 0: the gradient of block .* is not finite"):
        flower.run(
            parse({"strategy": "sgd", "learning-rate": 1e30, "rounds": 4, "evaluate-every": 4}),
            tmp_path / "run",
            2,
            lambda line: None,
        )
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


@pytest.mark.thorough
@pytest.mark.killed
@pytest.mark.long
def test_a_killed_actor_costs_its_nodes_nothing_or_a_round(tmp_path):
    """One of Ray's two; Flower leaves it in its pool, so that it fails from then on, and others answer instead."""
    killed = []

    def kill_one():
        while not list(tmp_path.glob("run/checkpoints/server-*.safetensors")):
            time.sleep(0.01)
        ours = psutil.Process().children(recursive=True)
        named = {" ".join(p.info["cmdline"] or []): p for p in psutil.process_iter(["cmdline"]) if p in ours}
        actors = [process for name, process in named.items() if name.startswith("ray::ClientAppActor")]
        actors[0].kill()
        killed.append(actors[0].pid)

    options = {"rounds": 30, "client-batching": "loop", "min-clients": 5, "max-retries": 20, "checkpoint-every": 3}
    config = parse(SHORT | options)
    threading.Thread(target=kill_one, daemon=True).start()
    flower.run(config, tmp_path / "run", 2, lambda line: None)
    assert killed
    in_process.run(config, tmp_path / "direct")
    for file in ("metrics.csv", "weights.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "direct" / file).read_bytes()


def test_more_nodes_than_clients_are_refused_in_every_way_to_start(tmp_path):
    line = "clients: must be at least the number of SuperNodes, 6, got 5"
    with pytest.raises(ConfigError, match=line):
        run_on_grid(run_config(tmp_path / "run"), nodes=6)
    with pytest.raises(ConfigError, match=line):
        flower.run(run_config(tmp_path / "run"), tmp_path / "run", 6, lambda line: None)


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"clients": 4001}, "clients: must be at most the 4000 training examples, got 4001"),
        ({"evaluate-examples": 1001}, "evaluate-examples: must be at most the 1000 test examples, got 1001"),
    ],
)
def test_what_depends_on_the_data_is_refused_before_a_superlink_starts(tmp_path, values, line):
    with pytest.raises(ConfigError, match=line):
        flower.run(parse(values), tmp_path / "run", 2, lambda line: None)


def test_a_folder_in_use_is_refused_before_a_superlink_starts(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="out-dir: must be a new or empty folder"):
        flower.run(parse({}), tmp_path, 2, lambda line: None)


def test_a_node_without_a_place_says_what_it_lacks():
    context = Context(1, 7, {}, RecordDict(), {})
    with pytest.raises(
        ConfigError, match="node-config: must have partition-id and num-partitions, lacks 'partition-id'"
    ):
        hosted_here(context, 4)


def test_a_nodes_owner_says_which_device_computes():
    grid = FakeGrid(1, parse({"clients": 2, "rounds": 1}).to_flat())
    grid.contexts[100].node_config["device"] = "cuda:77"
    with pytest.raises(ConfigError, match=r"device: must be one of this machine's \d+ GPUs, got cuda:77"):
        ZSgd(clients=2).start(grid, write_tensors({"w": torch.zeros(2)}), 1)


def test_a_run_waits_for_as_many_nodes_as_it_is_told():
    with pytest.raises(TrainingError, match="2 of 3 nodes have registered within 0 seconds"):
        ZSgd(min_available_nodes=3).start(FakeGrid(2, {}), write_tensors({}), 1, timeout=0.1)


def test_a_wrong_value_is_refused_by_the_server_app_in_one_line():
    with pytest.raises(ConfigError, match=r"^power: must be greater than 0 \(inf: no noise\), got -1$"):
        server_app(FakeGrid(1, {}), Context(1, 0, {}, RecordDict(), {"power": -1}))


@pytest.mark.parametrize(("nodes", "clients"), [(1, 1), (1, 7), (3, 7), (7, 7), (10, 16), (16, 1000)])
def test_nodes_host_equal_contiguous_shares(nodes, clients):
    shares = [hosted(node, nodes, clients) for node in range(nodes)]
    assert [client for share in shares for client in share] == list(range(clients))
    assert all(node == client * nodes // clients for node, share in enumerate(shares) for client in share)
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


SMALL = {"w": (6, 9), "b": (6,)}


class TestInSomebodyElsesApp:
    """A Flower user's own model and ClientApp, with no run config of ours."""

    def gradients(self, weights):
        return {name: (w - 1).unsqueeze(0) for name, w in weights.items()}

    def client(self, message, context):
        def respond(broadcast, memory):
            losses = torch.tensor([sum(float((w - 1).square().sum()) for w in broadcast.weights.values())]).double()
            return encode_update(broadcast, self.gradients(broadcast.weights), losses, memory)

        return reply(message, context, respond)

    @pytest.mark.parametrize(
        "strategy",
        [
            Laser(rank=2, power=1e4, learning_rate=0.1, seed=3),
            ZSgd(power=1e4, learning_rate=0.2),
            Sgd(learning_rate=0.2),
        ],
        ids=lambda s: type(s).__name__,
    )
    def test_a_strategy_trains_to_the_minimum(self, strategy):
        initial = tensors(SMALL, clients=None, dtype=torch.float32)
        grid = FakeGrid(3, {}, self.client)
        seen = []

        def evaluate(server_round, arrays):
            seen.append(server_round)
            return MetricRecord({"distance": float((read_tensors(arrays)["w"] - 1).norm())})

        result = strategy.start(grid=grid, initial_arrays=write_tensors(initial), num_rounds=30, evaluate_fn=evaluate)
        assert seen == list(range(31))
        assert (
            result.evaluate_metrics_serverapp[30]["distance"] < 0.1 * result.evaluate_metrics_serverapp[0]["distance"]
        )
        assert set(result.train_metrics_clientapp) == set(range(1, 31))
        assert torch.equal(read_tensors(result.arrays)["w"], strategy.weights()["w"])
        assert strategy.server.config.clients == 3  # one client per node where nothing else is said

    def test_the_two_halves_can_be_called_by_themselves(self):
        strategy = Laser(rank=1)
        with pytest.raises(TrainingError, match="has not been started"):
            strategy.configure_train(1, ArrayRecord(), ConfigRecord(), FakeGrid(1, {}))

    def test_evaluation_is_central(self):
        strategy = Laser(rank=1)
        assert strategy.configure_evaluate(1, ArrayRecord(), ConfigRecord(), FakeGrid(1, {})) == []
        assert strategy.aggregate_evaluate(1, []) is None

    def test_wrong_options_are_refused_by_name(self):
        with pytest.raises(ConfigError, match="rank: must be greater than 0 for strategy laser, got 0"):
            Laser(rank=0)
        with pytest.raises(ConfigError, match="powr: unknown key"):
            ZSgd(powr=1.0)
        with pytest.raises(ConfigError, match="batch_size: is no option of a strategy"):
            Laser(batch_size=7)

    def test_the_bases_arguments_are_passed_on(self):
        rounds, transposed = [], []

        class Witness(Callback):
            def on_round(self, server, seconds):
                rounds.append(server.round)
                if not server.finished:
                    transposed.extend(block.transposed for block in server.broadcast().context.blocks)

        strategy = Laser(rank=1, transposed=["w"], callbacks=[Witness()])
        strategy.start(FakeGrid(1, {}, self.client), write_tensors(tensors(SMALL, clients=None)), 2)
        assert rounds == [1, 2]
        assert transposed == [True, False]

    def test_a_tensor_without_a_gradient_is_named(self):
        def without_bias(message, context):
            def respond(broadcast, memory):
                gradients = self.gradients(broadcast.weights)
                return encode_update(broadcast, {"w": gradients["w"]}, torch.zeros(1).double(), memory)

            return reply(message, context, respond)

        with pytest.raises(TrainingError, match="round 1: there is no gradient for the blocks b"):
            ZSgd().start(FakeGrid(1, {}, without_bias), write_tensors(tensors(SMALL, clients=None)), 1)

    def test_a_node_that_fails_stops_the_run_with_its_reason(self):
        def broken(message, context):
            return Message(Error(code=2, reason="out of memory"), reply_to=message)

        with pytest.raises(TrainingError, match="round 1: client 0: its node failed: out of memory"):
            ZSgd().start(FakeGrid(1, {}, broken), write_tensors(tensors(SMALL, clients=None)), 1)

    def test_a_client_that_two_nodes_claim_is_the_firsts(self):
        def twins(message, context):
            context.node_config["partition-id"] = 0
            return self.client(message, context)

        line = "client 1: node 100 is refused: it claims client 0, which node 101 has; 1 of 2 clients"  # 101 was first
        with pytest.raises(TrainingError, match=f"round 1: {line}"):
            ZSgd(min_clients=2).start(FakeGrid(2, {}, twins), write_tensors(tensors(SMALL, clients=None)), 1)


@pytest.mark.parametrize("variant", names(VARIANTS))
def test_records_carry_a_broadcast_and_an_uplink_unchanged(variant):
    weights = tensors(clients=None, dtype=torch.float32)
    config = parse({"clients": 4, "power": 2.5, "noise-variance": 1e-3, "seed": 9} | VARIANTS[variant])
    broadcast = Server(config, weights, RoundSchedule(3), transposed=["hidden"]).broadcast()
    received = read_broadcast(write_broadcast(broadcast))
    assert (received.scheme, received.context) == (broadcast.scheme, broadcast.context)
    for sent, got in ((broadcast.weights, received.weights), (broadcast.shared, received.shared)):
        assert list(sent) == list(got)
        assert all(torch.equal(sent[name], got[name]) for name in sent)
    gradients = tensors(dtype=torch.float32)
    client_update, _ = encode_update(broadcast, gradients, torch.arange(4, dtype=torch.float64), {})
    records = write_reply(Reply(5, (3, 4, 6, 7), client_update), range(3, 8))
    reply = read_reply(records)
    assert (reply.exchange, reply.clients, read_form(records, 8).hosted) == (5, (3, 4, 6, 7), range(3, 8))
    returned = reply.client_update
    assert all(torch.equal(client_update.signals[name], returned.signals[name]) for name in client_update.signals)
    for field in ("signal_norms", "gradient_norms", "losses"):
        assert torch.equal(getattr(client_update, field), getattr(returned, field))


def test_a_process_reads_each_broadcast_with_its_own_scheme():
    """Also where a scheme was defined anew since the process read the very same text."""

    def define():
        @SCHEMES.register("halved")
        @dataclass(frozen=True)
        class Halved(TopK):
            pass

        return Halved

    def sent(strategy, **options):
        config = parse({"strategy": strategy, "clients": 2} | options)
        return write_broadcast(Server(config, tensors(SMALL, clients=None), RoundSchedule(3)).broadcast())

    try:
        former = define()
        first = sent("halved")
        assert type(read_broadcast(first).scheme) is former
        later = define()
        assert type(read_broadcast(first).scheme) is later
    finally:
        SCHEMES._outside.pop("halved")
    ranks = [read_broadcast(sent("laser", rank=rank)).scheme.rank for rank in (1, 2, 1)]
    assert ranks == [1, 2, 1]


def test_a_node_that_meets_another_config_does_not_keep_the_first(tmp_path):
    """Its process serves all nodes, of all runs; 1 and True are equal, but not the same values of a key."""
    ends = []
    for run, batch in enumerate((16, 8, 16)):
        run_on_grid(run_config(tmp_path / str(run), batch_size=batch, rounds=2, rank=1), 2)
        ends.append((tmp_path / str(run) / "weights.safetensors").read_bytes())
    assert ends[0] == ends[2] != ends[1]
    values = run_config(tmp_path / "2", batch_size=16, rounds=2, rank=1).to_flat() | {"rank": True}
    context = Context(1, 100, {"partition-id": 0, "num-partitions": 1}, RecordDict(), values)
    with pytest.raises(ConfigError, match="rank: must be"):
        client_app(Message(RecordDict(), dst_node_id=100, message_type="train"), context)


def test_every_scheme_has_a_strategy_of_its_own():
    import strategies

    named = [name for name in strategies.__all__ if name not in ("OverTheAir", "OwnScheme")]
    assert {getattr(strategies, name)().config.strategy for name in named} == set(SCHEMES)
    assert issubclass(Laser, OverTheAir)


def test_a_scheme_of_ones_own_and_a_channel_with_options_make_a_strategy():
    strategy = OwnScheme(TopK(keep=0.25), channel=Fading(gain_threshold=0.5), power=3.0)
    assert (strategy.config.keep, strategy.config.gain_threshold, strategy.config.power) == (0.25, 0.5, 3.0)
    assert SCHEMES.build(strategy.config.strategy, strategy.config) == TopK(keep=0.25)
    with pytest.raises(ConfigError, match="keep: must be less than or equal to 1, got 2"):
        OwnScheme(TopK(keep=2))
