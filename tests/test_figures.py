"""Every figure's runs are valid, and one command runs and draws them."""

import math

import pandas as pd
import pytest
from matplotlib.figure import Figure as Picture
from typer.testing import CliRunner

from laser_fl.tables import Entry, Table
from simulations.cli import app
from simulations.figures import FIGURES
from simulations.figures.base import Figure, Scale, scores
from simulations.figures.curves import power_needed, reductions
from simulations.sweep import Grid, runs_of
from tests.helpers import names

TINY = {"task": "mnist-5k", "model": "linear", "clients": 4, "rounds": 4, "batch-size": 8, "evaluate-every": 2}


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", names(FIGURES))
class TestEveryFigure:
    def test_has_runs_that_are_valid_and_each_once(self, name, tmp_path):
        for scale in FIGURES.load(name).scales.values():
            runs = runs_of(scale.grids, tmp_path)
            assert len({repr(run.config) for run in runs}) == len({run.folder for run in runs}) == len(runs) > 0
            assert scale.time

    def test_draws_results(self, name, tmp_path):
        """Every run at half of the accuracy; the picture is not looked at here."""
        figure = FIGURES.load(name)
        rows = [run.config.to_flat() for run in runs_of(figure.scales["small"].grids, tmp_path)]
        results = pd.DataFrame(rows).assign(best_ema_test_accuracy=0.5)
        assert (scores(results, figure)["mean"] == 50).all()
        picture = figure.draw(results)
        picture.savefig(tmp_path / "picture.png")
        for axes in picture.axes:
            assert axes.get_xlabel()
            assert all(0 <= y <= 100 for line in axes.lines for y in line.get_ydata())


def two_powers(results):
    assert sorted(results.power) == [1.0, 100.0]
    picture = Picture()
    picture.subplots().plot(results.power, results.test_accuracy)
    return picture


TOY = Figure(
    "a toy",
    {"small": Scale((Grid(TINY, {"power": [1.0, 100.0]}), Grid(TINY, {"power": [1.0]})), "a second")},
    two_powers,
    cells=("power",),
    paper={(1.0,): 0.0, (100.0,): 100.0},
    tolerance=1.0,
)


def test_one_command_runs_and_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.figures.FIGURES", Table({"toy": Entry("tests.test_figures:TOY", "two runs")}))
    result = call("reproduce", "toy", "-c", "rounds=6", "--quiet", "--out", tmp_path / "toy")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "toy" / "toy.png").is_file()
    table = pd.read_parquet(tmp_path / "toy" / "results.parquet")
    assert table.rounds.tolist() == [6, 6]
    assert pd.read_csv(tmp_path / "toy" / "scores.csv").verdict.tolist() == ["better", "worse"]


def test_a_figures_own_keys_cannot_be_set(monkeypatch):
    monkeypatch.setattr("simulations.figures.FIGURES", Table({"toy": Entry("tests.test_figures:TOY", "two runs")}))
    result = call("reproduce", "toy", "-c", "power=3")
    assert (result.exit_code, result.stderr) == (2, "power: is varied by the figure itself, got it by -c\n")


def test_an_unknown_figure_is_refused():
    result = call("reproduce", "figure99")
    assert (result.exit_code, result.stderr) == (2, "figure: must be one of table13, channels, got 'figure99'\n")


@pytest.mark.parametrize("over", ["channel-uses", "energy", "latency"])
def test_compare_draws_over_what_was_spent(tmp_path, over):
    overrides = [word for key, value in TINY.items() for word in ("-c", f"{key}={value}")]
    result = call("compare", *overrides, "--quiet", "--strategies", "laser", "--over", over, "--out", tmp_path / "one")
    assert result.exit_code == 0
    assert (tmp_path / "one" / "accuracy.png").is_file()


def results(laser, z_sgd, powers=(1.0, 10.0, 100.0)):
    rows = [("laser", p, a) for p, a in zip(powers, laser, strict=True)]
    rows += [("z-sgd", p, a) for p, a in zip(powers, z_sgd, strict=True)]
    return pd.DataFrame(rows, columns=["strategy", "power", "best_ema_test_accuracy"])


def test_the_power_that_a_target_takes_is_interpolated_between_logs():
    table = results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7])
    assert power_needed(table, "laser", 60) == pytest.approx(10**0.5)
    assert power_needed(table, "laser", 40) == 1
    assert power_needed(table, "laser", 90) == math.inf
    assert reductions(table, [60, 70], {60: 16.0}).reduction.tolist() == pytest.approx([10, 10])
