"""The presets: full ones at the paper's exact shapes, small ones that learn."""

import json
import os
import resource
import subprocess
import sys

import pandas as pd
import pytest

from laser_fl.config import parse
from simulations import presets
from simulations.cli.common import settings_of
from simulations.engines import in_process
from simulations.reproduction import Reproduction
from simulations.sweep import read_grid
from tests.data.test_tasks import cifar100_like

FEW = {"rounds": 2, "batch-size": 2, "clients": 2, "evaluate-every": 2}


def few(name, **values):
    return parse(presets.load(name) | FEW | {key.replace("_", "-"): value for key, value in values.items()})


@pytest.mark.thorough
@pytest.mark.paper
@pytest.mark.parametrize(("name", "values"), [("cifar10", 11_173_962), ("cifar100", 11_220_132)])
def test_full_resnet18_presets_run_on_a_cpu(tmp_path, monkeypatch, request, name, values):
    """CIFAR-100 on files of its form."""
    if name == "cifar10":
        data = request.getfixturevalue("data_dir")
    else:
        monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
        cifar100_like(tmp_path, test=64)
        data = str(tmp_path)
    summary = in_process.run(few(name, evaluate_examples=64, data_dir=data, device="cpu"), tmp_path / "run")
    assert (summary["status"], summary["rounds"], summary["parameters"]) == ("completed", 2, values)
    ledger = pd.read_csv(tmp_path / "run" / "ledger.csv")
    buffers = 9600
    assert (ledger.downlink_floats >= values + buffers).all()
    assert (ledger.side_channel_floats >= buffers).all()


@pytest.mark.thorough
@pytest.mark.paper
@pytest.mark.parametrize(
    ("task", "rounds", "size"),
    [
        pytest.param("pydoc", 1, {"batch-size": 1, "accumulation-steps": 1, "evaluate-examples": 2}, id="a short text"),
        pytest.param("wikitext-2", 2, {"accumulation-steps": 2}, marks=pytest.mark.long, id="WikiText-2"),
    ],
)
def test_the_full_gpt2_preset_runs_on_a_cpu_in_less_than_12_gb(tmp_path, data_dir, task, rounds, size):
    """In a process of its own, whose memory is its own. Of three micro-steps two or one: they add up alike."""
    options = {"task": task, "device": "cpu", "evaluate-examples": 4, "checkpoint-every": 0} | FEW
    options |= {"rounds": rounds} | size
    overrides = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
    command = ["run", "--preset", "gpt2-wikitext103", *overrides, "--quiet", "--out", str(tmp_path / "run")]
    code = "import sys; from simulations.cli import app; app(sys.argv[1:])"
    environment = os.environ | {"LASER_FL_CACHE": str(tmp_path / "cache"), "LASER_FL_DATA": data_dir}
    subprocess.run([sys.executable, "-c", code, *command], check=True, env=environment, capture_output=True)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["rounds"], summary["parameters"]) == ("completed", rounds, 123_980_544)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 < 12e9


@pytest.mark.thorough
@pytest.mark.paper
@pytest.mark.parametrize(("name", "rounds", "share"), [("cifar10-small", 60, 0.1), ("gpt2-small", 60, 0.25)])
def test_small_presets_learn_without_noise(tmp_path, data_dir, name, rounds, share):
    """The training loss of the last evaluation is below that of the first by a share of it."""
    changes = {"strategy": "sgd", "rounds": rounds, "evaluate-every": 1, "evaluate-examples": 1, "data-dir": data_dir}
    in_process.run(parse(presets.load(name) | changes), tmp_path / "run")
    losses = pd.read_csv(tmp_path / "run" / "metrics.csv").train_loss
    assert losses.tail(10).mean() < (1 - share) * losses.head(1).mean()


@pytest.mark.parametrize(
    ("given", "every"),
    [([], 1), (["epochs=5"], 1), (["rounds=600"], 30), (["rounds=600", "evaluate-every=7"], 7)],
)
def test_a_presets_evaluations_are_for_its_own_length(given, every):
    """Each epoch of MNIST, not each round."""
    assert settings_of("mnist", given, None).evaluation_interval == every


def test_in_sweeps_and_reproductions_too(tmp_path):
    for part in ("[fixed]\nrounds = 600", "[grid]\nrounds = [600]"):
        (tmp_path / "grid.toml").write_text(f'preset = "mnist"\n{part}\n')
        assert [parse(values).evaluation_interval for values in read_grid(tmp_path / "grid.toml")] == [30]
    (first, *_) = Reproduction.asked("table13", "small", {"rounds": "600"}, {}).grids
    assert {parse(values).evaluation_interval for values in first} == {30}
