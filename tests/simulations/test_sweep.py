"""Sweeps: grids, the best of some values, going on after an interruption, failures that stay alone."""

import json
import math

import pandas as pd
import pytest
from filelock import FileLock
from typer.testing import CliRunner

from laser_fl.errors import ConfigError, DataError
from simulations import sweep
from simulations.cli import app
from simulations.results import results
from simulations.sweep import Grid, Run, execute, read_grid, runs_of
from tests.helpers import one_after_the_other

TINY = {"task": "mnist-5k", "model": "linear", "clients": 4, "rounds": 4, "batch-size": 8, "evaluate-every": 2}
FILE = """
[fixed]
task = "mnist-5k"
model = "linear"
clients = 4
rounds = 3
batch-size = 8

[grid]
strategy = ["z-sgd", "laser"]
seed = [0, 1]

[best-of]
learning-rate = [0.01, 1e-5]
"""


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def test_grids_are_products():
    runs = list(Grid({"a": 1}, {"b": [2, 3]}, {"c": ["x", "y"]}))
    assert runs[:3] == [{"a": 1, "b": 2, "c": "x"}, {"a": 1, "b": 2, "c": "y"}, {"a": 1, "b": 3, "c": "x"}]
    assert len(runs) == 4


def test_a_run_keeps_its_folder_whatever_else_is_swept_and_equal_runs_are_one(tmp_path):
    one = runs_of([Grid(TINY, {"power": [1.0, 2.0]}), Grid(TINY | {"power": 2.0})], tmp_path)
    assert len(one) == 2
    more = runs_of([Grid(TINY, {"power": [2.0, 3.0]})], tmp_path)
    assert more[0].folder == one[1].folder
    more[0].folder.mkdir()
    assert runs_of([Grid(TINY | {"power": 2}, {"rank": [2]})], tmp_path)[0].folder == more[0].folder
    elsewhere = runs_of([Grid(TINY | {"data-dir": "/elsewhere"}, {"power": [2.0]})], tmp_path)
    assert elsewhere[0].folder == more[0].folder


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[grids]\n", "sweep: must have no parts but best-of, fixed, grid, preset, got 'grids'"),
        ("[bestof]\n", "grid, preset, got 'bestof', did you mean best-of?"),
        ("[grid]\npower = 3\n", "sweep: grid.power must be a list of values, got 3"),
        ("[best-of]\nrank = []\n", r"sweep: best-of.rank must be a list of values, got \[\]"),
        ("power = [", "sweep: must be TOML"),
        ("preset = 'moon'\n", "preset: must be one of"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, text, line):
    (tmp_path / "s.toml").write_text(text)
    with pytest.raises(ConfigError, match=line):
        read_grid(tmp_path / "s.toml")


def test_a_file_that_is_not_there_and_wrong_values_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="sweep: must be a file"):
        read_grid(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="rank: must be greater than 0 for strategy laser, got 0"):
        runs_of([Grid(TINY, {"rank": [2, 0]})], tmp_path)


@pytest.mark.thorough
@pytest.mark.simulation
def test_ray_carries_out_what_it_can(tmp_path):
    runs = runs_of([Grid(TINY | {"model": "mlp", "strategy": "sgd"}, {"learning-rate": [1e30, 0.01]})], tmp_path)
    failing, fine = runs
    failed = execute(runs, lambda run, reason: None)
    assert failed.keys() == {failing.label}
    assert failed[failing.label].startswith("round ")
    assert fine.summary


def test_a_sweep_runs_everything_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    file, root = tmp_path / "s.toml", tmp_path / "out"
    file.write_text(FILE)
    plan = call("sweep", file, "--out", root, "--dry-run")
    assert "8 of 8 to do" in plan.output
    assert not root.exists()
    assert call("sweep", file, "--out", root, "--quiet").exit_code == 0
    table = pd.read_parquet(root / "results.parquet")
    assert len(table) == 8
    assert set(table.status) == {"completed"}
    assert table[table.chosen]["learning-rate"].tolist() == [0.01] * 4
    runs = runs_of([read_grid(file)], root)
    written = {run.label: (run.folder / "summary.json").stat().st_mtime_ns for run in runs}
    (runs[0].folder / "summary.json").unlink()  # as if it had been killed
    (runs[1].folder / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    seen = []
    assert execute(runs, lambda run, reason: seen.append(run.label)) == {}
    assert sorted(seen) == sorted([runs[0].label, runs[1].label])
    after = {run.label: (run.folder / "summary.json").stat().st_mtime_ns for run in runs}
    assert {label for label in after if after[label] != written[label]} == set(seen)
    assert execute(runs, lambda run, reason: pytest.fail("nothing was left to do")) == {}
    assert "0 of 8 to do" in call("sweep", file, "--out", root, "--dry-run").output


def test_a_run_that_fails_is_reported_and_leaves_the_others_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    file = tmp_path / "s.toml"
    file.write_text(
        FILE.replace('"z-sgd", "laser"', '"sgd"').replace("0.01, 1e-5", "0.01, 1e30").replace("linear", "mlp")
    )
    result = call("sweep", file, "--out", tmp_path / "out", "--quiet")
    assert result.exit_code == 1
    reasons = [line for line in result.stderr.splitlines() if ": round 1: the test_loss is nan" in line]
    assert len([line for line in reasons if " failed" not in line]) == 2
    assert len(pd.read_parquet(tmp_path / "out" / "results.parquet")) == 2


def test_nothing_starts_where_a_run_would_be_refused(tmp_path):
    runs = runs_of([Grid(TINY, {"clients": [4, 4001]})], tmp_path / "out")
    with pytest.raises(ConfigError, match="clients: must be at most the 4000 training examples, got 4001"):
        execute(runs, lambda run, reason: None)
    assert not (tmp_path / "out").exists()


def test_the_best_value_is_chosen_by_the_mean_over_seeds(tmp_path, monkeypatch):
    asked = TINY | {"rounds": 0, "epochs": 3, "device": "auto"}  # of which a summary knows better
    grid = Grid(asked, {"power": [1.0, 2.0], "seed": [0, 1]}, {"learning-rate": [0.1, 0.2]})
    scores = {(1.0, 0.1): (0.9, 0.1), (1.0, 0.2): (0.6, 0.6), (2.0, 0.1): (0.8, 0.8), (2.0, 0.2): (0.7, 0.85)}

    def summary(run):
        config = run.config
        score = scores[config.power, config.learning_rate][config.seed]
        return {"best_ema_test_accuracy": score, "loss": math.inf, "rounds": 100, "device": "cuda:0"}

    def chosen():
        table = results(runs_of([grid], tmp_path), tmp_path, [grid])
        best = table[table.chosen][["power", "learning-rate"]].drop_duplicates()
        return [tuple(row) for row in best.to_numpy()]

    monkeypatch.setattr(Run, "summary", property(lambda run: {"status": "completed"} | summary(run)))
    assert chosen() == [(1.0, 0.2), (2.0, 0.1)]

    def one_failed(run):
        failed = (run.config.power, run.config.learning_rate, run.config.seed) == (2.0, 0.1, 0)
        return None if failed else {"status": "completed"} | summary(run)

    monkeypatch.setattr(Run, "summary", property(one_failed))
    assert chosen() == [(1.0, 0.2), (2.0, 0.2)]
    monkeypatch.setattr(Run, "summary", property(lambda run: {"status": "completed", "best_ema_test_accuracy": 0.5}))
    assert chosen() == [(1.0, 0.1), (2.0, 0.1)]


def test_every_config_of_a_sweep_is_checked(tmp_path):
    text = {"task": "pydoc", "model": "gpt2", "layers": 1, "heads": 1, "embedding": 4, "clients": 2, "rounds": 1}
    for wrong, line in (
        ({"context": [12, 10**6]}, "pydoc, train: must have more tokens than a context of 1000000"),
        ({"evaluate-examples": [5, 10**7]}, "evaluate-examples: must be at most"),
        (
            {"dropout": [0.0, 0.2], "client-batching": ["vmap"]},
            "client-batching: must be loop or auto for a model with dropout",
        ),
    ):
        with pytest.raises((ConfigError, DataError), match=line):
            execute(runs_of([Grid(text, wrong)], tmp_path), lambda run, reason: None)


def test_a_key_that_is_new_changes_no_run_and_one_that_was_changed_does(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    (run,) = runs_of([Grid(TINY)], tmp_path)
    assert execute([run], lambda run, reason: None) == {}
    config = json.loads((run.folder / "config.json").read_text())
    assert run.summary
    (run.folder / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "tracker"}))
    assert run.summary
    (run.folder / "config.json").write_text(json.dumps(config | {"sparsity": 0.3}))  # as if a default had changed
    assert run.summary is None
    with pytest.raises(ConfigError, match="runs: must hold no run of other settings"):
        execute([run], lambda run, reason: None)
    assert (run.folder / "weights.safetensors").is_file()


def test_two_commands_do_not_carry_out_the_same_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_on_ray", one_after_the_other)
    with FileLock(tmp_path / ".lock"), pytest.raises(ConfigError, match="runs: must be used by one command at a time"):
        execute(runs_of([Grid(TINY)], tmp_path), lambda run, reason: None)
    assert execute(runs_of([Grid(TINY)], tmp_path), lambda run, reason: None) == {}


def test_a_place_for_runs_that_is_none_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="runs: must be a folder that can be written and locked"):
        execute(runs_of([Grid(TINY)], tmp_path / "file"), lambda run, reason: None)


def test_a_failure_that_nobody_foresaw_shows_its_last_lines(tmp_path, monkeypatch):
    def broken(config, folder):
        raise ZeroDivisionError("by nothing")

    monkeypatch.setattr("simulations.engines.in_process.run", broken)
    reason = sweep._carry_out(runs_of([Grid(TINY)], tmp_path)[0])
    assert reason.splitlines()[-1] == "ZeroDivisionError: by nothing"
    assert 1 < len(reason.splitlines()) <= sweep.LAST_LINES


def test_a_sweep_over_partitions_says_whose_epochs_are_longer_before_it_starts(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(sweep, "_on_ray", lambda *_: told.append("start") or {})
    base = TINY | {"rounds": 0, "epochs": 2, "dirichlet-alpha": 0.1}
    runs = runs_of([Grid(base, {"partition": ["iid", "dirichlet"]})], tmp_path)
    execute(runs, lambda run, reason: None, note=lambda run, notice: told.append(f"{run.config.partition}: {notice}"))
    longer, start = told
    assert (longer.startswith("dirichlet: an epoch has "), start) == (True, "start")
