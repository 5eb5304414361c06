"""Where else a run is logged; and what is kept of where it ran."""

import json
import subprocess
import sys

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from laser_fl.callbacks import Callback
from laser_fl.config import parse
from laser_fl.errors import ConfigError, TrainingError
from laser_fl.storage.environment import SOURCE
from simulations.cli import app
from simulations.engines import in_process

SHORT = {"model": "linear", "clients": 4, "rounds": 6, "evaluate-every": 3, "batch-size": 8}


def events(folder):
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_tensorboard_shows_what_the_tables_hold(tmp_path):
    in_process.run(parse(SHORT | {"tracker": "tensorboard"}), tmp_path / "run")
    logged = events(tmp_path / "run")
    metrics, ledger = (pd.read_csv(tmp_path / "run" / name) for name in ("metrics.csv", "ledger.csv"))
    accuracy = logged.Scalars("metrics/test_accuracy")
    assert [event.step for event in accuracy] == metrics["round"].tolist()
    assert [event.value for event in accuracy] == pytest.approx(metrics.test_accuracy.tolist())
    snr = logged.Scalars("ledger/snr_db")
    assert [event.value for event in snr] == pytest.approx(ledger.snr_db.tolist())
    assert '"clients": 4' in logged.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()


def test_tensorboard_keeps_what_there_is_of_a_failed_run(tmp_path):
    wrong = SHORT | {"model": "mlp", "strategy": "sgd", "learning-rate": 1e30, "tracker": "tensorboard"}
    with pytest.raises(TrainingError, match="not finite"):
        in_process.run(parse(wrong), tmp_path / "run")
    assert events(tmp_path / "run").Scalars("ledger/power_budget")


def test_a_tracker_changes_no_result(tmp_path):
    for tracker in ("none", "tensorboard"):
        in_process.run(parse(SHORT | {"tracker": tracker}), tmp_path / tracker)
    for name in ("metrics.csv", "ledger.csv", "weights.safetensors"):
        assert (tmp_path / "none" / name).read_bytes() == (tmp_path / "tensorboard" / name).read_bytes()


@pytest.mark.thorough
@pytest.mark.process
def test_weights_and_biases_keeps_a_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="Weights & Biases is an extra: pip install 'laser-fl[wandb]'")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    in_process.run(parse(SHORT | {"tracker": "wandb"}), tmp_path / "run")
    assert list((tmp_path / "run" / "wandb").glob("offline-run-*/*.wandb"))


class Recorder:
    """Stands for a run of W&B."""

    def __init__(self, starting_step=0):
        self.logged, self.ended, self.starting_step = [], None, starting_step

    def log(self, values, step):
        self.logged.append((step, values))

    def finish(self, exit_code):
        self.ended = exit_code


def test_weights_and_biases_is_told_what_the_tables_hold(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is an extra: pip install 'laser-fl[wandb]'")
    there = Recorder()
    monkeypatch.setattr(wandb, "init", lambda **keys: there)
    in_process.run(parse(SHORT | {"tracker": "wandb"}), tmp_path / "run")
    metrics, ledger = (pd.read_csv(tmp_path / "run" / name) for name in ("metrics.csv", "ledger.csv"))
    accuracies = [(step, v["metrics/test_accuracy"]) for step, v in there.logged if "metrics/test_accuracy" in v]
    assert accuracies == list(zip(metrics["round"], metrics.test_accuracy, strict=True))
    powers = [v["ledger/max_power_used"] for _, v in there.logged if "ledger/max_power_used" in v]
    assert powers == pytest.approx(ledger.max_power_used.tolist())
    assert there.ended == 0
    failing = SHORT | {"model": "mlp", "strategy": "sgd", "learning-rate": 1e30, "tracker": "wandb"}
    with pytest.raises(TrainingError):
        in_process.run(parse(failing), tmp_path / "failed")
    assert there.ended == 1


class Stop(Callback):
    """Ends a run after some rounds as Ctrl-C does."""

    def on_round(self, server, seconds):
        if server.round == 5:
            raise KeyboardInterrupt


def stop_and_go_on(path, tracker):
    config = parse(SHORT | {"tracker": tracker, "checkpoint-every": 3})
    with pytest.raises(KeyboardInterrupt):
        in_process.run(config, path, [Stop()])
    in_process.run(config.model_copy(update={"resume": str(path)}), path)


def test_tensorboard_shows_every_round_once_where_a_run_went_on(tmp_path):
    stop_and_go_on(tmp_path / "run", "tensorboard")
    logged = events(tmp_path / "run")
    assert [event.step for event in logged.Scalars("ledger/snr_db")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in logged.Scalars("metrics/test_accuracy")] == [3, 6]


def test_weights_and_biases_goes_on_with_the_same_run(tmp_path, monkeypatch):
    """It had heard of five rounds, of which the checkpoint has three."""
    wandb = pytest.importorskip("wandb", reason="Weights & Biases is an extra: pip install 'laser-fl[wandb]'")
    begun, asked = [Recorder(), Recorder(starting_step=6)], []

    def init(**keys):
        asked.append((keys.get("id"), keys.get("resume")))
        (tmp_path / "run" / "wandb" / "run-20260102_030405-abc123").mkdir(parents=True, exist_ok=True)
        return begun[len(asked) - 1]

    monkeypatch.setattr(wandb, "init", init)
    stop_and_go_on(tmp_path / "run", "wandb")
    assert asked == [(None, None), ("abc123", "allow")]
    rounds = [[step for step, values in run.logged if "ledger/snr_db" in values] for run in begun]
    assert rounds == [[1, 2, 3, 4, 5], [6]]
    assert [[step for step, v in run.logged if "metrics/test_loss" in v] for run in begun] == [[3], [6]]


def test_a_tracker_that_breaks_at_the_end_costs_no_result(tmp_path, monkeypatch):
    def broken(self, completed):
        raise OSError("the network is down")

    monkeypatch.setattr("laser_fl.storage.trackers.tensorboard.TensorBoard.close", broken)
    with pytest.warns(UserWarning, match="tracker: tensorboard did not close: the network is down"):
        in_process.run(parse(SHORT | {"tracker": "tensorboard"}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["status"] == "completed"
    assert (tmp_path / "run" / "weights.safetensors").is_file()


def test_a_tracker_that_refuses_leaves_no_used_folder(tmp_path, monkeypatch):
    def refuse(self, folder, config):
        (folder / "rest").write_text("")
        raise ConfigError("tracker: must let Weights & Biases start (no key), got 'wandb'")

    monkeypatch.setattr("laser_fl.storage.trackers.tensorboard.TensorBoard.__init__", refuse)
    with pytest.raises(ConfigError, match="no key"):
        in_process.run(parse(SHORT | {"tracker": "tensorboard"}), tmp_path / "run")
    in_process.run(parse(SHORT), tmp_path / "run")


def test_a_tracker_that_is_not_installed_is_refused(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    monkeypatch.delitem(sys.modules, "laser_fl.storage.trackers.weights_and_biases", raising=False)
    result = CliRunner().invoke(app, ["run", "-c", "tracker=wandb", "--out", str(tmp_path / "run")])
    assert result.exit_code == 2
    assert result.stderr == "tracker=wandb: needs wandb: pip install 'laser-fl[wandb]'\n"
    assert not (tmp_path / "run").exists()


def test_a_run_says_where_it_was_made(tmp_path):
    in_process.run(parse(SHORT), tmp_path / "run")
    made = json.loads((tmp_path / "run" / "environment.json").read_text())
    if (SOURCE / ".git").exists():
        head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=SOURCE, capture_output=True, text=True, check=True)
        assert made["revision"].removesuffix("+") == head.stdout.strip()
    import torch

    assert made["torch"] == torch.__version__
    assert made["laser-fl"]
