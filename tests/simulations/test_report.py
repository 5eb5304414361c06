"""The report: one page that a real browser loads without errors or requests, with the right numbers in it."""

import json
import math
import os
import shutil

import pandas as pd
import pytest
from typer.testing import CliRunner

from laser_fl.config import parse
from laser_fl.registry import Entry, Table
from simulations.cli import app
from simulations.engines import in_process
from simulations.figures.base import Figure, Scale
from simulations.figures.curves import over_power
from simulations.figures.judges import Scores
from simulations.sweep import Grid
from tests.helpers import one_after_the_other

TINY = {"model": "linear", "clients": 4, "rounds": 4, "batch-size": 8, "evaluate-every": 2}
TOY = Figure(
    "a toy",
    {
        "small": Scale(
            (Grid(TINY, {"strategy": ["laser", "z-sgd"], "power": [1.0, 100.0], "seed": [0, 1]}),),
            "a second",
            {"scores": Scores(paper={("laser", 1.0): 100.0}, tolerance=1.0)},
        )
    },
    over_power,
)


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is an extra: pip install 'laser-fl[dev]'")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        assert not os.environ.get("CI"), "CI has a browser"
        pytest.skip("a browser is needed: install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(autouse=True)
def _without_ray(monkeypatch):
    monkeypatch.setattr("simulations.sweep._on_ray", one_after_the_other)


@pytest.fixture
def page(browser):
    page = browser.new_page()
    yield page
    page.close()


def call(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def load(page, path):
    """Open the page; returns what the browser complained of or asked the network for."""
    seen = []
    page.on("console", lambda message: seen.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: seen.append(str(error)))
    page.on("request", lambda request: seen.append(request.url) if not request.url.startswith("file:") else None)
    page.goto(path.as_uri())
    page.wait_for_function("[...document.querySelectorAll('.plotly-graph-div')].every(div => div.data)")
    return seen


def traces(page, heading):
    """The curves of the chart below a heading, as the browser holds them: {name: (x, y)}; without bands."""
    data = page.locator(f":is(h2, h3):text-is('{heading}') + .plotly-graph-div").evaluate(
        """div => div._fullData.filter(t => t.fill != "toself").map(
            t => ({name: t.name, x: Array.from(t.x), y: Array.from(t.y)}))"""
    )
    return {trace["name"]: (trace["x"], trace["y"]) for trace in data}


def cells(page, heading):
    """The rows of the table below a heading."""
    rows = page.locator(f":is(h2, h3):text-is('{heading}') + table tr").all()
    return [row.locator("th, td").all_inner_texts() for row in rows]


def test_a_run_has_a_page_and_pictures(tmp_path):
    in_process.run(parse(TINY), tmp_path / "run")
    assert call("report", tmp_path / "run").exit_code == 0
    page = (tmp_path / "run" / "report.html").read_text()
    assert all(f"<h2>{chart} over rounds</h2>" in page for chart in ("Score", "Power", "Signal to noise"))
    assert "best_ema_test_accuracy" in page
    assert (tmp_path / "run" / "run.pdf").is_file()


@pytest.mark.thorough
@pytest.mark.browser
def test_the_page_of_a_run_shows_its_numbers(tmp_path, page):
    summary = in_process.run(parse(TINY | {"strategy": "z-sgd"}), tmp_path / "run")
    assert call("report", tmp_path / "run").exit_code == 0
    assert load(page, tmp_path / "run" / "report.html") == []
    shown = dict(cells(page, "Result")[1:])
    assert shown["accuracy, best of averaged weights"] == f"{100 * summary['best_ema_test_accuracy']:.1f} %"
    metrics, ledger = (pd.read_csv(tmp_path / "run" / name) for name in ("metrics.csv", "ledger.csv"))
    rounds, accuracy = traces(page, "Score over rounds")["z-sgd"]
    assert rounds == metrics["round"].tolist()
    assert accuracy == pytest.approx((100 * metrics.ema_test_accuracy).tolist())
    _, current = traces(page, "Score over rounds")["z-sgd, current weights"]
    assert current == pytest.approx((100 * metrics.test_accuracy).tolist())
    energy, _ = traces(page, "Score over energy of all clients and the server")["z-sgd"]
    assert energy == pytest.approx(metrics.energy.tolist())
    power = traces(page, "Power over rounds")
    assert power["z-sgd"][1] == pytest.approx(ledger.max_power_used.tolist())
    assert power["z-sgd, power budget"][1] == [1.0] * 4
    page.locator("summary:text('Configuration')").click()
    assert page.locator("th:text-is('batch-size') + td").inner_text() == "8"
    assert (tmp_path / "run" / "run.pdf").is_file()


@pytest.mark.thorough
@pytest.mark.browser
def test_values_are_shown_where_one_points(tmp_path, page):
    in_process.run(parse(TINY), tmp_path / "run")
    call("report", tmp_path / "run")
    load(page, tmp_path / "run" / "report.html")
    chart = page.locator(".plotly-graph-div").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    x, y = chart.evaluate(
        """div => { const {xaxis, yaxis} = div._fullLayout, {x, y} = div._fullData[0];
        return [xaxis.d2p(x[1]) + xaxis._offset, yaxis.d2p(y[1]) + yaxis._offset]; }"""
    )
    page.mouse.move(box["x"] + x - 1, box["y"] + y)
    page.mouse.move(box["x"] + x, box["y"] + y)
    page.wait_for_selector(".hovertext")
    accuracy = pd.read_csv(tmp_path / "run" / "metrics.csv").ema_test_accuracy[1]
    shown = page.locator(".hovertext").first.text_content()
    assert shown.endswith(" at 4")
    assert float(shown.removeprefix("laser, averaged weights").split()[0]) == pytest.approx(100 * accuracy, rel=1e-3)


@pytest.mark.thorough
@pytest.mark.browser
def test_the_page_of_a_reproduction_shows_its_verdicts(tmp_path, monkeypatch, page):
    monkeypatch.setattr(
        "simulations.reproduction.FIGURES", Table({"toy": Entry("tests.simulations.test_report:TOY", "a toy")})
    )
    where = ("--out", tmp_path / "toy", "--runs", tmp_path / "runs")
    assert call("reproduce", "toy", "--quiet", *where).exit_code == 0
    assert call("report", tmp_path / "toy", "--out", tmp_path / "page.html").exit_code == 0
    assert load(page, tmp_path / "page.html") == []
    head, *rows = cells(page, "Scores")
    scores = pd.read_csv(tmp_path / "toy" / "scores.csv")
    assert head == [
        "strategy", "power budget per client and round", "mean over seeds", "standard deviation", "best seed", "seeds",
        "paper", "tolerance", "verdict",
    ]  # fmt: skip
    assert [float(row[2]) for row in rows] == pytest.approx(scores["mean"].tolist(), rel=1e-3)
    assert [row[-1] for row in rows] == ["worse", "", "", ""]
    powers, values = traces(page, "Score over power")["laser"]
    assert powers == [1.0, 100.0]
    assert values == pytest.approx(scores[scores.strategy == "laser"]["mean"].tolist())
    rounds = traces(page, "Score over rounds")
    named = {f"{s}, power={p}" for s in ("laser", "z-sgd") for p in (1.0, 100.0)}
    assert set(rounds) == named | {f"{name}, current weights" for name in named}
    assert page.locator("img").evaluate("image => image.naturalWidth") > 100


@pytest.mark.thorough
@pytest.mark.browser
def test_several_folders_make_one_page(tmp_path, page, in_this_process):
    words = [word for key, value in TINY.items() for word in ("-c", f"{key}={value}")]
    assert call("compare", *words, "--strategies", "sgd,laser", "--quiet", "--out", tmp_path / "both").exit_code == 0
    in_process.run(parse(TINY | {"power": 5.0}), tmp_path / "run")
    result = call("report", tmp_path / "both", tmp_path / "run", "--out", tmp_path / "page" / "all.html")
    assert result.exit_code == 0, result.output
    assert load(page, tmp_path / "page" / "all.html") == []
    setting = "linear on mnist-5k, 4 clients, awgn channel at power 5"
    assert page.locator("h2").all_inner_texts() == [f"sgd and laser: {setting}", f"laser: {setting}"]
    assert page.locator("section .folder").all_inner_texts() == [str(tmp_path / name) for name in ("both", "run")]
    assert {"both.png", "both.pdf", "run.png", "run.pdf"} < {path.name for path in (tmp_path / "page").iterdir()}
    noiseless = page.locator("h3:text-is('Power over rounds') + .plotly-graph-div").first
    assert noiseless.evaluate("div => div.data.every(trace => trace.name.startsWith('laser'))")


@pytest.mark.thorough
@pytest.mark.browser
def test_folders_of_one_name_keep_their_own_pictures(tmp_path, page, monkeypatch):
    for name, rounds in (("a", 2), ("b", 4)):
        in_process.run(parse(TINY | {"rounds": rounds}), tmp_path / name / "x")
    monkeypatch.chdir(tmp_path / "a" / "x")
    assert call("report", ".", tmp_path / "b" / "x", "--out", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "x.png").read_bytes() != (tmp_path / "x-2.png").read_bytes()
    load(page, tmp_path / "page.html")
    assert page.locator("section .folder").all_inner_texts() == [str(tmp_path / name / "x") for name in "ab"]
    first, second = (image.get_attribute("src") for image in page.locator("img").all())
    assert first != second


@pytest.mark.thorough
@pytest.mark.browser
def test_a_sweep_shows_the_values_that_were_chosen(tmp_path, page):
    text = "\n".join(f"{key} = {value!r}" for key, value in TINY.items()).replace("'", '"')
    grid = "[grid]\nlearning-rate = [0.1, 0.01]\nseed = [0, 1]\npower = [1.0, 10.0]\n[best-of]\nrank = [1, 2]\n"
    (tmp_path / "s.toml").write_text(f"[fixed]\n{text}\n{grid}")
    assert call("sweep", tmp_path / "s.toml", "--quiet", "--out", tmp_path / "s").exit_code == 0
    assert call("report", tmp_path / "s").exit_code == 0
    assert load(page, tmp_path / "s" / "report.html") == []
    results = pd.read_parquet(tmp_path / "s" / "results.parquet")
    chosen = results[results.chosen]
    curves = traces(page, "Score over power")
    assert set(curves) == {"learning-rate=0.1", "learning-rate=0.01"}
    for rate, (powers, scores) in curves.items():
        means = 100 * chosen[chosen["learning-rate"] == float(rate[14:])].groupby("power").best_ema_test_accuracy.mean()
        assert (powers, scores) == (means.index.tolist(), pytest.approx(means.tolist()))
    assert len(cells(page, "Runs")) == 1 + len(chosen)
    assert len(traces(page, "Power over rounds")) == 2 * chosen.groupby(["learning-rate", "rank", "power"]).ngroups


@pytest.mark.thorough
@pytest.mark.browser
def test_results_without_their_runs_have_a_page(tmp_path, page, monkeypatch):
    monkeypatch.setattr(
        "simulations.reproduction.FIGURES", Table({"toy": Entry("tests.simulations.test_report:TOY", "a toy")})
    )
    call("reproduce", "toy", "--quiet", "--out", tmp_path / "toy", "--runs", tmp_path / "runs")
    shutil.rmtree(tmp_path / "runs")
    assert call("report", tmp_path / "toy").exit_code == 0
    assert load(page, tmp_path / "toy" / "report.html") == []
    assert "The folders of 8 runs are not here" in page.locator("section").inner_text()
    assert "Score over power" in page.locator("h2").all_inner_texts()
    page.locator("summary:text('Configuration')").click()
    assert page.locator("th:text-is('batch-size') + td").inner_text() == "8"


@pytest.mark.thorough
@pytest.mark.browser
def test_an_unfinished_run_has_a_page(tmp_path, page):
    in_process.run(parse(TINY), tmp_path / "run")
    (tmp_path / "run" / "summary.json").unlink()
    assert call("report", tmp_path / "run").exit_code == 0
    load(page, tmp_path / "run" / "report.html")
    assert cells(page, "Result")[1:] == [["how it ended", "unfinished after round 4"]]


@pytest.mark.parametrize("name", ["nothing", "empty", "broken", "half"])
def test_a_folder_of_something_else_is_refused(tmp_path, name):
    folder = tmp_path / name
    if name != "nothing":
        folder.mkdir()
    if name == "broken":
        (folder / "figure.json").write_text(json.dumps({"name": "table13"}))
    if name == "half":
        (folder / "config.json").write_text("{")
    result = call("report", folder, "--out", tmp_path / "page.html")
    assert result.exit_code == 2
    file = {"broken": "figure.json", "half": "config.json"}.get(name)
    assert result.stderr.startswith(f"{folder / file}: must be readable" if file else "report: must be the folder of")
    assert result.stderr.count("\n") == 1
    assert not (tmp_path / "page.html").exists()


def test_a_page_that_cannot_be_written_is_refused(tmp_path):
    in_process.run(parse(TINY), tmp_path / "run")
    (tmp_path / "file").write_text("")
    result = call("report", tmp_path / "run", "--out", tmp_path / "file" / "page.html")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert result.stderr.startswith("--out: must be writable")


@pytest.mark.thorough
@pytest.mark.browser
def test_infinity_and_long_runs_are_drawn(tmp_path, page):
    """Silent rounds have no SNR; of more than a thousand rounds every n-th is drawn."""
    keys = TINY | {"rounds": 1500, "evaluate-every": 1500, "channel": "fading", "gain-threshold": 2.0, "clients": 1}
    in_process.run(parse(keys), tmp_path / "run")
    assert call("report", tmp_path / "run").exit_code == 0
    assert load(page, tmp_path / "run" / "report.html") == []
    rounds, values = traces(page, "Signal to noise over rounds")["laser"]
    assert rounds == list(range(1, 1501, 2))
    assert any(math.isnan(value) for value in values)
    assert all(math.isnan(value) or math.isfinite(value) for value in values)
