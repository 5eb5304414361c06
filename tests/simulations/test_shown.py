"""How results are shown: by their task's metric, never cut, in any encoding, and apart from progress."""

import io
import math
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.data.examples import Examples
from laser_fl.data.metrics import Metric
from laser_fl.data.task import Task
from laser_fl.errors import ConfigError
from laser_fl.federated.schedule import RoundSchedule
from laser_fl.registry import KINDS
from simulations.cli import app
from simulations.compare import listing, picture
from simulations.look import STYLES
from simulations.progress import MOST_LINES, Display, Report, Reporter
from simulations.report.charts import charts, evaluated_runs, over_powers
from simulations.report.folders import Record, RunRecord
from simulations.report.pictures import over_power, over_rounds
from simulations.report.verdict import verdict_of
from simulations.results import results
from simulations.side_by_side import Outcome
from simulations.standing import stopped, verdict
from simulations.sweep import Grid, runs_of
from simulations.texts import Listing, pairs
from tests.parts import visiting

SPENT = {"epoch": 1.0, "train_loss": 2.0, "channel_uses": 10, "energy": 5.0, "latency_seconds": 1.0}
COST = {"uplink_floats_per_round": 1234.0, "compression_ratio": 12.0, "max_power_used": 1.0, "seconds_total": 3.0}
COST |= {"rounds": 2, "total_channel_uses": 10, "total_uplink_energy": 19.5, "total_downlink_energy": 0.5}


METRICS = {name: Metric.named(name) for name in ("accuracy", "perplexity", "f1", "mean_squared_error")}


@pytest.fixture(params=METRICS)
def metric(request):
    """Those of the built-in tasks, and of anybody's."""
    return METRICS[request.param]


def metrics_of(name, value):
    scores = {f"{kind}_{name}": [value, value] for kind in ("test", "ema_test")}
    return pd.DataFrame({"round": [1, 2], **scores, **{key: [one, one] for key, one in SPENT.items()}})


def outcome(folder, name, value=0.5):
    folder.mkdir()
    metrics_of(name, value).to_csv(folder / "metrics.csv", index=False)
    scores = {f"{kind}_{name}": value for kind in ("test", "ema_test", "best_ema_test")}
    return Outcome(folder, {"status": "completed", **scores, **COST})


def call(*arguments, runner=None, **options):
    return (runner or CliRunner()).invoke(app, [str(argument) for argument in arguments], **options)


class TestByTheTasksMetric:
    def test_a_comparison_has_a_table_and_a_picture(self, metric, tmp_path):
        outcomes = {name: outcome(tmp_path / name, metric.name) for name in ("sgd", "laser")}
        outcomes["sketch"] = Outcome(tmp_path / "sketch", {}, "it failed")
        table = listing(outcomes, parse({}))
        assert f"{metric.label}; values" in table.caption
        assert float(table.rows[1][1]) == 0.5 * metric.factor
        assert table.rows[2][:2] == ("sketch", "failed")
        assert "sketch failed." in table.caption
        assert picture(outcomes, parse({}), tmp_path, "energy") == tmp_path / f"{metric.name}.png"
        assert (tmp_path / f"{metric.name}.png").is_file()

    def test_a_comparison_in_which_all_failed_has_no_picture(self, tmp_path):
        failed = {"laser": Outcome(tmp_path / "laser", {}, "it failed")}
        assert picture(failed, parse({}), tmp_path) is None
        assert listing(failed, parse({})).rows[0][:2] == ("laser", "failed")

    def test_the_best_values_are_chosen(self, metric, tmp_path, monkeypatch):
        runs = runs_of([grid := Grid({}, {"seed": [0, 1]}, {"learning-rate": [0.1, 0.2]})], tmp_path)

        def summary(run):
            return {"status": "completed", f"best_ema_test_{metric.name}": run.config.learning_rate}

        monkeypatch.setattr("simulations.sweep.Run.summary", property(summary))
        table = results(runs, tmp_path, [grid])
        assert set(table[table["chosen"]]["learning-rate"]) == {0.2 if metric.best is max else 0.1}

    def test_the_best_values_of_tasks_with_different_metrics_are_chosen(self, tmp_path, monkeypatch):
        tasks = ({"task": "mnist-5k", "model": "mlp"}, {"task": "pydoc", "model": "gpt2"})
        grids = [Grid(keys, {}, {"learning-rate": [0.1, 0.2]}) for keys in tasks]

        def summary(run):
            name = "perplexity" if run.config.task == "pydoc" else "accuracy"
            return {"status": "completed", f"best_ema_test_{name}": run.config.learning_rate}

        monkeypatch.setattr("simulations.sweep.Run.summary", property(summary))
        table = results(runs_of(grids, tmp_path), tmp_path, grids)
        assert table[table["chosen"]].set_index("task")["learning-rate"].to_dict() == {"mnist-5k": 0.2, "pydoc": 0.1}

    def test_a_report_draws_every_metric_apart(self, tmp_path):
        runs, rows = [], []
        for seed, name in enumerate(METRICS):
            for power in (1.0, 10.0):
                config = parse({"power": power, "seed": seed}).to_flat()
                summary = {"status": "completed", f"best_ema_test_{name}": 0.5}
                runs.append(RunRecord(name, tmp_path, config, summary, {}, metrics_of(name, 0.5), pd.DataFrame()))
                rows.append(config | summary)
        record = Record("sweep", "both", tuple(runs), pd.DataFrame(rows))
        drawn = dict(charts(record))
        for name, metric in METRICS.items():
            for heading in ("Score over power", "Score over rounds", "Score over channel uses"):
                chart = drawn[f"{heading}, {name}"]
                assert list(chart.data[0].y) == [0.5 * metric.factor] * 2
                assert chart.layout.yaxis.title.text.startswith(f"test {metric.label}")
        for panels in (over_power(over_powers(record)).axes, over_rounds(evaluated_runs(record)).axes):
            labels = [axes.get_ylabel().split(",")[0] for axes in panels]
            assert labels == [f"test {metric.label}" for metric in METRICS.values()]

    def test_a_task_with_a_metric_that_nobody_knows_is_refused(self):
        data = Examples(torch.zeros(1), torch.zeros(1))
        with pytest.raises(ConfigError, match=r"metrics: must be accuracy, loss, perplexity, a function.*got 'f2'"):
            Task(data, data, {}, metrics="f2")


NAMES = st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=20)


@pytest.fixture
def only_built_in(tmp_path):
    """Hide parts from outside, whose names may be wider than the screen."""
    with visiting(tmp_path):
        for table in KINDS.values():
            table._outside.clear()
        yield


class TestNothingIsCut:
    @settings(max_examples=30)
    @given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=1, max_size=4), st.integers(10, 90))
    def test_every_cell_of_a_table_is_whole(self, rows, width):
        lines = Listing("title", ("name", "value", "more"), rows, numbers=("value",)).lines(width)
        words = [word for line in lines for word in line.split()]
        assert all(cell in words for row in rows for cell in row)

    def test_a_table_is_one_where_there_is_room_and_else_rows_below_each_other(self):
        rows = [("one", "1,234", "a"), ("three", "5", "b")]
        table = Listing("title", ("name", "value", "more"), rows, numbers=("value",))
        assert table.lines(18) == ["name   value  more", "one    1,234  a", "three      5  b"]
        below = ["name   one", "value  1,234", "more   a", "", "name   three", "value  5", "more   b"]
        assert table.lines(17) == below
        assert table.lines(5)[:6] == ["name", "  one", "value", "  1,234", "more", "  a"]

    @settings(max_examples=30)
    @given(st.lists(st.tuples(NAMES, st.lists(NAMES, min_size=1)), min_size=1, max_size=4), st.integers(10, 60))
    def test_values_are_broken_between_words_only(self, rows, width):
        lines = pairs([(name, " ".join(words)) for name, words in rows], width)
        shown = [word for line in lines for word in line.split()]
        assert shown == [word for name, words in rows for word in (name, *words)]

    @pytest.mark.usefixtures("only_built_in")
    @pytest.mark.parametrize("columns", ["40", "80", "0", None])
    @pytest.mark.parametrize(
        ("command", "words"),
        [
            (
                ("volume", "--model", "mlp"),
                ["203,530", "814 kB", "laser alternating, rank 2", "laser-adaptive", "48 B"],
            ),
            (("theory", "--model", "mlp"), ["1.weight", "256 x 784", "uncompressed", "less noise"]),
            (("list",), ["min-available-nodes", "gpt2-wikitext103", "power-allocation", "laser-adaptive"]),
        ],
    )
    def test_commands_cut_nothing(self, command, words, columns):
        result = call(*command, env={"COLUMNS": columns})
        assert result.exit_code == 0
        assert "…" not in result.stdout
        assert [word for word in words if word not in result.stdout] == []
        if columns not in (None, "0"):
            assert all(len(line) <= int(columns) for line in result.stdout.splitlines()[2:-1])

    def test_a_name_in_brackets_is_no_markup(self, tmp_path, monkeypatch):
        monkeypatch.setattr("simulations.report.write", lambda folders, out: [out])
        out = tmp_path / "[bold]" / "[/x].html"
        assert call("report", tmp_path, "--out", out).stdout == f"{out}\n"


class TestProgress:
    def shown(self, reports, quiet=False):
        console = Console(file=io.StringIO(), width=40)
        with Display(console, quiet) as display:
            for report in reports:
                display.show(report)
        return console.file.getvalue().splitlines()

    @pytest.mark.parametrize(
        ("rounds", "every", "lines"), [(360, 1, MOST_LINES), (4, 1, 4), (1000, 1000, 1), (25, 7, 3)]
    )
    def test_a_log_has_at_most_ten_lines_a_run(self, rounds, every, lines):
        told = [
            Report("laser", r, rounds, 1.0, "", f"round {r} of a long line" * 3)
            for r in range(every, rounds + 1, every)
        ]
        shown = self.shown(told)
        assert len(shown) == lines
        assert shown[-1] == f"laser  {told[-1].line}"
        assert self.shown(told, quiet=True) == []

    def test_a_narrow_terminal_has_fewer_columns(self):
        for width in (40, 60, 80, 130):
            console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
            with Display(console) as display:
                state = "train loss 2.303  accuracy 0.812"
                display.show(Report("laser-adaptive", 1234, 2000, 100.0, state, ""))
            shown = console.file.getvalue()
            assert [word for word in ("laser-adaptive", "1234/2000") if word not in shown] == []
            assert (state in shown, "…" in shown) == (width >= 80, False)

    def test_the_pace_is_that_of_the_rounds_since_a_run_went_on(self):
        server = SimpleNamespace(round=1001, schedule=RoundSchedule(2000), warning="")
        reports = []
        Reporter("laser", reports.append).on_round(server, 0.5)
        assert reports[0].rounds_per_second == 2.0

    def test_standard_output_carries_the_result_alone(self, tmp_path, monkeypatch):
        def run_all(runs, show):
            for name in runs:
                for round in range(1, 41):
                    show(Report(name, round, 40, 1.0, "", "round"))
            tmp_path.joinpath("all").mkdir()
            return {name: outcome(tmp_path / "all" / name, "perplexity") for name in runs}

        monkeypatch.setattr("simulations.side_by_side.run_all", run_all)
        keys = ("-c", "task=pydoc", "-c", "model=gpt2", "--strategies", "z-sgd,laser")
        result = call("compare", *keys, "--out", tmp_path / "all")
        assert result.exit_code == 0, result.output
        title, head, z_sgd, laser, told, *_, drawn = result.stdout.splitlines()
        assert (title.split(",")[0], head.split()[0], z_sgd.split()[0]) == ("pydoc", "strategy", "z-sgd")
        costs = ["1,234", "4.9", "kB", "2,468", "20", "10", "1", "3", "s"]
        assert laser.split() == ["laser", "0.5", "0.5", "0.5", *costs]
        assert told.startswith("z-sgd and laser are level, with 0.5 (best of averaged weights) (one seed each")
        assert drawn == f"picture: {tmp_path / 'all' / 'perplexity.png'}"
        assert result.stderr.splitlines() == ["z-sgd  round"] * 10 + ["laser  round"] * 10


class TestAnyEncoding:
    def test_what_a_terminal_cannot_show_is_written_in_other_words(self):
        result = call("list", runner=CliRunner(charset="ascii"))
        assert result.exit_code == 0
        assert "Eq. (4): lambda of LASER and Z-SGD over power" in result.stdout
        theory = call("theory", "--model", "linear", runner=CliRunner(charset="ascii"))
        assert "worth P k^2/(sigma^2 L)" in theory.stdout

    def test_no_name_stops_a_command(self, tmp_path, monkeypatch):
        monkeypatch.setattr("simulations.report.write", lambda folders, out: [out])
        for name, ascii in (
            ("grün-😀", r"grun-\U0001f600"),
            (b"gr\xc3\xbcn-\xff".decode("ascii", "surrogateescape"), r"grun-\xff"),
        ):
            shown = call("report", tmp_path, "--out", tmp_path / name, runner=CliRunner(charset="ascii"))
            assert (shown.exit_code, shown.stdout) == (0, f"{tmp_path}/{ascii}\n")

    def test_where_all_can_be_shown_nothing_is_changed(self):
        assert "λ of LASER" in call("list").stdout


def test_a_strategy_that_sends_nothing_and_an_ideal_channel_are_put_in_words(tmp_path):
    silent = outcome(tmp_path / "d-dsgd", "accuracy")
    silent = Outcome(silent.folder, silent.summary | {"compression_ratio": "inf", "uplink_floats_per_round": 0.0})
    table = listing({"d-dsgd": silent}, parse({"power": math.inf}))
    assert table.rows[0][4:] == ("0", "0 B", "0", "–", "10", "no limit", "3 s")
    assert "d-dsgd: nothing sent" in table.caption
    assert "no limit: ideal links, no noise" in table.caption.replace("\n", " ")


class TestStandings:
    """A comparison says in a sentence who is ahead, and how a run ended that did not reach its last round."""

    def made(self, folder, scores):
        """Outcomes whose averaged weights end at `scores`, and whose current ones move by 2 points at the end."""
        outcomes = {}
        for name, score in scores.items():
            outcomes[name] = outcome(folder / name, "accuracy", score)
            table = metrics_of("accuracy", score)
            table["test_accuracy"] = [score - 0.02, score]
            table.to_csv(folder / name / "metrics.csv", index=False)
        return outcomes

    def test_the_strategy_ahead_is_named_with_its_lead_and_what_may_be_chance(self, tmp_path):
        outcomes = self.made(tmp_path, {"z-sgd": 0.8, "laser": 0.85, "sgd": 0.9})
        assert verdict(outcomes, METRICS["accuracy"], ["sgd"]) == (
            "Of those with a power limit, laser leads with 85.0 % (best of averaged weights), 5.0 points ahead of "
            "z-sgd (one seed each, which tells no spread: "
            "differences below about 2.0 points may be chance)."
        )

    def test_a_small_lead_may_be_chance(self, tmp_path):
        outcomes = self.made(tmp_path, {"z-sgd": 0.84, "laser": 0.85})
        sentence = verdict(outcomes, METRICS["accuracy"])
        assert "1.0 points ahead of z-sgd, which may be chance (" in sentence

    def test_terminal_and_page_rank_by_the_same_score_in_the_same_words(self, tmp_path):
        """The one that ends ahead is not the one that was best on the way."""
        outcomes = self.made(tmp_path, {"z-sgd": 0.85, "laser": 0.84})
        outcomes["laser"].summary["best_ema_test_accuracy"] = 0.9
        scores = {name: [one.summary["best_ema_test_accuracy"]] for name, one in outcomes.items()}
        words = "laser leads with 90.0 % (best of averaged weights), 5.0 points ahead of z-sgd"
        assert verdict(outcomes, METRICS["accuracy"]).startswith(words)
        assert verdict_of(scores, METRICS["accuracy"]).startswith(words)

    def test_less_is_ahead_where_less_is_better(self, tmp_path):
        outcomes = {name: outcome(tmp_path / name, "perplexity", score) for name, score in (("a", 5.0), ("b", 4.0))}
        assert verdict(outcomes, METRICS["perplexity"]).startswith(
            "b leads with 4 (best of averaged weights), 1 (perplexity) ahead of a ("
        )

    def test_one_strategy_alone_is_not_ahead(self, tmp_path):
        assert verdict(self.made(tmp_path, {"laser": 0.8, "sgd": 0.9}), METRICS["accuracy"], ["sgd"]) == ""

    def test_a_run_whose_loss_rose_has_a_notice(self, tmp_path):
        outcomes = self.made(tmp_path, {"z-sgd": 0.8, "laser": 0.85})
        table = metrics_of("accuracy", 0.8).assign(ema_test_loss=[0.5, 700.0])
        table.to_csv(outcomes["z-sgd"].folder / "metrics.csv", index=False)
        caption = " ".join(listing(outcomes, parse({})).caption.split())
        assert "z-sgd: test loss ended at 700, more than 2 times its lowest, 0.5 in round 1 (averaged" in caption
        assert "laser: test loss" not in caption

    @pytest.mark.parametrize(
        ("reason", "words"),
        [
            ("round 157: the train_loss is nan: the model has diverged", "diverged in round 157"),
            ("round 2: client 0: the gradient of block 1.weight is not finite (norm inf)", "diverged in round 2"),
            ("round 3: a client transmitted with power 2.0, above the budget of 1.0", "failed in round 3"),
            ("its process ended with status -9", "failed in round 4"),
        ],
    )
    def test_a_run_that_stopped_is_shown_with_its_round(self, tmp_path, reason, words):
        (tmp_path / "ledger.csv").write_text("round,uplink_floats\n" + "".join(f"{i},5\n" for i in range(1, 5)))
        assert stopped(Outcome(tmp_path, {}, reason)) == words

    @pytest.mark.parametrize("over", ["round", "energy"])
    def test_a_picture_names_many_curves_at_their_ends_and_tells_itself_in_words(self, tmp_path, over):
        scores = {name: 0.5 + 0.01 * i for i, name in enumerate(STYLES)}
        outcomes = self.made(tmp_path, scores)
        outcomes["sketch"] = Outcome(outcomes["sketch"].folder, {}, "round 157: the model has diverged")
        outcomes["a-dsgd"] = Outcome(tmp_path / "none", {}, "round 1: the gradient is not finite")
        with Image.open(picture(outcomes, parse({}), tmp_path, over)) as drawn:
            assert drawn.size == (1200, 675)
            text = drawn.text["Description"]
        assert "laser 58.0 %" in text
        assert "sketch diverged in round 157" in text
