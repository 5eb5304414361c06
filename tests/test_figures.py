"""Every figure's runs are valid, and one command runs and draws them."""

import pandas as pd
import pytest
from matplotlib.figure import Figure as Picture
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.tables import Entry, Table
from simulations import presets
from simulations.cli import app
from simulations.figures import FIGURES
from simulations.figures.base import Figure, Grid
from tests.helpers import names

TINY = {"task": "mnist-5k", "model": "linear", "clients": 4, "rounds": 4, "batch-size": 8, "evaluate-every": 2}


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.parametrize("name", names(FIGURES))
class TestEveryFigure:
    def test_has_runs_that_are_valid_and_each_once(self, name):
        figure = FIGURES.load(name)
        configs = [parse(presets.load(figure.preset) | values) for values in figure.runs]
        assert configs
        assert len({repr(config) for config in configs}) == len(configs)

    def test_draws_results(self, name, tmp_path):
        """Every run at half of the accuracy; the picture is not looked at here."""
        figure = FIGURES.load(name)
        rows = [parse(presets.load(figure.preset) | values).to_flat() for values in figure.runs]
        picture = figure.draw(pd.DataFrame(rows).assign(best_ema_test_accuracy=0.5))
        picture.savefig(tmp_path / "picture.png")
        for axes in picture.axes:
            assert axes.get_xlabel()
            assert all(0 <= y <= 100 for line in axes.lines for y in line.get_ydata())


def test_grids_are_products():
    runs = list(Grid({"a": 1}, {"b": [2, 3], "c": ["x"]}))
    assert runs == [{"a": 1, "b": 2, "c": "x"}, {"a": 1, "b": 3, "c": "x"}]


def two_powers(results):
    assert sorted(results.power) == [1.0, 100.0]
    picture = Picture()
    picture.subplots().plot(results.power, results.test_accuracy)
    return picture


TOY = Figure("mnist", (Grid({}, {"power": [1.0, 100.0]}), Grid({"power": 1.0}, {})), two_powers)


def test_one_command_runs_and_draws(tmp_path, monkeypatch):
    monkeypatch.setattr("simulations.figures.FIGURES", Table({"toy": Entry("tests.test_figures:TOY", "two runs")}))
    overrides = [word for key, value in TINY.items() for word in ("-c", f"{key}={value}")]
    result = call("reproduce", "toy", *overrides, "--quiet", "--out", tmp_path / "toy")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "toy" / "toy.png").is_file()
    assert len(pd.read_csv(tmp_path / "toy" / "results.csv")) == 2


def test_a_figures_own_keys_cannot_be_set(monkeypatch):
    monkeypatch.setattr("simulations.figures.FIGURES", Table({"toy": Entry("tests.test_figures:TOY", "two runs")}))
    result = call("reproduce", "toy", "-c", "power=3")
    assert (result.exit_code, result.stderr) == (2, "power: is the figure's own, got it by -c\n")


def test_an_unknown_figure_is_refused():
    result = call("reproduce", "figure99")
    assert (result.exit_code, result.stderr) == (2, "figure: must be one of channels, got 'figure99'\n")


@pytest.mark.parametrize("over", ["channel-uses", "energy", "latency"])
def test_compare_draws_over_what_was_spent(tmp_path, over):
    overrides = [word for key, value in TINY.items() for word in ("-c", f"{key}={value}")]
    result = call("compare", *overrides, "--quiet", "--strategies", "laser", "--over", over, "--out", tmp_path / "one")
    assert result.exit_code == 0
    assert (tmp_path / "one" / "accuracy.png").is_file()
