"""Whoever reads the folder of a run says which file is damaged, and how; nothing else of it is lost."""

import json
from dataclasses import asdict

import pandas as pd
import pytest
from typer.testing import CliRunner

from laser_fl.callbacks import Metrics
from laser_fl.config import parse
from laser_fl.errors import DataError
from laser_fl.federated.ledger import LedgerRecord
from laser_fl.storage.resume import about
from simulations.cli import app
from simulations.figures.figure6 import energies
from simulations.report.charts import charts
from simulations.report.folders import read
from simulations.sweep import Run

ENTRY = LedgerRecord(
    1, 4, 4, 1.0, 1.0, 10, 10, 10, 10, 0.1, 3.0, 4.0, 0.0, 1.0, faults=0, retries=0, clipped=0, left_out=""
)
SCORES = {"loss": 1.0, "accuracy": 0.5}
EVALUATION = Metrics(1, 0.1, 2.0, SCORES, SCORES, 10, 4.0, 1.0)
SUMMARY = {"status": "completed", "rounds": 2, "test_accuracy": 0.5, "best_ema_test_accuracy": 0.5}
TABLES = ("metrics.csv", "ledger.csv")
OBJECTS = ("config.json", "summary.json", "environment.json")


@pytest.fixture
def run(tmp_path):
    """The folder of a completed run of two rounds."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(parse({"rounds": 2}).to_flat()))
    (folder / "summary.json").write_text(json.dumps(SUMMARY))
    (folder / "environment.json").write_text(json.dumps({"engine": "in-process"}))
    pd.DataFrame([EVALUATION.flat() | {"round": r} for r in (1, 2)]).to_csv(folder / "metrics.csv", index=False)
    pd.DataFrame([asdict(ENTRY) | {"round": r} for r in (1, 2)]).to_csv(folder / "ledger.csv", index=False)
    return folder


def refusal(folder, file):
    """What is said of the only damaged file."""
    with pytest.raises(DataError) as refused:
        read(folder)
    start = f"{(folder / file).resolve()}: must be readable ("
    assert str(refused.value).startswith(start)
    assert "\n" not in str(refused.value)
    return str(refused.value).removeprefix(start).removesuffix(")")


def without(*columns):
    """Takes columns out of a table."""

    def damage(path):
        pd.read_csv(path).drop(columns=list(columns)).to_csv(path, index=False)

    return damage


def test_a_whole_folder_is_read(run):
    record = read(run)
    assert (record.kind, len(record.runs[0].metrics), len(record.runs[0].ledger)) == ("run", 2, 2)
    assert charts(record)


@pytest.mark.parametrize("file", [*OBJECTS, *TABLES])
@pytest.mark.parametrize("damage", ["empty", "cut", "bytes", "of another kind"])
def test_a_damaged_file_is_named(run, file, damage):
    content = (run / file).read_bytes()
    damaged = {"empty": b"", "cut": content[: len(content) - 4], "bytes": b"\x00\xff" * 40, "of another kind": b"[1]\n"}
    (run / file).write_bytes(damaged[damage])
    assert refusal(run, file)
    result = CliRunner().invoke(app, ["report", str(run)])
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert not (run / "report.html").exists()


@pytest.mark.parametrize(
    ("file", "damage", "reason"),
    [
        ("metrics.csv", without("energy", "round"), "without 'round, energy'"),
        ("metrics.csv", without("ema_test_accuracy"), "without 'ema_test_accuracy'"),
        ("metrics.csv", without("test_accuracy", "ema_test_accuracy"), "without 'test_accuracy, ema_test_accuracy'"),
        ("ledger.csv", without("snr_db"), "without 'snr_db'"),
        ("ledger.csv", lambda path: path.unlink(), "No such file or directory"),
        ("ledger.csv", lambda p: p.write_text(p.read_text().replace("3.0", "three")), "snr_db must hold numbers"),
        ("ledger.csv", lambda path: path.write_text(path.read_text()[:-2]), "it ends within a line"),
        (
            "ledger.csv",
            lambda path: pd.read_csv(path)[:1].to_csv(path, index=False),
            "it ends with round 1, the run with 2",
        ),
        ("config.json", lambda path: path.write_text("{}"), "without 'strategy, power'"),
        ("summary.json", lambda path: path.write_text("{}"), "without 'status'"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said(run, file, damage, reason):
    damage(run / file)
    assert refusal(run, file) == reason


def test_of_a_run_that_was_killed_a_line_that_is_not_whole_is_left_out(run):
    (run / "summary.json").unlink()
    (run / "ledger.csv").write_text((run / "ledger.csv").read_text()[:-5])
    (run / "metrics.csv").unlink()
    killed = read(run).runs[0]
    assert (killed.summary, len(killed.ledger), killed.metric) == ({"status": "unfinished"}, 1, None)


@pytest.mark.parametrize("content", [b"", b"PAR1", "without"])
def test_damaged_results_are_named(tmp_path, content):
    if content == "without":
        pd.DataFrame({"run": ["a"], "folder": ["a"]}).to_parquet(tmp_path / "results.parquet")
        assert refusal(tmp_path, "results.parquet") == "without 'strategy, power'"
    else:
        (tmp_path / "results.parquet").write_bytes(content)
        assert refusal(tmp_path, "results.parquet")


def test_a_comparison_is_of_the_runs_that_are_there(run):
    comparison = run.parent / "comparison.csv"
    comparison.write_text("strategy\nrun\nlaser\n")
    record = read(run.parent)
    assert ([one.label for one in record.runs], record.missing) == (["run"], 1)
    comparison.write_text("name\nrun\n")
    assert refusal(run.parent, "comparison.csv") == "without 'strategy'"


def test_damaged_parts_of_a_reproduction_are_named(tmp_path):
    figure = {"name": "table13", "scale": "full", "overrides": {}, "only": {}}
    for content in ("", json.dumps({"name": "table13"}), json.dumps(figure | {"name": "figure99"})):
        (tmp_path / "figure.json").write_text(content)
        assert refusal(tmp_path, "figure.json")
    (tmp_path / "figure.json").write_text(json.dumps(figure))
    assert refusal(tmp_path, "scores.csv") == "No such file or directory"
    (tmp_path / "scores.csv").write_text("")
    assert refusal(tmp_path, "scores.csv") == "No columns to parse from file"
    (tmp_path / "scores.csv").write_text("strategy,power,mean\nlaser,1,90\n")
    assert refusal(tmp_path, "table13.png") == "No such file or directory"


def test_going_on_with_a_run_names_the_file_too(run):
    (run / "environment.json").write_text("{")
    with pytest.raises(Exception, match=r"resume: must be the folder of a run \(environment.json: .+\), got '.+/run'"):
        about(run)


def test_figure_6_names_the_spectrum_that_is_damaged(tmp_path):
    (tmp_path / "spectrum.csv").write_text("")
    with pytest.raises(DataError, match=r"spectrum.csv: must be readable \(No columns"):
        energies(pd.DataFrame({"folder": [str(tmp_path)], "seed": [0]}))


@pytest.mark.parametrize("content", ["", "{", "[]", "3", "{}", '{"rounds": 2}'])
def test_a_sweep_runs_again_what_left_no_summary_that_can_be_read(run, content):
    one = Run(parse({"rounds": 2}), run)
    assert one.summary == SUMMARY
    (run / "summary.json").write_text(content)
    assert one.summary is None
