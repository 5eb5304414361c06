"""Data sets have the known sizes, and one that is missing says where it should be."""

import pytest
import torch

from laser_fl.config import parse
from laser_fl.errors import ConfigError, DataError
from laser_fl.setup import data_dir as resolve
from laser_fl.setup import prepare
from laser_fl.tasks import TASKS


def test_the_embedded_digits_are_4000_and_1000_balanced():
    setup = prepare(parse({}))
    assert setup.task.train.inputs.shape == (4000, 1, 28, 28)
    assert setup.task.test.inputs.shape == (1000, 1, 28, 28)
    assert setup.task.train.targets.bincount().tolist() == [400] * 10
    assert setup.task.test.targets.bincount().tolist() == [100] * 10
    assert setup.task.train.inputs.mean().item() == pytest.approx(0, abs=0.02)
    assert setup.task.train.inputs.std().item() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("task", "first"), [("mnist", 5923), ("fashion-mnist", 6000)])
def test_the_full_sets_have_their_known_sizes(data_dir, task, first):
    setup = prepare(parse({"task": task, "data-dir": data_dir, "model": "linear"}))
    assert setup.task.train.inputs.shape == (60000, 1, 28, 28)
    assert setup.task.test.inputs.shape == (10000, 1, 28, 28)
    assert setup.task.train.targets.bincount()[0] == first
    assert setup.task.train.inputs.mean().item() == pytest.approx(0, abs=2e-3)
    assert setup.task.train.inputs.std().item() == pytest.approx(1, abs=2e-3)


def test_the_linear_model_has_the_papers_7850_values():
    assert sum(w.numel() for w in prepare(parse({"model": "linear"})).weights.values()) == 7850


@pytest.mark.parametrize("task", ["mnist", "fashion-mnist"])
def test_a_missing_data_set_says_where_it_was_looked_for_and_how_to_get_it(task, tmp_path, monkeypatch):
    import torchvision.datasets.mnist as module

    def no_network(*args, **kwargs):
        raise RuntimeError("no network")

    monkeypatch.setattr(module, "download_and_extract_archive", no_network)
    with pytest.raises(DataError) as missing:
        TASKS.load(task)(tmp_path)
    line = str(missing.value)
    assert str(tmp_path) in line
    assert "data-dir" in line
    assert "\n" not in line


def test_an_incomplete_data_set_is_refused_too(tmp_path):
    (tmp_path / "MNIST" / "raw").mkdir(parents=True)
    with pytest.raises(DataError, match="not found in"):
        TASKS.load("mnist")(tmp_path)


def test_the_data_folder_is_the_keys_else_the_variables(monkeypatch):
    monkeypatch.setenv("LASER_FL_DATA", "/from/variable")
    assert str(resolve(parse({"data-dir": "/from/key"}))) == "/from/key"
    assert str(resolve(parse({}))) == "/from/variable"
    monkeypatch.delenv("LASER_FL_DATA")
    assert resolve(parse({})).name == "laser-fl"


def test_more_test_examples_than_there_are_are_refused():
    with pytest.raises(ConfigError, match="evaluate-examples: must be at most the 1000 test examples, got 1001"):
        prepare(parse({"evaluate-examples": 1001}))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match="device: must be one of this machine's 0 GPUs, got cuda"):
        prepare(parse({"device": "cuda"}))
