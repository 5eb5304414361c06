"""Whole runs of the in-process engine: their folder, their honesty, their reproducibility."""

import csv
import json
import math

import pytest
import torch
from safetensors.torch import load_file

from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.federated.loop import train
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.federated.server import Server
from laser_fl.pipeline import encode_update
from laser_fl.registry import SCHEMES, Entry, Table
from laser_fl.storage.run_folder import RunFolder
from simulations.engines import in_process
from tests.helpers import aggregate, assert_alike, names

SHORT = {"model": "linear", "clients": 4, "batch-size": 16, "rounds": 6, "evaluate-every": 4}
FILES = {
    "checkpoints",
    "config.json",
    "environment.json",
    "metrics.csv",
    "ledger.csv",
    "timing.csv",
    "weights.safetensors",
    "summary.json",
}
SUMMARY = {
    "status", "engine", "task", "model", "strategy", "seed", "clients", "rounds", "power", "test_accuracy",
    "best_ema_test_accuracy", "test_loss", "uplink_floats_per_round", "compression_ratio", "max_power_used",
    "seconds_total", "seconds_per_round", "peak_device_mb",
}  # fmt: skip


def run(path, **values):
    return in_process.run(parse(SHORT | {k.replace("_", "-"): v for k, v in values.items()}), path)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("strategy", names(SCHEMES))
def test_a_run_leaves_a_complete_folder(tmp_path, strategy):
    summary = run(tmp_path / "run", strategy=strategy)
    assert {path.name for path in (tmp_path / "run").iterdir()} == FILES
    assert summary.keys() >= SUMMARY
    assert json.loads((tmp_path / "run" / "summary.json").read_text()) == summary
    assert summary["status"] == "completed"
    assert summary["peak_device_mb"] is None  # of a GPU
    assert [row["round"] for row in rows(tmp_path / "run" / "metrics.csv")] == ["4", "6"]
    ledger = rows(tmp_path / "run" / "ledger.csv")
    assert [row["round"] for row in ledger] == [str(t) for t in range(1, 7)]
    for row in ledger:
        assert float(row["max_power_used"]) <= float(row["power_budget"]) * (1 + 1e-5)
    assert parse(json.loads((tmp_path / "run" / "config.json").read_text())) == parse(SHORT | {"strategy": strategy})


def test_the_ledger_counts_what_is_sent(tmp_path):
    run(tmp_path / "run", strategy="laser", rank=2)
    odd, even = rows(tmp_path / "run" / "ledger.csv")[:2]  # rounds 1 and 2: Q of 784 x 2, P of 10 x 2, and the bias
    assert (odd["uplink_floats"], even["uplink_floats"]) == (str(784 * 2 + 10), str(10 * 2 + 10))
    assert odd["channel_uses"] == odd["uplink_floats"]
    assert odd["side_channel_floats"] == "6"  # per block two norms up and one amplitude down
    assert int(odd["downlink_floats"]) == 7850 + 10 * 2  # the model and the basis of this round


def test_the_noiseless_baseline_has_no_noise(tmp_path):
    run(tmp_path / "run", strategy="sgd", power=0.1)
    for row in rows(tmp_path / "run" / "ledger.csv"):
        assert (row["noise_std"], row["snr_db"], row["power_budget"]) == ("0.0", "inf", "inf")


@pytest.mark.parametrize("strategy", names(SCHEMES))
def test_the_same_seed_gives_the_same_files_byte_by_byte_and_another_seed_others(tmp_path, strategy):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        run(tmp_path / name, strategy=strategy, seed=seed, power=300)  # enough for digital messages, too
    for file in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        a, b, c = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert a == b
        assert a != c or file == "ledger.csv"  # every round of a digital scheme costs the same


def test_one_by_one_and_batched_runs_agree(tmp_path):
    for batching in ("vmap", "loop"):
        run(tmp_path / batching, strategy="laser", client_batching=batching)
    a, b = (load_file(tmp_path / name / "weights.safetensors") for name in ("vmap", "loop"))
    assert_alike(a, b)


def test_a_gradient_that_is_not_finite_stops_the_run_and_keeps_what_there_is(tmp_path):
    with pytest.raises(TrainingError, match=r"round 2: client 0: the gradient of block 1\.weight is not finite"):
        run(tmp_path / "run", strategy="sgd", learning_rate=1e30, model="mlp")
    assert len(rows(tmp_path / "run" / "ledger.csv")) == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "failed"
    assert "round 2" in summary["reason"]


def test_a_model_that_has_diverged_is_no_completed_run(tmp_path):
    with pytest.raises(TrainingError, match="round 1: the test_loss is nan: the model has diverged"):
        run(tmp_path / "run", strategy="sgd", learning_rate=1e30, model="mlp", rounds=1)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "failed"


def test_an_interrupted_run_keeps_what_there_is(tmp_path):
    class Impatient(Callback):
        def on_round(self, server, seconds):
            if server.round == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        in_process.run(parse(SHORT), tmp_path / "run", [Impatient()])
    assert len(rows(tmp_path / "run" / "ledger.csv")) == 3
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"]) == ("interrupted", 3)


def test_ledger_and_summary_say_what_happened(tmp_path, monkeypatch):
    """By hand: two blocks of 3 and 1 values, two clients, powers 1 and 4 by a policy of our own."""
    policy = Entry("tests.storage.test_runs:rising", "1, then 4")
    monkeypatch.setattr("laser_fl.federated.air_interface.POLICIES", Table({"constant": policy}))
    config = parse(
        {"strategy": "z-sgd", "clients": 2, "noise-variance": 0.25, "rounds": 2, "power-allocation": "uniform"}
    )
    server = Server(config, {"w": torch.zeros(3), "b": torch.zeros(1)}, RoundSchedule(2, rounds_per_epoch=4))
    folder = RunFolder(tmp_path / "run", config, "by hand")
    gradients = {"w": torch.tensor([[3.0, 0, 4], [0, 0, 0]]), "b": torch.tensor([[2.0], [-1]])}
    scores = iter([0.5, 0.75, 0.25, 0.625])

    def advance():
        client_update, _ = encode_update(server.broadcast(), gradients, torch.tensor([1.0, 2.0]).double(), {})
        return aggregate(server, client_update)

    train(server, advance, lambda weights: {"loss": 1.0, "accuracy": next(scores)}, [folder])
    summary = folder.finish(server)
    for line, power in zip(server.ledger, (1.0, 4.0), strict=True):
        assert (line.power_budget, line.channel_uses, line.uplink_floats) == (power, 4, 4)
        assert line.max_power_used == pytest.approx(power)  # the first client is strongest in both blocks
        noise = {"w": 5 * 0.5 / (2 * (power / 2) ** 0.5), "b": 2 * 0.5 / (2 * (power / 2) ** 0.5)}
        energy = 3 * noise["w"] ** 2 + noise["b"] ** 2
        assert line.noise_std == pytest.approx((energy / 4) ** 0.5)
        signal = (1.5**2 + 2**2) + 0.5**2
        assert line.snr_db == pytest.approx(10 * math.log10(signal / energy))
    assert summary["compression_ratio"] == 1
    assert summary["uplink_floats_per_round"] == 4
    assert summary["max_power_used"] == pytest.approx(4)
    assert (summary["test_accuracy"], summary["ema_test_accuracy"]) == (0.25, 0.625)
    assert summary["best_ema_test_accuracy"] == 0.75
    assert summary["mean_snr_db"] == pytest.approx(sum(line.snr_db for line in server.ledger) / 2)
    first, last = rows(tmp_path / "run" / "metrics.csv")
    assert [row["epoch"] for row in (first, last)] == ["0.25", "0.5"]
    assert first["train_loss"] == "1.5"


def test_averages_of_the_uplink_are_over_rounds_in_which_anybody_transmitted(tmp_path):
    """Z-SGD sends everything or nothing: it compresses nothing."""
    keys = {"strategy": "z-sgd", "channel": "fading", "gain_threshold": 0.8, "clients": 1, "rounds": 12}
    summary = run(tmp_path / "run", **keys)
    assert 0 < summary["idle_rounds"] < 12
    assert (summary["compression_ratio"], summary["uplink_floats_per_round"]) == (1, summary["parameters"])


def test_a_round_of_zeros_has_no_signal_and_is_in_no_mean_of_the_ratio(tmp_path):
    config = parse({"strategy": "z-sgd", "clients": 2, "rounds": 2})
    server = Server(config, {"w": torch.zeros(3)}, RoundSchedule(2))
    folder = RunFolder(tmp_path / "run", config, "by hand")
    for gradient in (torch.zeros(2, 3), torch.ones(2, 3)):
        client_update, _ = encode_update(server.broadcast(), {"w": gradient}, torch.ones(2).double(), {})
        aggregate(server, client_update)
    assert server.ledger[0].snr_db == -math.inf
    summary = folder.finish(server)
    assert (summary["mean_snr_db"], summary["idle_rounds"]) == (server.ledger[1].snr_db, 0)


def test_a_run_that_is_interrupted_before_it_begins_leaves_its_folder_as_it_was(tmp_path, monkeypatch):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("laser_fl.storage.run_folder.environment", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def rising(power, step, steps):
    return (1.0, 4.0)[step]


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(ConfigError, match="out-dir: must be a new or empty folder"):
        run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="out-dir: must be"):
        run(tmp_path / "file" / "run")


def test_files_are_replaced_whole(tmp_path, monkeypatch):
    """A write that breaks off leaves the file from before."""
    folder = RunFolder(tmp_path / "run", parse({}), "in-process")
    before = (tmp_path / "run" / "config.json").read_bytes()
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        folder.fail(None, TrainingError("power cut"))
    assert (tmp_path / "run" / "config.json").read_bytes() == before
    assert not (tmp_path / "run" / "summary.json").exists()


def test_observers_see_every_round_and_every_evaluation(tmp_path):
    seen = []

    class Witness(Callback):
        def on_round(self, server, seconds):
            seen.append(server.round)

        def on_evaluation(self, server, metrics):
            seen.append(metrics.flat().keys())

    in_process.run(parse(SHORT), tmp_path / "run", [Witness()])
    columns = {"round", "epoch", "train_loss", "test_loss", "test_accuracy", "ema_test_loss", "ema_test_accuracy"}
    columns |= {"channel_uses", "energy", "latency_seconds"}
    assert seen == [1, 2, 3, 4, columns, 5, 6, columns]


def test_the_plan_counts_epochs_or_rounds():
    by_epoch = RoundSchedule.of(parse({"epochs": 5, "evaluate-every": 2}), rounds_per_epoch=3)
    assert (by_epoch.rounds, by_epoch.steps) == (15, 5)
    assert [t + 1 for t in range(15) if by_epoch.evaluates_after(t)] == [6, 12, 15]
    assert [by_epoch.step(t) for t in (0, 2, 3, 14)] == [0, 0, 1, 4]
    by_round = RoundSchedule.of(parse({"rounds": 5, "evaluate-every": 2}), rounds_per_epoch=3)
    assert [t + 1 for t in range(5) if by_round.evaluates_after(t)] == [2, 4, 5]
    assert by_round.steps == 5


@pytest.mark.parametrize(
    ("values", "every", "evaluations"),
    [
        ({}, 3, 20),
        ({"rounds": 600}, 30, 20),
        ({"rounds": 4000}, 200, 20),
        ({"rounds": 50}, 2, 25),
        ({"rounds": 7}, 1, 7),
        ({"epochs": 50}, 2, 25),
        ({"rounds": 600, "evaluate-every": 200}, 200, 3),
    ],
)
def test_a_run_that_does_not_say_how_often_is_evaluated_about_20_times(values, every, evaluations):
    schedule = RoundSchedule.of(parse(values), rounds_per_epoch=8)
    assert schedule.evaluate_every == every
    assert sum(schedule.evaluates_after(round) for round in range(schedule.rounds)) == evaluations


def test_an_evaluation_adds_to_the_tables_instead_of_writing_them_anew(tmp_path):
    files = {}

    class Witness(Callback):
        def on_evaluation(self, server, metrics):
            for name in ("metrics.csv", "ledger.csv", "timing.csv"):
                path = tmp_path / "run" / name
                files.setdefault(name, set()).add(path.stat().st_ino)
                assert len(rows(path)) == server.round

    in_process.run(parse(SHORT | {"evaluate-every": 1}), tmp_path / "run", [Witness()])
    assert {name: len(known) for name, known in files.items()} == {"metrics.csv": 1, "ledger.csv": 1, "timing.csv": 1}


def test_power_levels_go_by_epochs_where_a_run_counts_them(tmp_path):
    """4 clients, 1,000 examples each, 16 x 32 a round: 2 rounds an epoch, 3 epochs."""
    values = {"rounds": 0, "epochs": 3, "accumulation_steps": 32, "power_policy": "linear-up", "power": 3}
    run(tmp_path / "run", **values)
    levels = [float(row["power_budget"]) for row in rows(tmp_path / "run" / "ledger.csv")]
    assert levels == pytest.approx([1, 1, 3, 3, 5, 5])


@pytest.mark.thorough
@pytest.mark.paper
@pytest.mark.usefixtures("traced")
def test_the_papers_mnist_run_comes_out(tmp_path, data_dir):
    """Table 13, LASER at P = 10: 92.3; a single seed spreads by a few tenths of a point."""
    from simulations import presets

    values = presets.load("mnist") | {"power": 10, "data-dir": data_dir}
    summary = in_process.run(parse(values), tmp_path / "run")
    assert summary["rounds"] == 1500
    assert 100 * summary["best_ema_test_accuracy"] == pytest.approx(92.3, abs=0.6)
    assert math.isclose(summary["max_power_used"], 10, rel_tol=1e-5)
