"""The end of `laser-fl run`: its result, cost and verification in a few lines, and the same as JSON."""

import json
import math

import pytest
from typer.testing import CliRunner

from laser_fl.errors import DataError
from simulations.cli import app
from simulations.rising import risen
from simulations.run_result import next_steps, result_rows, seconds, title

SHORT = ("-q", "-c", "model=linear", "-c", "clients=4", "-c", "rounds=4", "-c", "batch-size=4")
SUMMARY = {
    "status": "completed", "engine": "in-process", "task": "mnist-5k", "model": "mlp", "strategy": "laser", "seed": 0,
    "clients": 16, "rounds": 480, "power": 1.0, "parameters": 203530, "test_accuracy": 0.892, "ema_test_accuracy": 0.8,
    "best_ema_test_accuracy": 0.8956, "test_loss": 0.4, "uplink_floats_per_round": 1572.5, "compression_ratio": 129.4,
    "total_channel_uses": 754800, "total_uplink_energy": 7612.25, "total_downlink_energy": 0.0,
    "total_latency_seconds": 0.7548, "seconds_per_round": 0.0212, "seconds_total": 75.3,
}  # fmt: skip
LEDGER = "round,transmitters,power_budget,max_power_used,faults"


def call(*arguments, **options):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)


def rows(tmp_path, ledger=("1,16,1.0,0.998,0", "2,16,1.0,0.9,0"), **changed):
    (tmp_path / "ledger.csv").write_text("\n".join((LEDGER, *ledger, "")))
    return dict(result_rows(tmp_path, SUMMARY | changed))


def test_a_run_ends_with_its_result_cost_verification_files_and_the_next_commands(tmp_path):
    result = call("run", *SHORT, "--out", tmp_path / "run")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "laser: mnist-5k, linear, 4 clients, 4 rounds"
    names = ["accuracy", "sent", "channel", "energy", "time", "power", "files"]
    assert [line.split()[0] for line in lines[1:8]] == names
    assert lines[8].split() == ["next:", "laser-fl", "report", str(tmp_path / "run")]
    assert lines[9].split() == ["laser-fl", "run", "--resume", str(tmp_path / "run"), "-c", "rounds=8"]


def test_a_completed_run_whose_loss_rose_says_so(tmp_path):
    """At this power, the noise moves the model away faster than the gradient pulls it back."""
    keys = ("-q", "-c", "task=mnist-5k", "-c", "strategy=z-sgd", "-c", "power=0.1", "-c", "rounds=20")
    result = call("run", *keys, "-c", "clients=4", "--out", tmp_path / "run")
    assert result.exit_code == 0
    (notice,) = (line for line in result.stdout.splitlines() if line.startswith("notice"))
    assert "(averaged weights): the run diverged or overfitted" in notice


@pytest.mark.parametrize(
    ("columns", "notice"),
    [
        ({"loss": [2.0, 0.5, 1.0]}, ""),
        ({"loss": [2.0, 0.5, 1.01]}, "test loss ended at 1.01, more than 2 times its lowest, 0.5 in round 20"),
        ({"loss": [2.0, 0.5, math.inf]}, "test loss ended at inf, more than 2 times its lowest, 0.5 in round 20"),
        ({"loss": [3.0, 3.1, 4.0], "perplexity": [20, 22, 55]}, "test perplexity ended at 55, more than 2 times its"),
        ({"loss": [1.0, 1.0, 1.0], "accuracy": [0.9, 0.9, 0.1]}, ""),
        ({"loss": [0.0, -2.0, 5.0]}, ""),
        ({"accuracy": [0.1, 0.2, 0.1]}, ""),
        ({}, ""),
    ],
)
def test_a_loss_far_above_its_lowest_is_a_notice(columns, notice):
    scores = [{f"ema_test_{name}": str(values[i]) for name, values in columns.items()} for i in range(3)]
    found = risen([{"round": str(10 * (i + 1))} | row for i, row in enumerate(scores)])
    assert found.startswith(notice)
    assert bool(found) == bool(notice)


def test_a_run_without_evaluations_has_no_notice():
    assert risen([]) == ""


def test_the_command_that_it_names_makes_the_run_longer(tmp_path):
    call("run", *SHORT, "--out", tmp_path / "run")
    *_, last = call("run", "-q", "--resume", tmp_path / "run", "-c", "rounds=8").stdout.splitlines()
    assert last.endswith("rounds=16")


def test_json_is_alone_on_standard_output_and_strict(tmp_path):
    result = call("run", *SHORT[1:], "--json", "-c", "strategy=sgd", "-c", "power=inf", "--out", tmp_path / "run")
    assert "round 4/4" in result.stderr
    printed = json.loads(result.stdout, parse_constant=pytest.fail)
    assert printed == {"folder": str(tmp_path / "run")} | json.loads((tmp_path / "run" / "summary.json").read_text())


@pytest.mark.parametrize("columns", [30, 50, 80])
def test_nothing_is_cut_where_the_terminal_is_narrow(tmp_path, columns):
    result = call("run", *SHORT, "--out", tmp_path / "run", env={"COLUMNS": str(columns)})
    *text, _, _ = result.stdout.splitlines()
    words = " ".join(" ".join(text).split())
    assert "of the budget 1 used, by any client in any of 4 rounds" in words
    assert str(tmp_path / "run") in words
    assert all(len(line) <= max(columns, len(str(tmp_path / "run")) + 3) for line in text[1:])


def test_costs_and_scores_have_units(tmp_path):
    shown = rows(tmp_path)
    assert title(SUMMARY) == "laser: mnist-5k, mlp, 16 clients, 480 rounds"
    assert title(SUMMARY | {"model": "auto"}) == "laser: mnist-5k, 16 clients, 480 rounds"
    assert shown["accuracy"] == "89.2 % last, 80.0 % with averaged weights, 89.6 % their best"
    assert shown["sent"] == "1,572 values (6.3 kB) per client and round, 129 times fewer than the model's 203,530"
    assert shown["channel"] == "754,800 uses, 755 ms on the air"
    assert shown["energy"] == "7,612 of all clients together"
    assert shown["time"] == "1.3 min, 21 ms a round"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [("perplexity", 15.60857, "15.6 last"), ("mean_squared_error", 0.12345, "0.123 last"), ("f1", 0.5, "0.5 last")],
)
def test_any_metric_is_shown_under_its_name(tmp_path, name, value, text):
    shown = rows(tmp_path, **{f"test_{name}": value, f"best_ema_test_{name}": value})
    assert shown[name.replace("_", " ")].startswith(text)


def test_the_clients_own_scores_are_shown(tmp_path):
    scores = {f"test_clients_accuracy_{part}": 0.25 for part in ("mean", "worst_decile", "spread")}
    own = rows(tmp_path, **scores)["clients' own accuracy"]
    assert own == "25.0 % on average, 25.0 % in the worst tenth, 25.0 % spread"


@pytest.mark.parametrize(
    ("ledger", "text"),
    [
        (
            ["1,16,1.0,0.998,0", "2,16,1.0,0.9,0"],
            "at most 99.8 % of the budget 1 used, by any client in any of 2 rounds",
        ),
        (
            ["1,16,0.5,0.5,0", "2,16,1.5,0.9,0"],
            "at most 100.0 % of the budget of 0.5 to 1.5 used, by any client in any",
        ),
        (["1,16,inf,14.95,0"], "no budget: noiseless"),
        (["1,0,1.0,0.0,0"], "nothing of the budget 1 used"),
    ],
)
def test_the_power_is_compared_with_the_budget_of_each_round(tmp_path, ledger, text):
    assert rows(tmp_path, ledger)["power"].startswith(text)


def test_what_went_wrong_is_shown_only_where_something_did(tmp_path):
    shown = rows(tmp_path, ["1,15,1.0,1.0,1", "2,14,1.0,1.0,2", "3,0,1.0,0.0,0"])
    assert shown["left out"] == "3 replies, in 2 of 3 rounds; ledger.csv names the clients"
    assert shown["idle"] == "1 of 3 rounds, in which nobody transmitted"
    assert {"left out", "idle", "stopped", "clients"}.isdisjoint(rows(tmp_path))
    some = rows(tmp_path, transmitters_per_round=11.28125)["clients"]
    assert some == "11.3 of 16 transmitted in a round, on average"
    stopped = rows(tmp_path, stopped_early=True, stop_reason="early-stopping: no better", learning_rate_factor=0.125)
    assert stopped["stopped"] == "after round 480: early-stopping: no better"
    assert stopped["step size"] == "0.125 times the config's at the end"


def test_a_strategy_that_sends_nothing_and_a_noiseless_one_are_put_in_words(tmp_path):
    nothing = rows(tmp_path, uplink_floats_per_round=0.0, compression_ratio="inf")
    assert nothing["sent"] == "nothing: no message fits into what the power carries"
    assert rows(tmp_path, ["1,16,inf,14.95,0"])["energy"] == "not counted: without noise, any energy does"
    assert rows(tmp_path, compression_ratio=1)["sent"].endswith("as many as the model's 203,530")


def test_a_failed_run_has_its_reason_and_goes_on_from_its_checkpoint(tmp_path):
    failed = {"status": "failed", "reason": "it was\nkilled", "engine": "flower"}
    assert title(failed) == "run failed"
    assert dict(result_rows(tmp_path, failed))["failed"] == "it was killed"
    assert next_steps(tmp_path, failed) == []
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "server-00000100.safetensors").touch()
    assert next_steps(tmp_path, failed) == [f"laser-fl run --resume {tmp_path}"]


def test_no_longer_run_is_proposed_where_something_depends_on_the_length(tmp_path):
    call("run", *SHORT, "-c", "lr-schedule=cosine", "--out", tmp_path / "a run")
    assert next_steps(tmp_path / "a run", SUMMARY) == [f"laser-fl report '{tmp_path / 'a run'}'"]


def test_a_damaged_ledger_is_named(tmp_path):
    with pytest.raises(DataError, match=r"ledger.csv: must be a run's ledger"):
        rows(tmp_path, ["1,16,one"])


def test_durations_are_short():
    shown = [seconds(n) for n in (0.00123, 0.5, 1.26, 12.4, 90, 7200)]
    assert shown == ["1.2 ms", "500 ms", "1.3 s", "12 s", "1.5 min", "2.0 h"]
    assert seconds(math.pi / 100) == "31 ms"
