"""The public names: what `import laser_fl` offers, and that an own loop and a run are the same bit by bit."""

import copy
import doctest
import importlib
import math
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

import laser_fl as lf
from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.errors import ConfigError, DataError, TrainingError
from laser_fl.federated import local_training
from laser_fl.federated.in_process import InProcess
from laser_fl.federated.setup import prepare
from laser_fl.registry import CHANNELS, FACTOR_EXCHANGES, MODELS, POLICIES, SCHEMES
from laser_fl.storage.files import COMPARISON, SUMMARY
from tests.helpers import tensors

ROOT = Path(lf.__file__).parents[1]
INPUTS = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
DATA = INPUTS, (INPUTS[:, :3]).argmax(dim=1)


def small(bias=True):
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 12, bias=bias), torch.nn.ReLU(), torch.nn.Linear(12, 3, bias=bias))


def test_the_names_are_few_and_import_no_pytorch():
    assert len(lf.__all__) <= 30
    code = (
        "import sys, laser_fl\n"
        "assert not {'torch', 'flwr', 'pandas', 'numpy'} & set(sys.modules)\n"
        "assert set(laser_fl.__all__) <= set(dir(laser_fl))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="'laser_fl' has no attribute 'Lasser'"):
        lf.Lasser  # noqa: B018


@pytest.mark.parametrize("name", lf.__all__)
def test_every_name_is_explained_with_an_example_that_runs(name):
    found = getattr(lf, name)
    module = importlib.import_module(found.__module__)
    finder = doctest.DocTestFinder(recurse=False)
    (test,) = [one for one in finder.find(found, name, module) if one.examples]
    assert doctest.DocTestRunner().run(test).failed == 0


def own_loop(**keys):
    """Feed the gradients of a run to an own loop; compare update, ledger and what was handed over."""
    rounds = 4
    about = {"clients": 4, "rounds": rounds, "model": "linear", "batch-size": 4, "evaluate-every": rounds}
    setup = prepare(parse(about | {key.replace("_", "-"): value for key, value in keys.items()}))
    engine, computed, weighed = InProcess(setup), [], []
    replica = engine.server.global_model.replica
    weigh = replica._filter

    def observe(*arguments):
        update, state = weigh(*arguments)
        weighed.append({name: tensor.clone() for name, tensor in update.items()})
        return update, state

    def compute(trainer, *asked):
        one = original(trainer, *asked)
        computed.append({name: gradient.clone() for name, gradient in one.gradients.items()})
        return one

    replica._filter, original = observe, local_training.GroupTrainer.compute
    scheme, channel = keys.pop("strategy"), keys.pop("channel", "awgn")
    make = {"scheme": scheme, "channel": channel, "rounds": rounds, "clients": 4, **keys}
    ota = lf.OverTheAir(setup.network.module, **make)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_training.GroupTrainer, "compute", compute)
        while not engine.server.finished:
            computed.clear()
            weighed.clear()
            while not engine.advance():
                pass
            names = setup.network.weights
            gradients = {n: torch.cat([one[n] for one in computed]) for n in names}
            before = copy.deepcopy(gradients)
            yield ota.aggregate(gradients), weighed[0] if weighed else None
            assert all(torch.equal(before[name], gradients[name]) for name in names)
            assert ota.ledger[-1] == engine.server.ledger[-1]
            state, ota = ota.state_dict(), lf.OverTheAir(setup.network.module, **make)
            ota.load_state_dict(state)
    assert len(ota.ledger) == rounds


def assert_the_same(keys):
    for update, expected in own_loop(**keys):
        assert (update is None) == (expected is None)  # in a round in which nobody transmits
        assert update is None or all(torch.equal(update[name], expected[name]) for name in expected)


CASES = [
    *({"strategy": name} for name in SCHEMES),
    *({"strategy": "laser", "channel": name} for name in CHANNELS),
    {"strategy": "laser", "factor_exchange": "two-phase", "fraction": 0.5},
    {"strategy": "random-k", "fraction": 0.5, "norm_cap": 1.0, "power_policy": "linear-up"},
]


@pytest.mark.parametrize("keys", CASES, ids=[" ".join(map(str, case.values())) for case in CASES])
def test_an_own_loop_is_a_run_bit_by_bit_and_goes_on_from_its_state(keys):
    assert_the_same(keys)


@pytest.mark.thorough
@pytest.mark.product
@pytest.mark.parametrize("strategy", [name for name in SCHEMES if name != "laser"])
@pytest.mark.parametrize("channel", [name for name in CHANNELS if name != "awgn"])
def test_an_own_loop_is_a_run_for_every_scheme_over_every_channel(strategy, channel):
    assert_the_same({"strategy": strategy, "channel": channel})


@pytest.mark.parametrize("exchange", FACTOR_EXCHANGES)
def test_a_block_that_is_clipped_beside_others_is_received_or_remembered(exchange):
    """A block of one signal: Σ received + Σ memory = Σ gradients."""
    weights = {"matrix": torch.zeros(12, 9), "vector": torch.zeros(7)}
    ota = lf.OverTheAir(weights, scheme="laser", factor_exchange=exchange, power=math.inf, clients=4, norm_cap=1.5)
    total, received = torch.zeros(4, 7), torch.zeros(7)
    for round in range(3):
        gradients = tensors({name: tuple(w.shape) for name, w in weights.items()}, seed=round, dtype=torch.float32)
        gradients["vector"][3] *= 10
        total += gradients["vector"]
        received += ota.aggregate(gradients)["vector"]
        assert ota.ledger[-1].clipped > 0
    torch.testing.assert_close(received + ota.state_dict()["memory"]["vector"].mean(dim=0), total.mean(dim=0))


def test_a_round_in_which_nobody_transmits_gives_no_update_and_no_step():
    model = small()
    ota = lf.OverTheAir(model, channel=lf.Fading(gain_threshold=3.0), clients=2, rounds=100)
    before, idle = copy.deepcopy(model.state_dict()), 0
    for _ in range(20):
        update = ota.aggregate({name: torch.ones(2, *p.shape) for name, p in model.named_parameters()})
        if update is None:
            idle += 1
            lf.step(torch.optim.SGD(model.parameters(), lr=1.0), model, update)
    assert idle > 0
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_a_round_from_which_all_drop_out_leaves_the_memory_as_it_is():
    model = small()
    gradients = {name: torch.ones(2, *p.shape) for name, p in model.named_parameters()}
    ota, idle = lf.OverTheAir(model, clients=2, dropout_rate=0.8), 0
    for _ in range(8):
        participants, before = ota.participants, ota.state_dict()["memory"]
        update, after = ota.aggregate(gradients), ota.state_dict()["memory"]
        assert (update is None) == (not participants)
        if not participants and before:
            idle += 1
            assert all(torch.equal(before[name], after[name]) for name in after)
    assert idle > 0


def test_a_laser_round_of_an_own_loop_is_told_by_twenty_files():
    model = small()
    ota = lf.OverTheAir(model, scheme=lf.Laser(rank=2), clients=4)
    gradients = {name: torch.ones(4, *p.shape) for name, p in model.named_parameters()}
    ota.aggregate(gradients)
    files = set()

    def note(frame, event, argument):
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT / "laser_fl")):
            files.add(frame.f_code.co_filename)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        ota.aggregate(gradients)
    finally:
        sys.setprofile(before)
    assert 10 < len(files) <= 20


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"scheme": "lazer"}, "strategy: must be one of sgd"),
        ({"power": -1.0}, "power: must be greater than 0"),
        ({"powr": 1.0}, "powr: unknown key, did you mean power?"),
        ({"power_policy": "linear-up"}, "rounds: must be given for power-policy linear-up, got 0"),
        ({"scheme": "laser-adaptive"}, "rounds: must be given for receiver paced, got 0"),
    ],
)
def test_wrong_options_are_refused_in_one_line(arguments, line):
    with pytest.raises(ConfigError) as refusal:
        lf.OverTheAir(small(), **arguments)
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


def test_wrong_gradients_are_refused_and_change_nothing():
    model = small()
    ota = lf.OverTheAir(model, clients=3)
    right = {name: torch.ones(3, *p.shape) for name, p in model.named_parameters()}
    for wrong, line in (
        ({**right, "0.weight": torch.ones(2, 12, 6)}, r"0\.weight must be of shape \(3, 12, 6\), got \(2, 12, 6\)"),
        ({n: g for n, g in right.items() if n != "2.bias"}, r"2\.bias must be of shape \(3, 3\), got nothing"),
        ({**right, "3.bias": torch.ones(3, 3)}, "must be of the model's parameters, got '3.bias', too"),
        ({**right, "2.bias": torch.full((3, 3), torch.nan)}, r"must be finite, got others for 2\.bias"),
    ):
        with pytest.raises(TrainingError, match=line):
            ota.aggregate(wrong)
    assert len(ota.ledger) == 0
    other = lf.OverTheAir(model, clients=3)
    assert all(
        torch.equal(a, b) for a, b in zip(ota.aggregate(right).values(), other.aggregate(right).values(), strict=True)
    )


def test_a_loop_ends_with_the_rounds_that_were_given_and_begins_there_from_its_state():
    model, options = small(), {"clients": 4, "rounds": 2, "fraction": 0.5}
    ota = lf.OverTheAir(model, **options)
    gradients = {name: torch.ones(4, *p.shape) for name, p in model.named_parameters()}
    for _ in range(2):
        ota.aggregate(gradients)
    again = lf.OverTheAir(model, **options)
    again.load_state_dict(ota.state_dict())
    assert again.participants == ota.participants
    with pytest.raises(TrainingError, match="round 3: must be among the 2 rounds that were given"):
        again.aggregate(gradients)


def test_a_policy_is_asked_for_the_steps_of_the_run_alone():
    def listed(power, step, steps):
        return [0.5 * power, 1.5 * power][step]

    POLICIES.register("listed")(listed)
    try:
        model = small()
        ota = lf.OverTheAir(model, clients=2, rounds=2, power_policy="listed")
        for _ in range(2):
            ota.aggregate({name: torch.ones(2, *p.shape) for name, p in model.named_parameters()})
    finally:
        del POLICIES._outside["listed"]
    assert [record.power_budget for record in ota.ledger] == [0.5, 1.5]


def test_what_is_compared_has_names_of_its_own():
    options = {"clients": 2, "batch_size": 4, "rounds": 2}
    results = lf.compare(small(), DATA, DATA, strategies=["sgd", lf.Laser(rank=1), lf.Laser(rank=2)], **options)
    assert list(results) == ["sgd", "laser rank=1", "laser rank=2"]
    named = lf.compare(small(), DATA, DATA, strategies=["laser", lf.Laser(rank=4)], **options)
    assert list(named) == ["laser rank=2", "laser rank=4"]
    trained = []
    options["callbacks"] = [type("Seen", (Callback,), {"on_begin": lambda self, server: trained.append(server)})()]
    with pytest.raises(ConfigError, match="rank: must be given once, got 4 beside 2 of its part"):
        lf.compare(small(), DATA, DATA, strategies=["sgd", lf.Laser(rank=2)], rank=4, **options)
    assert trained == []
    with pytest.raises(ConfigError, match="strategies: must name each once, got 'sgd' twice"):
        lf.compare(small(), DATA, DATA, strategies=["sgd", "sgd"], **options)


def test_a_strategy_whose_model_diverges_leaves_the_others_alone(tmp_path):
    options = {"clients": 4, "batch_size": 4, "rounds": 20, "power": 1e-6, "learning_rate": 10.0}
    with pytest.warns(UserWarning, match=r"z-sgd: round \d+: "):
        results = lf.compare(small(), DATA, DATA, strategies=["z-sgd", "sgd"], out=tmp_path / "both", **options)
    assert (list(results), list(results.failed)) == (["sgd"], ["z-sgd"])
    table = pd.read_csv(tmp_path / "both" / COMPARISON, keep_default_na=False).set_index("strategy")
    assert table["reason"].to_dict() == {"sgd": "", "z-sgd": results.failed["z-sgd"]}
    with pytest.warns(UserWarning, match="z-sgd"), pytest.raises(TrainingError, match="z-sgd: round"):
        lf.compare(small(), DATA, DATA, strategies=["z-sgd"], **options)


def test_a_regression_is_compared_by_its_loss():
    data, loss = (INPUTS, INPUTS.sum(dim=1, keepdim=True)), torch.nn.functional.mse_loss
    options = {"loss": loss, "clients": 2, "batch_size": 4, "rounds": 3, "learning_rate": 0.1}
    results = lf.compare(torch.nn.Linear(6, 1), data, data, strategies=["sgd", "z-sgd"], **options)
    assert results["sgd"].metric == "loss"
    assert results["sgd"].summary["best_ema_test_loss"] == results["sgd"].history["ema_test_loss"].min()
    assert results.plot().axes[0].get_ylabel() == "test loss"


def other_network():
    return torch.nn.Linear(6, 3)


def test_a_model_of_ones_own_is_trained_whatever_is_registered_under_its_class():
    MODELS.register("Sequential")(other_network)
    try:
        result = lf.train(small(), DATA, DATA, clients=2, batch_size=4, rounds=1)
    finally:
        del MODELS._outside["Sequential"]
    assert isinstance(result.model, torch.nn.Sequential)


@pytest.mark.parametrize("layer", [torch.nn.Dropout1d(0.5), torch.nn.AlphaDropout(0.5), torch.nn.RReLU()])
def test_every_layer_that_draws_is_seeded(layer):
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), layer, torch.nn.Linear(8, 3))
    options = {"clients": 2, "batch_size": 4, "rounds": 2}
    first, second = (lf.train(model, DATA, DATA, **options).model for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: lf.OverTheAir(small(), downlink="update"), "downlink: is no option of a loop of one's own; those are"),
        (lambda: lf.OverTheAir(small(), scheme=lf.Laser(), rank=3), "rank: must be given once, got 3 beside 2"),
        (lambda: lf.OverTheAir(small(), scheme=lf.Laser), "strategy: must be a name or an object of Scheme, got <cla"),
        (lambda: lf.OverTheAir(small(), channel=lf.ZSgd()), "channel: must be a name or an object of Channel, got ZS"),
        (lambda: lf.train(small(), DATA, DATA, tracker="wandb"), "tracker: is no option of a run on own data; those"),
        (lambda: lf.train(small(), DATA, DATA, evaluate_examples=97), "evaluate-examples: must be at most the 96 test"),
        (lambda: lf.OverTheAir(small(), rounds=-1), "rounds: must be at least 0 (0: not known), got -1"),
        (lambda: lf.Laser(factor_exchange="both"), "factor-exchange: must be one of alternating, two-phase, one-shot"),
        (lambda: lf.ADsgd(recovery="both"), "recovery: must be one of lmmse, amp, got 'both'"),
        (lambda: lf.register_scheme(lf.Laser), "strategy: must be registered under a text without a colon, got"),
    ],
)
def test_what_would_have_no_effect_is_refused_in_one_line(make, line):
    with pytest.raises(ConfigError) as refusal:
        make()
    assert str(refusal.value).startswith(line)
    assert "\n" not in str(refusal.value)


def test_a_state_of_another_object_is_refused():
    state = lf.OverTheAir(small(), clients=3).state_dict()
    for wrong in ({}, {"round": 1}, {**state, "memory": {"0.weight": torch.ones(3, 2)}}):
        with pytest.raises(ConfigError, match=r"^state: must "):
            lf.OverTheAir(small(), clients=3).load_state_dict(wrong)
    for other, line in (
        (lf.OverTheAir(small(), scheme=lf.Laser(rank=1), clients=3), "same rank, 1, got 2"),
        (lf.OverTheAir(small(), scheme="z-sgd", clients=3), "same strategy, 'z-sgd', got 'laser'"),
        (lf.OverTheAir(small(), clients=3, seed=1), "same seed, 1, got 0"),
    ):
        with pytest.raises(ConfigError, match=line):
            other.load_state_dict(state)
        assert len(other.ledger) == 0


def test_gradients_are_those_of_plain_autograd_batched_or_not():
    model, batches = small(), [(INPUTS[i::4], DATA[1][i::4]) for i in range(4)]
    batched, looped = (lf.gradients(model, torch.nn.functional.cross_entropy, batches, b) for b in (True, False))
    for client, (inputs, targets) in enumerate(batches):
        loss = torch.nn.functional.cross_entropy(model(inputs), targets)
        for (name, _), g in zip(
            model.named_parameters(), torch.autograd.grad(loss, list(model.parameters())), strict=True
        ):
            assert torch.equal(looped[name][client], g)
            torch.testing.assert_close(batched[name][client], g)
    uneven = [(INPUTS[:5], DATA[1][:5]), (INPUTS[:7], DATA[1][:7])]
    assert lf.gradients(model, torch.nn.functional.cross_entropy, uneven)["0.bias"].shape == (2, 12)
    assert all(p.grad is None for p in model.parameters())


def test_a_parameter_that_the_loss_does_not_see_gets_zeros_and_steps_leave_it():
    model = torch.nn.ModuleDict({"used": torch.nn.Linear(6, 3), "idle": torch.nn.Linear(6, 3)})
    model.forward = model["used"].forward
    batches = [(INPUTS[:4], DATA[1][:4]), (INPUTS[4:8], DATA[1][4:8])]
    computed = lf.gradients(model, torch.nn.functional.cross_entropy, batches)
    assert not computed["idle.weight"].any()
    with pytest.raises(TrainingError, match="batches: must have one"):
        lf.gradients(model, torch.nn.functional.cross_entropy, [])
    torch.nn.functional.cross_entropy(model["idle"](INPUTS), DATA[1]).backward()  # stale, and not to be stepped on
    before = model["idle"].weight.clone()
    lf.step(torch.optim.SGD(model.parameters(), lr=1.0), model, {"used.weight": torch.ones(3, 6)})
    assert torch.equal(model["idle"].weight, before)


def test_step_refuses_names_that_are_no_parameters():
    model = small()
    with pytest.raises(TrainingError, match="update: must be of the model's parameters, got 'x', too"):
        lf.step(torch.optim.SGD(model.parameters(), lr=1.0), model, {"x": torch.ones(1)})


def test_compare_trains_copies_and_leaves_what_the_command_line_reads(tmp_path):
    model = small()
    before = copy.deepcopy(model.state_dict())
    options = {"power": 20.0, "clients": 4, "batch_size": 8, "rounds": 6, "evaluate_every": 2}
    results = lf.compare(model, DATA, DATA, strategies=["sgd", lf.Laser(rank=1)], out=tmp_path / "both", **options)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert list(results) == ["sgd", "laser"]
    laser = results["laser"]
    assert laser.history["round"].tolist() == [2, 4, 6]
    assert laser.ledger.max_power_used.max() <= 20.0 * (1 + 1e-5)
    assert not torch.equal(laser.model[0].weight, model[0].weight)
    assert laser.averaged.keys() == before.keys()
    assert "Result of laser: 6 rounds" in repr(laser)
    assert pd.read_csv(tmp_path / "both" / COMPARISON).strategy.tolist() == ["sgd", "laser"]
    assert (tmp_path / "both" / "laser" / SUMMARY).is_file()
    assert len(results.plot().axes[0].get_legend_handles_labels()[1]) == 2
    assert laser.plot().axes[0].get_xlabel() == "round"


class Pairs(torch.utils.data.Dataset):
    def __len__(self):
        return 24

    def __getitem__(self, index):
        return INPUTS[index], int(DATA[1][index])


def test_a_torch_dataset_is_stacked_once():
    options = {"clients": 2, "batch_size": 4, "rounds": 3, "seed": 1}
    pair = lf.train(small(), (INPUTS[:24], DATA[1][:24]), DATA, **options)
    dataset = lf.train(small(), Pairs(), DATA, **options)
    assert all(torch.equal(a, b) for a, b in zip(pair.model.parameters(), dataset.model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (
            INPUTS,
            "train data: must be a pair of tensors (inputs, targets), a map-style Dataset, or a list with the data of "
            "each client, got a value of type Tensor",
        ),
        ((INPUTS, DATA[1][:5]), "train data: must have a target for each input, got 96 and 5"),
        ((INPUTS[:0], DATA[1][:0]), "train data: must have examples, got none"),
    ],
)
def test_data_that_cannot_be_trained_on_are_refused_in_one_line(data, line):
    with pytest.raises(DataError) as refusal:
        lf.train(small(), data, DATA)
    assert str(refusal.value) == line


def test_own_data_have_no_name_on_the_command_line():
    with pytest.raises(ConfigError, match=r"^task: must be the name of a task here"):
        prepare(parse({"task": "own"}))
