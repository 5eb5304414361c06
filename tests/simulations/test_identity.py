"""A run is known by its whole config: no two share a folder, and no folder is taken for another run's."""

import json

import pandas as pd
import pytest

from laser_fl.errors import ConfigError
from laser_fl.registry import TASKS
from simulations import identity, sweep
from simulations.identity import has_own_data
from simulations.results import results, varied
from simulations.sweep import Grid, execute, runs_of
from tests.helpers import one_after_the_other
from tests.parts import visiting

TINY = {"model": "linear", "clients": 4, "rounds": 2}
SAME_32_BITS = {"seed": [8301, 93357]}  # of which the first 32 bits of BLAKE2's digests are the same


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Return the run of TINY, which is complete."""
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    (run,) = runs_of([Grid(TINY)], tmp_path)
    assert execute([run], lambda run, reason: None) == {}
    assert run.summary
    return run


def write(run, config):
    (run.folder / "config.json").write_text(json.dumps(config))


def config_of(run):
    return json.loads((run.folder / "config.json").read_text())


def test_runs_whose_short_digests_are_the_same_are_two(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    grid = Grid(TINY, SAME_32_BITS)
    runs = runs_of([grid], tmp_path)
    assert len({run.folder for run in runs}) == len(runs) == 2
    assert execute(runs, lambda run, reason: None) == {}
    assert results(runs, tmp_path, [grid]).seed.tolist() == [8301, 93357]


def test_a_digest_that_two_runs_share_makes_them_neither_one_run_nor_one_result(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    monkeypatch.setattr(identity, "digest_of", lambda its: "0")
    monkeypatch.setattr(sweep, "digest_of", lambda its: "0")
    one, other = runs_of([Grid(TINY, SAME_32_BITS)], tmp_path)
    assert one.folder != other.folder
    assert execute([one], lambda run, reason: None) == {}
    again, late = runs_of([Grid(TINY, SAME_32_BITS)], tmp_path)
    assert (again.folder, late.summary) == (one.folder, None)
    with pytest.raises(ConfigError, match="runs: must hold no run of other settings, got"):
        execute([late], lambda run, reason: None)
    assert one.summary["status"] == "completed"


def test_a_completed_run_is_found_by_its_config_whatever_its_folder_is_called(made, tmp_path):
    made.folder.rename(tmp_path / "mnist-5k-laser-0badcafe")
    (found,) = runs_of([Grid(TINY)], tmp_path)
    assert (found.label, found.summary["status"]) == ("mnist-5k-laser-0badcafe", "completed")
    (other,) = runs_of([Grid(TINY | {"seed": 1})], tmp_path)
    assert (other.folder.exists(), other.summary) == (False, None)


def test_a_key_that_a_folder_does_not_know_has_its_default_there(made, tmp_path):
    (other,) = runs_of([Grid(TINY | {"momentum": 0.5})], tmp_path)
    other.folder.mkdir()
    (other.folder / "summary.json").write_text((made.folder / "summary.json").read_text())
    without = {key: value for key, value in config_of(made).items() if key != "momentum"}
    write(made, without)
    write(other, without)  # as a version wrote it that had no momentum
    assert made.summary
    assert other.summary is None


def test_a_folder_with_a_key_that_no_run_has_is_another_runs(made):
    write(made, config_of(made) | {"brightness": 0.5})
    assert made.summary is None


def test_a_run_of_other_settings_is_not_replaced_even_if_it_is_incomplete(made):
    write(made, config_of(made) | {"rounds": 200})
    (made.folder / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    with pytest.raises(ConfigError, match="runs: must hold no run of other settings"):
        execute([made], lambda run, reason: None)
    assert (made.folder / "weights.safetensors").is_file()


def test_results_without_settings_are_not_replaced(made):
    (made.folder / "config.json").unlink()
    with pytest.raises(ConfigError, match="runs: must hold no run of other settings"):
        execute([made], lambda run, reason: None)


@pytest.mark.parametrize(
    "content", ['{"data-dir": "\\u0000", "task": "text"}', "[" * 100_000, "[1]", "", '{"task": []}']
)
def test_no_file_below_the_sweeps_folder_disturbs_it(tmp_path, content):
    stranger = tmp_path / "mine-1"
    stranger.mkdir()
    (stranger / "config.json").write_text(content)
    (stranger / "summary.json").write_text('{"status": "completed"}')
    (run,) = runs_of([Grid(TINY)], tmp_path)
    assert (run.folder.exists(), run.summary) == (False, None)


@pytest.mark.parametrize("task", ["text", "images", "table"])
def test_own_data_in_two_folders_make_two_runs(tmp_path, task):
    grid = Grid({"task": task, "model": "auto", "rounds": 1}, {"data-dir": ["one", "other", "./one"]})
    runs = runs_of([grid], tmp_path)
    assert [run.config.data_dir for run in runs] == ["one", "other"]
    assert len({run.folder for run in runs}) == 2
    assert varied(pd.DataFrame([run.config.to_flat() for run in runs]), ("data-dir",)) == ["data-dir"]


def test_every_task_that_reads_its_users_data_is_known():
    assert {name for name, entry in TASKS.items() if "data-dir" in entry.summary} == set(identity.OWN_DATA)
    assert has_own_data("my_task:load")


def test_a_folders_name_is_as_long_as_file_systems_take(tmp_path):
    """The name is cut within a letter of two bytes."""
    keys = {"task": ["table"], "target": ["ä" * 150], "client-column": ["b" * 90], "seed": [0, 1]}
    runs = runs_of([Grid({"model": "auto", "rounds": 1, "partition": "by-column"}, keys)], tmp_path)
    assert len({run.folder for run in runs}) == 2
    for run in runs:
        assert len(run.label.encode()) <= identity.LONGEST_NAME
        run.folder.mkdir()


def test_a_folder_has_a_name_where_a_value_is_no_text_of_this_locale():
    assert identity.name_of("images-data-dir=\udcff", frozenset()).startswith("images-data-dir=-")


def test_options_of_a_part_from_outside_tell_runs_apart(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_scheme.py").write_text(
        "from dataclasses import dataclass\n\nimport laser_fl as lf\nfrom laser_fl.schemes.z_sgd import ZSgd\n\n\n"
        "@dataclass(frozen=True)\nclass Own(ZSgd):\n    keep: float = lf.option(0.5, 'share', gt=0)\n"
    )
    with visiting(tmp_path):
        runs = runs_of([Grid({"strategy": "own_scheme:Own"}, {"keep": [0.5, 0.25]})], tmp_path)
    assert len({run.folder for run in runs}) == 2
