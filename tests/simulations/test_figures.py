"""Every figure's runs are valid, and one command runs and draws them."""

import math
import re
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure as Picture
from typer.testing import CliRunner

from laser_fl.registry import Entry, Table
from laser_fl.storage.files import SPECTRUM
from simulations.cli import app
from simulations.figures import FIGURES
from simulations.figures.base import Figure, Scale
from simulations.figures.figure6 import LAYERS
from simulations.figures.judges import Scores
from simulations.reproduction import Reproduction
from simulations.sweep import Grid, runs_of
from tests.helpers import names, one_after_the_other

TINY = {"task": "mnist-5k", "model": "linear", "clients": 4, "rounds": 4, "batch-size": 8, "evaluate-every": 2}


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", names(FIGURES))
class TestEveryFigure:
    def test_has_runs_that_are_valid_and_each_once(self, name, tmp_path):
        for scale in FIGURES.load(name).scales.values():
            runs = runs_of(scale.grids, tmp_path)
            assert len({repr(run.config) for run in runs}) == len({run.folder for run in runs}) == len(runs)
            assert scale.time
            assert "scores" in scale.tables

    @pytest.mark.parametrize("scale", ["full", "small"])
    def test_judges_and_draws_results(self, name, scale, tmp_path):
        """Every run at the same score; the picture is not looked at here."""
        figure = FIGURES.load(name)
        runs = runs_of(figure.scales[scale].grids, tmp_path)
        results = pd.DataFrame([run.config.to_flat() | {"folder": str(tmp_path)} for run in runs])
        texts = results.get("task", pd.Series(dtype=str)).str.startswith("wiki")
        for metric, its in (("accuracy", ~texts), ("perplexity", texts)):
            if its.any():
                results.loc[its, [f"best_ema_test_{metric}", f"test_{metric}"]] = 0.5
        spectra = [{"round": 1, "epoch": 1.0, "block": block, "energy": 0.5} for block in LAYERS]
        pd.DataFrame(spectra).to_csv(tmp_path / SPECTRUM, index=False)
        tables = {part: judge(results) for part, judge in figure.scales[scale].tables.items()}
        if runs:
            assert set(tables["scores"]["mean"]) <= {0.5 if texts.any() else 50, 50 if (~texts).any() else 0.5}
        assert all(len(table) for table in tables.values())
        picture = figure.draw(results)
        picture.draw_without_rendering()
        for axes in picture.axes:
            assert axes.get_xlabel()
            assert all(math.isfinite(y) for line in axes.lines for y in line.get_ydata() if not isinstance(y, str))


def test_the_same_run_serves_several_figures(tmp_path):
    def digests(name):
        return {run.label[-8:] for run in runs_of(FIGURES.load(name).scales["small"].grids, tmp_path)}

    assert digests("figure3") < digests("figure7")
    assert digests("figure3") & digests("figure2")
    assert digests("figure5") & digests("figure2")


def two_powers(results):
    picture = Picture()
    picture.subplots().plot(results.power, results.test_accuracy)
    return picture


SCORES = {"scores": Scores(("power",), {(1.0,): 0.0, (100.0,): 100.0}, tolerance=1.0)}
TOY = Figure(
    "a toy",
    {
        "small": Scale(
            (Grid(TINY, {"power": [1.0, 100.0]}), Grid(TINY, {"power": [1.0]})),
            "a second",
            SCORES,
        )
    },
    two_powers,
)


def test_one_command_runs_and_draws(toy, tmp_path):
    result = toy("-c", "rounds=6")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "toy" / "toy.png").is_file()
    assert (tmp_path / "toy" / "toy.pdf").is_file()
    assert len(list((tmp_path / "runs").glob("mnist-5k-*"))) == 2
    table = pd.read_parquet(tmp_path / "toy" / "results.parquet")
    assert table.rounds.tolist() == [6, 6]
    assert pd.read_csv(tmp_path / "toy" / "scores.csv").verdict.tolist() == ["better", "worse"]


def test_a_figures_own_keys_cannot_be_set(monkeypatch):
    monkeypatch.setattr(
        "simulations.reproduction.FIGURES", Table({"toy": Entry("tests.simulations.test_figures:TOY", "two runs")})
    )
    result = call("reproduce", "toy", "-c", "power=3")
    line = "power: must be left to the figure, which sets it itself, got '3'\n"
    assert (result.exit_code, result.stderr) == (2, line)


@pytest.fixture
def toy(monkeypatch, tmp_path):
    """Call `reproduce toy` with more arguments."""
    monkeypatch.setattr(
        "simulations.reproduction.FIGURES", Table({"toy": Entry("tests.simulations.test_figures:TOY", "two runs")})
    )
    monkeypatch.setattr("simulations.sweep._on_ray", one_after_the_other)
    where = ("--out", tmp_path / "toy", "--runs", tmp_path / "runs", "--quiet")
    return lambda *arguments: call("reproduce", "toy", *where, *arguments)


def test_what_is_not_the_figure_is_told(toy, tmp_path):
    result = toy("-c", "rounds=2", "--only", "power=1")
    assert result.exit_code == 0, result.output
    assert "a toy, small, rounds=2, only power=1: scores" in " ".join(result.output.split())
    assert Reproduction.read(tmp_path / "toy").title == "a toy, small, rounds=2, only power=1"
    assert pd.read_csv(tmp_path / "toy" / "scores.csv").power.tolist() == [1.0]


def test_a_changed_figure_has_a_folder_of_its_own():
    def made(overrides=None, only=None):
        return Reproduction("table13", "full", overrides or {}, only or {})

    assert made().default_folder.as_posix() == "runs/table13-full"
    assert made({"epochs": "1"}).default_folder.as_posix() == "runs/table13-full-changed"
    assert made(only={"power": ["1"]}).default_folder.as_posix() == "runs/table13-full-changed"
    elsewhere = made({"device": "cuda", "data-dir": "x", "tracker": "tensorboard"})
    assert elsewhere.default_folder.as_posix() == "runs/table13-full"
    assert elsewhere.title == "Table 13: test accuracy on MNIST (%), full"


def test_figures_of_which_a_part_was_run_are_judged_as_far_as_they_go(tmp_path):
    for name, only in (
        ("figure2", {"strategy": ["z-sgd"]}),
        ("figure3", {"strategy": ["laser"]}),
        ("figure5", {"rank": ["1"]}),
    ):
        made = Reproduction.asked(name, "small", {}, only)
        rows = [run.config.to_flat() | {"folder": str(tmp_path)} for run in made.runs(tmp_path)]
        results = pd.DataFrame(rows).assign(best_ema_test_accuracy=0.5)
        tables = {part: judge(results) for part, judge in made.figure.scales["small"].tables.items()}
        assert set(tables["claims"].verdict) == {"incomplete"}
        made.figure.draw(results)


def test_a_failed_run_fails_the_command_and_leaves_the_rest(toy, tmp_path, monkeypatch):
    wrong = Scale((Grid(TINY | {"strategy": "sgd", "model": "mlp"}, {"learning-rate": [0.01, 1e30]}),), "", SCORES)
    monkeypatch.setitem(TOY.scales, "small", wrong)
    result = toy()
    assert result.exit_code == 1
    assert "is not finite" in result.stderr
    assert pd.read_csv(tmp_path / "toy" / "scores.csv").seeds.tolist() == [1]


def test_only_takes_a_value_that_goes_with_other_keys_of_the_figure(tmp_path):
    asked = Reproduction.asked("adaptive", "full", {}, {"task": ["cifar10", "wikitext-2"], "seed": ["1"]})
    runs = [run.config for run in asked.runs(tmp_path)]
    assert len(runs) == 26
    assert {(config.task, config.model, config.seed) for config in runs} == {
        ("cifar10", "resnet18", 1),
        ("wikitext-2", "gpt2", 1),
    }


def test_where_all_runs_fail_nothing_is_written(toy, tmp_path, monkeypatch):
    wrong = Scale((Grid(TINY | {"strategy": "sgd", "model": "mlp", "learning-rate": 1e30}),), "", SCORES)
    monkeypatch.setitem(TOY.scales, "small", wrong)
    assert toy().exit_code == 1
    assert not (tmp_path / "toy").exists()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("table3", "-c", "rank=64"), "rank: must not be set, for table3 runs nothing, got '64'"),
        (("table3", "--only", "power=1"), "power: must not be set, for table3 runs nothing, got ['1']"),
        (("figure2", "--only", "power=3"), "--only: must leave some of the figure's 51 runs, got {'power': ['3']}"),
        (("figure6", "-c", "spectrum-rank=0"), "spectrum-rank: must be left to the figure, which sets it itself"),
        (("table13", "--only", "rank=2"), "--only: must name one of the figure's own keys, power, seed, strategy, got"),
        (("table13", "--only", "power"), "--only: must be KEY=VALUE, got 'power'"),
        (("table13", "--only", "power=x"), "power: must be a valid number"),
    ],
)
def test_wrong_wishes_are_refused(arguments, line):
    result = call("reproduce", *arguments)
    assert result.exit_code == 2
    assert result.stderr.startswith(line)


def test_an_unknown_figure_is_refused():
    result = call("reproduce", "figure99")
    line = f"figure: must be one of {', '.join(FIGURES)}, got 'figure99', did you mean figure"
    assert result.exit_code == 2
    assert result.stderr.startswith(line)


@pytest.mark.usefixtures("in_this_process")
@pytest.mark.parametrize("over", ["channel-uses", "energy", "latency"])
def test_compare_draws_over_what_was_spent(tmp_path, over):
    overrides = [word for key, value in TINY.items() for word in ("-c", f"{key}={value}")]
    result = call("compare", *overrides, "--quiet", "--strategies", "laser", "--over", over, "--out", tmp_path / "one")
    assert result.exit_code == 0
    assert (tmp_path / "one" / "accuracy.png").is_file()


def test_the_page_of_results_has_every_figure_and_no_gaps():
    page = (Path(__file__).parents[2] / "docs" / "reproduction.md").read_text()
    assert not re.search(r"@\w+@", page)
    assert all(f"`{name}`" in page for name in FIGURES)
    for picture in re.findall(r"\]\((results/[^)]+)\)", page):
        assert (Path(__file__).parents[2] / "docs" / picture).exists()
