"""A Flower user's own app: a state dict, gradients of one client at a time, and nothing else of ours."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, RecordDict
from flwr.cli.build import build_fab_from_disk
from flwr.cli.config_utils import load_and_validate
from torch import nn

import strategies
from clients import respond
from clients.node import reply
from laser_fl.channels.exchange import Instructions
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.pipeline import encode_update
from laser_fl.transport.arrays import read_tensors, write_tensors
from simulations.engines.flower import simulation
from simulations.engines.processes import tool
from simulations.engines.superlink import CONNECTION
from simulations.private import private_folder
from strategies import Laser, Sgd, ZSgd
from tests.grids import FakeGrid
from tests.helpers import context, scheme, shared_of, tensors, zero_losses

APP = Path(__file__).parents[2] / "examples" / "flower_app"
SHAPES = {"w": (6, 9), "b": (6,), "scale": ()}
SCHEMES = [name for name in strategies.__all__ if name not in ("OverTheAir", "OwnScheme")]


def named(name, **options):
    """Build a strategy of five clients that trains to the minimum in thirty rounds."""
    own = {} if name == "Sgd" else {"power": 1e4}
    if name in ("ADsgd", "RandomK", "Sketch"):
        own["compression_factor"] = 1.0
    return getattr(strategies, name)(**{"clients": 5, "learning_rate": 0.15, "seed": 3} | own | options)


def loss_of(weights):
    return sum((w - 1).square().sum() for w in weights.values()) / 2


def towards_one(weights, buffers, client):
    """Return the gradients of ½‖w - 1‖², a little different for every client."""
    return {name: w - 1 + 0.01 * client for name, w in weights.items()}, loss_of(weights)


def by_hand(message, context):
    """Answer as `respond` does with `towards_one`."""

    def update(broadcast, memory):
        ctx = broadcast.context
        computed = [towards_one(broadcast.weights, {}, client)[0] for client in ctx.participants]
        gradients = {name: torch.stack([one[name] for one in computed]) for name in computed[0]}
        losses = loss_of(broadcast.weights).expand(len(computed))
        return encode_update(broadcast, gradients, losses, memory)

    return reply(message, context, update)


def node(gradient_fn):
    """Return the app of a node whose gradients these are."""
    return lambda message, context: respond(message, context, gradient_fn)


def started(strategy, gradient_fn, rounds=1, initial=None, nodes=2):
    initial = write_tensors(tensors(SHAPES, None, dtype=torch.float32)) if initial is None else initial
    return strategy.start(FakeGrid(nodes, {}, node(gradient_fn)), initial, rounds)


class TestRespond:
    @pytest.mark.parametrize("name", SCHEMES)
    def test_every_strategy_trains_weights_and_scalars_on_the_gradients_of_single_clients(self, name):
        strategy = named(name)
        result = started(strategy, towards_one, 30)
        before, after = loss_of(tensors(SHAPES, None)), loss_of(read_tensors(result.arrays))
        assert after < 0.1 * before
        assert abs(float(strategy.weights()["scale"]) - 1) < 0.2
        assert strategy.weights()["scale"].shape == ()

    @pytest.mark.parametrize("name", SCHEMES)
    def test_it_answers_bit_for_bit_as_a_node_that_stacks_and_encodes_by_hand(self, name):
        initial = write_tensors(tensors(SHAPES, None, dtype=torch.float32))
        ours = started(named(name), towards_one, 3)
        theirs = named(name).start(FakeGrid(2, {}, by_hand), initial, 3)
        assert all(ours.arrays[key].data == theirs.arrays[key].data for key in SHAPES)
        assert ours.train_metrics_clientapp == theirs.train_metrics_clientapp

    def test_it_asks_for_a_gradient_once_a_round_and_client_however_many_phases_there_are(self):
        asked = []

        def counted(weights, buffers, client):
            asked.append(client)
            return towards_one(weights, buffers, client)

        started(named("Laser", factor_exchange="two-phase"), counted, rounds=3)
        assert sorted(asked) == sorted(3 * list(range(5)))

    @pytest.mark.parametrize("downlink", ["model", "update", "compressed"])
    def test_it_gives_each_client_the_model_that_it_received(self, downlink):
        seen = []

        def watched(weights, buffers, client):
            seen.append(weights["w"].clone())
            return towards_one(weights, buffers, client)

        noisy = {} if downlink == "compressed" else {"downlink_power": 1e5}
        result = started(named("Laser", downlink=downlink, **noisy), watched, rounds=30)
        assert loss_of(read_tensors(result.arrays)) < 0.1 * loss_of(tensors(SHAPES, None))
        assert all(w.shape == SHAPES["w"] for w in seen)
        assert torch.equal(seen[-1], seen[-2]) == (downlink == "compressed")

    def test_absent_clients_are_not_asked(self):
        asked = []

        def counted(weights, buffers, client):
            asked.append(client)
            return towards_one(weights, buffers, client)

        started(named("Laser", fraction=0.4), counted, rounds=10)
        assert len(asked) == 20

    @pytest.mark.parametrize(
        ("change", "line"),
        [
            (lambda g: g, "must return (gradients, loss) or (gradients, loss, buffers), got a value of type dict"),
            (lambda g: None, "must return (gradients, loss) or (gradients, loss, buffers), got None"),
            (lambda g: (g,), "must return (gradients, loss) or (gradients, loss, buffers), got a tuple of 1"),
            (lambda g: (list(g.values()), 0.0), "must return gradients as a dict by name, got a list of 3"),
            (lambda g: (g, 0.0, [1]), "must return buffers as a dict by name, got a list of 1"),
            (lambda g: (g, torch.zeros(2)), "must return the loss as a single number, got float32 [2]"),
            (lambda g: (g, "low"), "must return the loss as a single number, got a value of type str"),
            (lambda g: (g | {"b": torch.zeros(7)}, 0.0), "must return the gradient 'b', floats [6], got float32 [7]"),
            (
                lambda g: (g | {"b": torch.zeros(6).long()}, 0.0),
                "must return the gradient 'b', floats [6], got int64 [6]",
            ),
            (
                lambda g: (g | {"b": None}, 0.0),
                "must return the gradient 'b', floats [6], got none: start without what has no gradient, or with it in "
                "the strategy's buffers",
            ),
            (lambda g: (g | {"c": g["b"]}, 0.0), "must return no gradient 'c': it is no weight of the broadcast"),
            (
                lambda g: (g, 0.0, {"mean": g["b"]}),
                "must return no buffer 'mean': it is not in the strategy's buffers=dict(model.named_buffers())",
            ),
        ],
    )
    def test_a_wrong_answer_of_the_user_is_refused_in_one_line(self, change, line):
        def wrong(weights, buffers, client):
            return change(towards_one(weights, buffers, client)[0])

        with pytest.raises(TrainingError, match=re.escape(f"round 1: client 3: gradient_fn {line}") + "$"):
            started(named("Laser"), lambda *given: wrong(*given) if given[2] == 3 else towards_one(*given))

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_losses_may_be_of_any_float_type(self, dtype):
        result = started(named("Sgd"), lambda w, b, c: (towards_one(w, b, c)[0], torch.tensor(1.5, dtype=dtype)))
        assert result.train_metrics_clientapp[1]["train-loss"] == 1.5

    def test_importing_clients_takes_neither_pytorch_nor_flower(self):
        code = "import clients, sys; print('torch' in sys.modules, 'flwr' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["False", "False"]


@pytest.mark.shapes
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("name", ["laser", "z-sgd"])
def test_an_update_has_its_losses_in_float64_whatever_they_were(name, dtype):
    instructions = Instructions(scheme(name), shared_of(scheme(name)), context())
    update, _ = encode_update(instructions, tensors(), zero_losses().to(dtype), {})
    assert update.losses.dtype == torch.float64


class IdleGrid(FakeGrid):
    def request(self, messages):
        raise AssertionError("a node was asked")


class Normed(nn.Module):
    """A model with everything that a state dict may hold."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Linear(4, 8), nn.BatchNorm1d(8)
        self.gain = nn.Parameter(torch.tensor(2.0))
        self.register_buffer("mask", torch.tensor([True, False] * 4))
        self.register_buffer("passing", torch.ones(3), persistent=False)  # not in a state dict
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.gain * self.norm(self.first(x)) * self.mask)


def of_normed(weights, buffers, client):
    """Return a client's gradients and statistics on points around its own number."""
    model = Normed()
    model.load_state_dict(weights | buffers, strict=False)
    x = client + torch.randn(32, 4, generator=torch.Generator().manual_seed(client))
    loss = (model(x) - x[:, :2]).square().mean()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}, loss, dict(model.named_buffers())


class TestStateDict:
    @pytest.mark.parametrize("whole", [True, False])
    def test_a_model_starts_with_its_state_dict_or_weights_and_ends_with_a_state_dict(self, whole):
        model = Normed()
        initial = ArrayRecord(model.state_dict()) if whole else write_tensors(dict(model.named_parameters()))
        seen = []
        strategy = Laser(rank=2, power=1e4, learning_rate=0.05, buffers=dict(model.named_buffers()))
        result = strategy.start(
            FakeGrid(3, {}, node(of_normed)), initial, 5, evaluate_fn=lambda r, arrays: seen.append(list(arrays))
        )
        final = result.arrays.to_torch_state_dict()
        Normed().load_state_dict(final, strict=whole)
        names = set(model.state_dict()) | (set() if whole else {"passing"})
        assert [set(arrays) for arrays in seen] == [names] * 6
        assert not whole or seen == [list(model.state_dict())] * 6
        assert (final["norm.num_batches_tracked"], final["norm.num_batches_tracked"].dtype) == (0, torch.int64)
        assert torch.equal(final["mask"], model.mask)
        for name in ("first.weight", "gain"):
            assert not torch.equal(final[name], model.state_dict()[name])

    def test_statistics_follow_the_clients_data(self):
        model = Normed()
        strategy = Sgd(buffers=dict(model.named_buffers()))
        result = started(strategy, of_normed, 1, ArrayRecord(model.state_dict()), nodes=3)
        state = {n: t for n, t in model.state_dict().items() if n in dict(model.named_parameters())}
        statistics = {n: b for n, b in model.named_buffers() if n.startswith("norm.running")}
        means = [of_normed(state, statistics, c)[2]["norm.running_mean"] for c in range(3)]
        final = result.arrays.to_torch_state_dict()["norm.running_mean"]
        torch.testing.assert_close(final, torch.stack(means).mean(dim=0))

    def test_values_of_the_state_dict_precede_those_of_the_buffers(self):
        model, later = Normed(), Normed()
        later.norm.running_var.fill_(7.0)
        strategy = Sgd(buffers=dict(model.named_buffers()))
        seen = []

        def watched(weights, buffers, client):
            seen.append(buffers["norm.running_var"][0].item())
            return of_normed(weights, buffers, client)

        started(strategy, watched, 1, ArrayRecord(later.state_dict()), nodes=1)
        assert seen == [7.0]

    def test_statistics_that_are_no_buffers_are_refused_by_name_before_the_first_round(self):
        line = (
            "^buffers: must have the batch-norm statistics 'norm.running_mean', 'norm.running_var', as in "
            r"buffers=dict\(model.named_buffers\(\)\), so that they follow the clients' data; got them as weights$"
        )
        with pytest.raises(ConfigError, match=line):
            Laser().start(IdleGrid(1, {}), ArrayRecord(Normed().state_dict()), 1)

    def test_a_client_that_returns_no_statistics_is_named(self):
        def without(weights, buffers, client):
            return of_normed(weights, buffers, client)[:2]

        model = Normed()
        strategy = ZSgd(buffers=dict(model.named_buffers()))
        line = r"client 0: gradient_fn must return the buffer 'passing', floats \[3\], got none"
        with pytest.raises(TrainingError, match=line):
            started(strategy, without, 1, ArrayRecord(model.state_dict()), nodes=1)

    def test_a_reply_that_lacks_statistics_is_refused_by_their_names(self):
        def answer(message, context):
            def update(broadcast, memory):
                gradients = {name: w.unsqueeze(0) for name, w in broadcast.weights.items()}
                return encode_update(broadcast, gradients, torch.zeros(1), memory)

            return reply(message, context, update)

        model = Normed()
        strategy = ZSgd(buffers=dict(model.named_buffers()))
        line = (
            "round 1: client 0: it lacks the buffers passing, norm.running_mean, norm.running_var, which clients return"
        )
        with pytest.raises(TrainingError, match=line):
            strategy.start(FakeGrid(1, {}, answer), ArrayRecord(model.state_dict()), 1)


@pytest.fixture
def example(monkeypatch):
    """Return (server app, client app, run config) of the example."""
    monkeypatch.syspath_prepend(str(APP))
    for name in ("task", "client_app", "server_app"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import client_app
    import server_app

    values = tomllib.loads((APP / "pyproject.toml").read_text())["tool"]["flwr"]["app"]["config"]
    yield server_app.app, client_app.app, values
    for name in ("task", "client_app", "server_app"):
        del sys.modules[name]


def accuracy_in(text):
    return float(re.search(r"final accuracy (\d\.\d+)", text)[1])


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")  # by Flower, of what it uses
def test_flower_accepts_the_example_without_a_warning():
    assert load_and_validate(APP / "pyproject.toml")[1] == []
    assert build_fab_from_disk(APP)


def test_the_example_learns_in_a_few_rounds(example, caplog):
    server_app, client_app, values = example
    short = values | {"num-server-rounds": 15}
    with caplog.at_level("INFO", logger="flwr"):
        server_app(FakeGrid(4, short, client_app), Context(1, 0, {}, RecordDict(), short))
    assert accuracy_in(caplog.text) > 0.7


@pytest.mark.thorough
@pytest.mark.simulation
def test_the_example_gives_the_expected_result_by_flwr_run(tmp_path):
    with private_folder() as home, simulation(home) as env:
        nodes = "num-supernodes=4 client-resources-num-cpus=1"
        command = [tool("flwr"), "run", str(APP), CONNECTION, "--stream", "--federation-config", nodes]
        done = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False)
    assert accuracy_in(done.stdout + done.stderr) > 0.95
