"""How far results are from the paper: verdicts, power reductions, claims."""

import math

import pandas as pd
import pytest

from simulations.figures import figure5, policies
from simulations.figures.adaptive import ByTask, savings, standing
from simulations.figures.claims import BELOW_THE_HIGHEST, EVERYWHERE, NOT_AT_THE_HIGHEST
from simulations.figures.figure1 import FIGURE1
from simulations.figures.judges import Claim, Claims, Reductions, Scores, power_needed, scored
from simulations.sweep import Grid

POWERS = (1.0, 10.0, 100.0)
GRID = Grid({}, {"strategy": ["laser", "z-sgd"], "power": POWERS})


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
    paper = Scores(paper={("laser", 1.0): 25.0, ("z-sgd", 1.0): 70.0, ("laser", 10.0): 20.5}, tolerance=0.1)(table)
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
    assert table.ratio[0] == pytest.approx(10 ** (2 / 3))
    assert table.verdict.tolist() == ["worse", "worse"]
    assert table.seeds.tolist() == [2, 2]


def test_a_seed_whose_ratio_the_grid_cuts_off_is_not_in_the_spread():
    cut = results([0.6, 0.7, 0.8], [0.3, 0.5, 0.7], seed=1)  # LASER reaches it at the least power already
    row = Reductions([60.0], {60.0: (1.0, 16.0)})(pd.concat([results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]), cut])).iloc[0]
    assert (row.low, row.high, row.seeds) == (pytest.approx(10), pytest.approx(10), 1)


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_a_seed_that_does_not_reach_the_target_is_not_in_the_spread(order):
    seeds = [results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]), results([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])]
    runs = pd.concat([seeds[i].assign(seed=i) for i in order])
    row = Reductions([60.0], {60.0: (1.0, 16.0)})(runs).iloc[0]
    assert (row.low, row.high, row.seeds) == (pytest.approx(10), pytest.approx(10), 1)


@pytest.mark.parametrize(
    ("laser", "z_sgd", "target", "ratio", "bound", "paper", "judged"),
    [
        # LASER reaches it at the least power already
        ([0.5, 0.7, 0.8], [0.3, 0.5, 0.7], 50, 10, "at least", 16.0, ""),
        ([0.5, 0.7, 0.8], [0.3, 0.5, 0.7], 50, 10, "at least", 3.0, "better"),
        # Z-SGD never does
        ([0.5, 0.7, 0.8], [0.3, 0.5, 0.7], 75, 10**0.5, "at least", 16.0, ""),
        ([0.3, 0.5, 0.7], [0.5, 0.7, 0.8], 50, 0.1, "at most", 16.0, "worse"),
        ([0.3, 0.5, 0.7], [0.5, 0.7, 0.8], 50, 0.1, "at most", 0.1, ""),
        ([0.5, 0.7, 0.8], [0.5, 0.7, 0.8], 50, math.nan, "", 16.0, ""),
        # LASER never does
        ([0.3, 0.5, 0.6], [0.5, 0.7, 0.8], 70, 0.1, "at most", 16.0, "worse"),
        ([0.3, 0.5, 0.6], [0.3, 0.5, 0.6], 70, math.nan, "", 16.0, ""),
    ],
)
def test_a_target_at_the_edge_of_the_grid_gives_a_bound(laser, z_sgd, target, ratio, bound, paper, judged):
    row = Reductions([target], {1.0: (1.0, paper)})(results(laser, z_sgd)).iloc[0]
    assert row.ratio == pytest.approx(ratio, nan_ok=True)
    assert (row.bound, row.verdict) == (bound, judged)


def test_claims_are_checked_against_mean_scores():
    claims = Claims((EVERYWHERE, BELOW_THE_HIGHEST, NOT_AT_THE_HIGHEST), GRID)
    ahead = claims(results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]))
    assert ahead.verdict.tolist() == ["holds", "holds", "does not"]
    behind = claims(results([0.5, 0.7, 0.8], [0.3, 0.5, 0.9]))
    assert behind.verdict.tolist() == ["does not", "holds", "holds"]
    assert behind.ours.tolist() == ["+20.0 at 1, +20.0 at 10, -10.0 at 100", "+20.0 at 1, +20.0 at 10", "-10.0 at 100"]
    perplexity = claims(results([30, 20, 10], [60, 40, 20], metric="perplexity"))
    assert perplexity.verdict.tolist() == ["holds", "holds", "does not"]
    level = claims(results([30, 20, 10], [60, 40, 10], metric="perplexity"))
    assert level.verdict.tolist() == ["does not", "holds", "holds"]


@pytest.mark.parametrize(
    "holes", [lambda t: t.drop(index=4), lambda t: t[t.power > 1], lambda t: t[t.strategy == "laser"]]
)
def test_claims_wait_for_all_cells(holes):
    partial = holes(results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]))
    judged = Claims((EVERYWHERE, BELOW_THE_HIGHEST, NOT_AT_THE_HIGHEST), GRID)(partial)
    assert judged.verdict.tolist() == ["incomplete"] * 3


def test_claims_do_not_look_beyond_their_grid():
    more = pd.concat([results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7]), results([0.1] * 3, [0.2] * 3).assign(power=1000.0)])
    noiseless = results([0.9] * 3, [0.9] * 3).assign(strategy="sgd", power=math.inf)
    assert Claims((EVERYWHERE,), GRID)(pd.concat([more, noiseless])).verdict.tolist() == ["holds"]


def by_policy(scores):
    rows = [(s, p, policy, a) for (s, policy), row in scores.items() for p, a in zip((1.0, 10.0), row, strict=True)]
    return pd.DataFrame(rows, columns=["strategy", "power", "power-policy", "best_ema_test_accuracy"])


def test_claims_about_policies():
    laser = {("laser", policy): (0.8, 0.9) for policy in ("constant", *policies.FALLING, *policies.RISING)}
    z_sgd = {("z-sgd", policy): (0.6, 0.7) for policy in ("constant", *policies.FALLING)}
    z_sgd |= {("z-sgd", policy): (0.55, 0.7) for policy in policies.RISING}
    every = ("constant", *policies.FALLING, *policies.RISING)
    grid = Grid({}, {"strategy": ["laser", "z-sgd"], "power": [1.0, 10.0], "power-policy": every})
    judge = Claims(policies.CLAIMS + policies.CLAIMS_ON_BOTH, grid, policies.CELLS)
    assert judge(by_policy(laser | z_sgd)).verdict.tolist() == ["holds"] * 5
    for changed, wrong in (
        ({("z-sgd", "linear-down"): (0.65, 0.7)}, [0]),
        ({("laser", "steps-down"): (0.85, 0.9)}, [0, 1]),
        ({("z-sgd", "constant"): (0.85, 0.7)}, [2]),
        ({("z-sgd", "steps-up"): (0.59, 0.8)}, [0, 3]),
        ({("z-sgd", "steps-up"): (0.605, 0.7)}, [4]),
    ):
        verdicts = judge(by_policy(laser | z_sgd | changed)).verdict.tolist()
        assert [i for i, verdict in enumerate(verdicts) if verdict == "does not"] == wrong


def by_rank(rows):
    table = [(p, r, a) for p, row in rows.items() for r, a in zip((1, 4, 16), row, strict=True)]
    frame = pd.DataFrame(table, columns=["power", "rank", "best_ema_test_accuracy"])
    return frame.assign(strategy="laser")


def test_claims_about_the_rank():
    good = {1.0: (0.4, 0.6, 0.5), 100.0: (0.7, 0.9, 0.88)}
    judge = Claims(figure5.CLAIMS, Grid({}, {"power": [1.0, 100.0], "rank": [1, 4, 16]}), figure5.CELLS)
    assert judge(by_rank(good)).verdict.tolist() == ["holds"] * 3
    for changed, wrong in (
        ({1.0: (0.4, 0.5, 0.6)}, [0, 2]),
        ({1.0: (0.5, 0.6, 0.4)}, [1]),
        ({100.0: (0.7, 0.9, 0.75)}, [2]),
    ):
        verdicts = judge(by_rank(good | changed)).verdict.tolist()
        assert [i for i, verdict in enumerate(verdicts) if verdict == "does not"] == wrong


def test_of_best_of_keys_the_chosen_values_count_and_are_told():
    runs = results([0.5, 0.7, 0.8], [0.3, 0.5, 0.7])
    runs["best-of"] = "learning-rate"
    chosen = runs.assign(chosen=True, **{"learning-rate": [0.1, 0.1, 0.2] * 2})
    both = pd.concat([chosen, runs.assign(best_ema_test_accuracy=0.1, chosen=False, **{"learning-rate": 0.3})])
    table = Scores()(both)
    assert table["mean"].tolist() == pytest.approx([50, 70, 80, 30, 50, 70])
    assert table["learning-rate"].tolist() == [0.1, 0.1, 0.2] * 2
    seen = []
    Claims((Claim("any", lambda means: (str(seen.append(means.max())), True)),), GRID)(both)
    assert seen == [80]


class TestOursBesideTheOthers:
    def results(self):
        """Two methods and ours over two powers, two seeds each."""
        scores = {
            ("laser-adaptive", "auto"): {1.0: (0.90, 0.92), 10.0: (0.95, 0.95)},
            ("laser", "auto"): {1.0: (0.80, 0.80), 10.0: (0.91, 0.91)},
            ("laser", "wiener"): {1.0: (0.85, 0.85), 10.0: (0.96, 0.96)},
        }
        return pd.DataFrame(
            {"task": "mnist", "strategy": strategy, "receiver": receiver, "compression-factor": 0.1, "power": power}
            | {"seed": seed, "best_ema_test_accuracy": score}
            for (strategy, receiver), powers in scores.items()
            for power, pair in powers.items()
            for seed, score in enumerate(pair)
        )

    def test_ours_stands_by_the_best_other_and_the_spread(self):
        table = ByTask(standing)(self.results())
        assert table["best other"].tolist() == ["laser, wiener", "laser, wiener"]
        assert table["lead"].tolist() == pytest.approx([6.0, -1.0])
        assert table["spread"].tolist() == pytest.approx([100 * 0.02 / 2**0.5, 0.0])
        assert table["verdict"].tolist() == ["ahead", "behind"]

    def test_one_seed_is_no_verdict(self):
        results = self.results()
        assert ByTask(standing)(results[results["seed"] == 0])["verdict"].tolist() == ["", ""]

    def test_ours_is_as_good_as_laser_at_less_power(self):
        table = ByTask(savings)(self.results())
        assert table["needs"].tolist() == [1.0, 1.0]
        assert table["times less"].tolist() == [1.0, 10.0]
        assert table["bound"].tolist() == ["at least", "at least"]
        worse = self.results().replace({"strategy": {"laser-adaptive": "laser", "laser": "laser-adaptive"}})
        table = ByTask(savings)(worse[worse["receiver"] == "auto"])
        assert table["bound"].tolist() == ["", "at most"]
        assert table["times less"].tolist() == pytest.approx([0.1, 1.0])


def test_figure_1_judges_the_best_and_the_final_perplexity_each_under_its_name():
    """The paper's, and final ones that are three times as large."""
    cells = [("laser", 10e3, 76.0), ("laser", 160e3, 35.0), ("z-sgd", 10e3, 212.0), ("z-sgd", 160e3, 71.0)]
    rows = [(s, p, 0, best, best if s == "z-sgd" else 3 * best) for s, p, best in cells]
    names = ["strategy", "power", "seed", "best_ema_test_perplexity", "test_perplexity"]
    judged = {part: judge(pd.DataFrame(rows, columns=names)) for part, judge in FIGURE1.scales["full"].tables.items()}
    assert list(judged) == [f"{kind}{part}" for kind in ("", "final-") for part in ("scores", "reductions", "claims")]
    assert judged["scores"]["verdict"].tolist() == ["within"] * 4
    assert judged["final-scores"]["verdict"].tolist() == ["worse", "worse", "within", "within"]
    assert judged["final-scores"]["mean"].tolist() == [228.0, 105.0, 212.0, 71.0]
    ratios = {part: judged[part].set_index("target")["ratio"][80.0] for part in ("reductions", "final-reductions")}
    assert ratios["reductions"] > 10 > 1 > ratios["final-reductions"]
    panels = FIGURE1.draw(pd.DataFrame(rows, columns=names)).axes
    assert [axes.get_ylabel() for axes in panels] == ["test perplexity, best average", "test perplexity, final"]
