"""How far results are from the paper: verdicts, power reductions, claims."""

import math

import pandas as pd
import pytest

from simulations.figures.claims import LASER_LEADS
from simulations.figures.judges import Claim, Claims, Reductions, Scores, power_needed, scored

POWERS = (1.0, 10.0, 100.0)


def results(laser, z_sgd, seed=0, metric="accuracy"):
    rows = [("laser", p, a, seed) for p, a in zip(POWERS, laser, strict=True)]
    rows += [("z-sgd", p, a, seed) for p, a in zip(POWERS, z_sgd, strict=True)]
    return pd.DataFrame(rows, columns=["strategy", "power", f"best_ema_test_{metric}", "seed"])


def test_the_power_that_a_target_takes_is_interpolated_between_logs():
    table = scored(results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]))
    assert power_needed(table, "laser", 60) == pytest.approx(10**0.5)
    assert power_needed(table, "laser", 40) == 1
    assert power_needed(table, "laser", 90) == math.inf


def test_of_perplexities_the_lower_is_the_better():
    table = scored(results([30, 20, 10], [60, 40, 20], metric="perplexity"))
    assert power_needed(table, "laser", 25) == pytest.approx(10**0.5)
    assert power_needed(table, "z-sgd", 20) == pytest.approx(100)
    paper = Scores(paper={("laser", 1.0): 25.0, ("z-sgd", 1.0): 70.0, ("laser", 10.0): 20.5}, tolerance=1)(table)
    verdicts = dict(zip(zip(paper.strategy, paper.power, strict=True), paper.verdict, strict=True))
    assert verdicts["laser", 1.0] == "worse"
    assert verdicts["z-sgd", 1.0] == "better"
    assert verdicts["laser", 10.0] == "within"
    assert verdicts["z-sgd", 10.0] == ""


def test_reductions_stand_beside_the_papers_with_their_spread():
    runs = pd.concat([results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]), results([0.5, 0.7, 0.8], [0.5, 0.7, 0.8], seed=1)])
    table = Reductions([70.0, 60.0], {70.0: (1.0, 16.0), 90.0: (1.0, 30.0)}, tolerance=2.0)(runs)
    assert table.low.tolist() == pytest.approx([1, 1])
    assert table.high.tolist() == pytest.approx([10, 10])
    assert table.paper.tolist() == [16.0, 23.0]
    assert table.reduction[0] == pytest.approx(10**0.5 * 10**0.166, rel=0.2)
    assert table.verdict.tolist() == ["worse", "worse"]


@pytest.mark.parametrize(
    ("laser", "z_sgd", "target", "ratio", "bound"),
    [
        ([0.5, 0.7, 0.8], [0.3, 0.5, 0.7], 50, 10, "at least"),  # LASER reaches it at the least power already
        ([0.5, 0.7, 0.8], [0.3, 0.5, 0.7], 75, 10**0.5, "at least"),  # Z-SGD never does
        ([0.3, 0.5, 0.7], [0.5, 0.7, 0.8], 50, 0.1, "at most"),
        ([0.5, 0.7, 0.8], [0.5, 0.7, 0.8], 50, math.nan, ""),
        ([0.3, 0.5, 0.6], [0.5, 0.7, 0.8], 70, math.nan, ""),
    ],
)
def test_a_target_at_the_edge_of_the_grid_gives_a_bound(laser, z_sgd, target, ratio, bound):
    row = Reductions([target], {1.0: (1.0, 16.0)}, 2.0)(results(laser, z_sgd)).iloc[0]
    assert row.reduction == pytest.approx(ratio, nan_ok=True)
    assert row.bound == bound


def test_claims_are_checked_against_mean_scores():
    leads = Claims((LASER_LEADS,))
    assert leads(results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7])).verdict.tolist() == ["holds"]
    behind = leads(results([0.5, 0.7, 0.8], [0.3, 0.5, 0.9]))
    assert behind.verdict.tolist() == ["does not"]
    assert behind.ours.tolist() == ["+20.0 at 1, +20.0 at 10, -10.0 at 100"]
    assert leads(results([30, 20, 10], [60, 40, 20], metric="perplexity")).verdict.tolist() == ["holds"]


def test_of_best_of_keys_the_chosen_values_count():
    runs = results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7])
    both = pd.concat([runs.assign(chosen=True), runs.assign(best_ema_test_accuracy=0.1, chosen=False)])
    assert Scores()(both)["mean"].tolist() == pytest.approx([50, 70, 80, 30, 50, 70])
    seen = []
    Claims((Claim("any", lambda means: (str(seen.append(means.max())), True)),))(both)
    assert seen == [80]
