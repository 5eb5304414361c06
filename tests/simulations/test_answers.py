"""The four answers of a report's first screen, and the sentence on who is ahead."""

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from laser_fl.config import parse
from laser_fl.data.metrics import Metric
from simulations.report.answers import answers
from simulations.report.colours import DARK, LIGHT, contrast, in_both_schemes
from simulations.report.folders import Record, RunRecord
from simulations.report.tables import of_runs, over_seeds, result
from simulations.report.titles import title_of
from simulations.report.verdict import verdict_of

BEST = " (best of averaged weights)"
ACCURACY, PERPLEXITY = Metric.named("accuracy"), Metric.named("perplexity")
SETTING = "mlp on mnist-5k, 16 clients, awgn channel"
SPENT = {
    "rounds": 120, "uplink_floats_per_round": 1572.0, "compression_ratio": 129.4, "max_power_used": 1.00000006,
    "total_channel_uses": 188640, "total_uplink_energy": 1281.0, "total_latency_seconds": 0.19, "seconds_total": 4.4,
    "idle_rounds": 0, "total_faults": 0, "total_clipped": 0,
}  # fmt: skip


def run(label="laser", score=0.8, status="completed", keys=None, **more):
    config = parse({"strategy": label.partition(" ")[0]} | (keys or {})).to_flat()
    scores = {f"{kind}_accuracy": score for kind in ("best_ema_test", "ema_test", "test")}
    summary = {"status": status} | SPENT | scores | more
    return RunRecord(label, Path(label), config, summary, {}, pd.DataFrame(), pd.DataFrame())


def ask(*runs, kind="comparison", failed=()):
    """The four answers: in large letters, in sentences, and their tone."""
    made = answers(Record(kind, "title", runs, failed=tuple(failed)))
    return [(a.short.replace("\xa0", " "), " ".join(a.sentences).replace("\xa0", " "), a.tone) for a in made]


def test_a_run_has_four_answers():
    worked, good, cost, budget = ask(run(), kind="run")
    assert worked == ("Yes", "All 120 rounds were completed.", "good")
    assert good[0] == "80.0 %"
    assert "At the end: 80.0 % averaged, 80.0 % with the current weights. Guessing gives about 10.0 %." in good[1]
    assert cost[0] == "1,572 values a round"
    assert cost[1].startswith("That is 6.3 kB per client, 129 times fewer values than the model has. In 120 rounds: ")
    assert "channel uses 188,640; energy of all clients 1,281; time on the air 0.19 s; computing 4.4 s." in cost[1]
    assert budget == ("Yes", "The most that a client used in a round is 100 % of its budget.", "good")


def test_a_completed_run_whose_loss_rose_has_a_notice():
    rising = pd.DataFrame({"round": [1, 2], "ema_test_loss": [0.5, 7.0]})
    fine = rising.assign(ema_test_loss=[0.5, 0.4])
    worked, *_ = ask(replace(run("z-sgd"), metrics=rising), replace(run("laser"), metrics=fine))
    assert "z-sgd: test loss ended at 7, more than 2 times its lowest, 0.5 in round 1 (averaged weights): " in worked[1]
    assert "laser: test loss" not in worked[1]


@pytest.mark.parametrize(
    ("reason", "short"),
    [
        ("round 41: the test loss is inf: the model has diverged", "Diverged in round 41"),
        ("round 3: client 0: its gradient or loss is not finite", "Diverged in round 3"),
        ("its process ended with status -9", "Failed after round 120"),
    ],
)
def test_a_run_that_failed_has_its_round_and_reason(reason, short):
    worked, *_ = ask(run(status="failed", reason=reason), kind="run")
    assert worked == (short, reason, "bad")


def test_diverged_strategies_are_named_and_never_lead():
    diverged = run("sketch", 0.99, "failed", reason="round 41: the test loss is inf: the model has diverged")
    worked, good, *_ = ask(run(), run("z-sgd", 0.7), diverged)
    assert worked == ("2 of 3 runs", "sketch diverged in round 41.", "bad")
    assert good[0] == "laser: 80.0 %"
    assert of_runs([run(), diverged]).rows[1][1].text == "diverged in round 41"


def test_noiseless_sgd_has_no_budget_and_is_what_others_are_measured_by():
    sgd = run("sgd", 0.9, max_power_used=14.95)
    _, good, _, budget = ask(sgd, run(), run("z-sgd", 0.7))
    assert good[0] == "laser: 80.0 %"
    assert good[1].endswith("Without noise, sgd reaches 90.0 %, 10.0 points above it. Guessing gives about 10.0 %.")
    assert budget[0] == "Yes, by all 2"
    assert budget[1].endswith("sgd: no budget, for signals arrive without noise.")
    assert ask(sgd, kind="run")[3] == ("No budget", "Signals arrive without noise.", "")
    tables = [of_runs([sgd, run()]), result(sgd), over_seeds({"sgd": [sgd]})]
    cells = [cell.text for table in tables for row in table.rows for cell in row]
    assert not any("14.9" in cell or cell == "15" for cell in cells)
    assert cells.count("no budget") >= 4


def test_a_budget_that_was_exceeded_is_bad_news():
    assert ask(run(max_power_used=1.1), kind="run")[3][::2] == ("No", "bad")


def test_runs_that_sent_nothing_or_learned_nothing_are_named():
    mute = run("d-dsgd", 0.024, uplink_floats_per_round=0.0, compression_ratio="inf")
    worked, good, cost, _ = ask(run(), run("z-sgd", 0.7, uplink_floats_per_round=2e5), mute)
    assert worked[::2] == ("2 of 3 sent", "")
    assert "With d-dsgd, no client ever sent anything" in worked[1]
    assert "d-dsgd: no better than chance, for guessing gives about 10.0 %." in good[1]
    assert cost[0] == "laser: 1,572 values a round"
    assert ask(mute, kind="run")[0][0] == "Nothing was sent"


@pytest.mark.parametrize(
    ("first", "second", "sentence"),
    [
        ([0.8], [0.75], f"a leads with 80.0 %{BEST}, 5.0 points ahead of b; one seed shows no spread"),
        ([0.80, 0.81], [0.70, 0.72], f"a leads with 80.5 ± 0.7 %{BEST}, 9.5 points ahead of b: beyond the spread"),
        ([0.80, 0.90], [0.70, 0.95], f"a leads with 85.0 ± 7.1 %{BEST}, 2.5 points ahead of b: within the spread"),
        ([0.80], [0.80004], f"b and a are level, with 80.0 %{BEST}."),
    ],
)  # fmt: skip
def test_a_lead_counts_beyond_the_spread(first, second, sentence):
    assert verdict_of({"a": first, "b": second}, ACCURACY).startswith(sentence)


def test_a_lower_perplexity_leads():
    sentence = "b leads with 12.5 (best of averaged weights), 7.5 (perplexity) ahead of a;"
    assert verdict_of({"a": [20.0], "b": [12.5]}, PERPLEXITY).startswith(sentence)


def test_those_who_are_level_are_ahead_of_the_next_together():
    sentence = "a and b are level, with 80.0 % (best of averaged weights), 10.0 points ahead of c; one seed"
    assert verdict_of({"a": [0.8], "b": [0.8], "c": [0.7]}, ACCURACY).startswith(sentence)


def test_means_over_seeds_have_their_spread():
    runs = [run("laser 0", 0.80), run("laser 1", 0.82)]
    table = over_seeds({"laser": runs})
    shown = dict(zip(table.heads, (cell.text for cell in table.rows[0]), strict=True))
    assert (shown["seeds"], shown["best accuracy (%)"], shown["bytes/round"]) == ("2", "81.0 ± 1.4", "6.3 kB")


@pytest.mark.parametrize(
    ("keys", "title"),
    [
        ([{}], f"laser: {SETTING} at power 1"),
        ([{"strategy": name} for name in ("sgd", "laser")], f"sgd and laser: {SETTING} at power 1"),
        ([{"power": power} for power in (1, 10)], f"laser over power: {SETTING}"),
        ([{"power": math.inf}], f"laser: {SETTING} without noise"),
    ],
)  # fmt: skip
def test_a_title_says_what_was_run(keys, title):
    assert title_of([parse(each).to_flat() for each in keys]) == title


@pytest.mark.parametrize("colour", ["#000000", "#ffffff", "#c8102e", "#ffe600", "#666666"])
def test_any_colour_is_seen_in_both_schemes(colour):
    for least in (3.0, 4.5):
        seen = in_both_schemes(colour, least)
        assert contrast(seen["light"], LIGHT) >= least
        assert contrast(seen["dark"], DARK) >= least
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
