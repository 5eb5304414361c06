"""The report's page for all readers: any screen, both colour schemes, keyboard and screen reader, no network."""

from itertools import pairwise

import pandas as pd
import pytest
from typer.testing import CliRunner

from laser_fl.config import parse
from simulations.cli import app
from simulations.engines import in_process
from simulations.results import results
from simulations.sweep import Grid, runs_of
from tests.simulations.test_report import TINY, browser, load

__all__ = ["browser"]  # the fixture
pytestmark = [pytest.mark.thorough, pytest.mark.browser]

STRATEGIES = ["sgd", "z-sgd", "laser", "random-k", "sketch", "signum"]  # more than a legend is good for
WIDTHS = (360, 1024, 1920)
SCHEMES = ("light", "dark")
CONTRASTS = """() => {
    const luminance = ([r, g, b]) => [r, g, b].map(v => v / 255)
        .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const numbers = colour => colour.match(/[\\d.]+/g).map(Number);
    const behind = element => {
        for (let e = element; e; e = e.parentElement) {
            const [r, g, b, a = 1] = numbers(getComputedStyle(e).backgroundColor);
            if (a > 0) return [r, g, b];
        }
        return [255, 255, 255];
    };
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const low = [];
    let count = 0;
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement, text = walker.currentNode.textContent.trim();
        if (!text || element.closest("script, style") || !element.getClientRects().length) continue;
        const style = getComputedStyle(element);
        const [r, g, b, a = 1] = numbers(element.closest("svg") ? style.fill : style.color);
        const [dark, light] = [luminance([r, g, b]), luminance(behind(element))].sort((x, y) => x - y);
        count += 1;
        const contrast = (light + 0.05) / (dark + 0.05);
        if (contrast < 4.5 || a < 1) low.push(`${text}: ${contrast.toFixed(2)}`);
    }
    return [count, low];
}"""
TOO_WIDE = """() => [...document.querySelectorAll("body *")]
    .filter(e => !e.closest("svg, .unseen, thead, .skip") && e.getBoundingClientRect().right > innerWidth + 1)
    .map(e => e.outerHTML.slice(0, 80))"""


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The pages of a run and of six strategies with two seeds."""
    root = tmp_path_factory.mktemp("pages")
    in_process.run(parse(TINY), root / "run")
    grid = Grid(TINY, {"strategy": STRATEGIES, "seed": [0, 1]})
    runs = runs_of([grid], root / "many")
    for run in runs:
        in_process.run(run.config, run.folder)
    results(runs, root / "many", [grid])
    for name in ("run", "many"):
        done = CliRunner().invoke(app, ["report", str(root / name)])
        assert done.exit_code == 0, done.output
    return {name: root / name / "report.html" for name in ("run", "many")}


@pytest.fixture(params=["run", "many"])
def path(pages, request):
    return pages[request.param]


@pytest.fixture
def opened(browser):
    """Opens a page on a screen of some width and scheme; closed after the test."""
    tabs = []

    def open_page(path, width=1024, scheme="light", **more):
        tabs.append(browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme, **more))
        return tabs[-1], load(tabs[-1], path)

    yield open_page
    for tab in tabs:
        tab.close()


def colours(page):
    """The colours of text and ground, the chart's text and its first curve, once the chart has followed the page."""
    page.wait_for_function(
        """getComputedStyle(document.querySelector(".xtick text")).fill == getComputedStyle(document.body).color"""
    )
    return page.evaluate(
        """() => { const {color, backgroundColor} = getComputedStyle(document.body);
        const chart = document.querySelector(".plotly-graph-div");
        return [color, backgroundColor, getComputedStyle(chart.querySelector(".xtick text")).fill,
                chart._fullData[0].line.color]; }"""
    )


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_any_screen_shows_all_of_it_readably(path, opened, width, scheme):
    page, complaints = opened(path, width, scheme)
    assert complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach(details => details.open = true)")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate(TOO_WIDE) == []
    count, low = page.evaluate(CONTRASTS)
    assert count > 100
    assert low == []


def test_every_picture_has_a_name_and_its_values_as_a_table(path, opened):
    page, _ = opened(path)
    charts = page.locator("[role=img], img").all()
    assert len(charts) == page.locator(".plotly-graph-div, img").count() > 5
    names = [chart.get_attribute("aria-label") or chart.get_attribute("alt") for chart in charts]
    assert all(len(name) > 40 for name in names)
    for figure in page.locator("figure.chart").all():
        figure.locator("summary").click()
        assert figure.get_by_role("row").count() > 1
        assert figure.get_by_role("columnheader").all_inner_texts()


def test_the_page_has_landmarks_a_language_and_headings_in_order(path, opened):
    page, _ = opened(path)
    assert page.locator("html").get_attribute("lang") == "en"
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(landmark).count() == 1
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3, h4')].map(h => Number(h.tagName[1]))")
    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    targets = page.locator("nav a").evaluate_all("links => links.map(a => document.querySelector(a.hash) !== null)")
    assert targets == [True] * len(targets) != []


def test_the_keyboard_reaches_everything_visibly(path, opened):
    page, _ = opened(path)
    seen = []
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate(
                """() => { const e = document.activeElement, style = getComputedStyle(e);
                return [e.className || e.tagName, e === document.body || parseFloat(style.outlineWidth) >= 2]; }"""
            )
        )
        if seen[-1][0] == "BODY":
            break
    names = [name for name, _ in seen]
    assert names[0] == "skip"
    assert names.count("plotly-graph-div js-plotly-plot") == page.locator(".plotly-graph-div").count()
    assert {"A", "SUMMARY"} <= set(names)
    assert all(visible for _, visible in seen)


def test_arrow_keys_go_along_the_curves(pages, opened):
    page, _ = opened(pages["run"])
    page.locator(".plotly-graph-div").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".hovertext")
    accuracy = 100 * pd.read_csv(pages["run"].parent / "metrics.csv").ema_test_accuracy[1]
    label, value = page.locator("#point").inner_text().split(": ")
    assert (label, value.split(", ")[1]) == ("laser", "round 4")
    assert float(value.split(",")[0]) == pytest.approx(accuracy)


def test_a_legend_hides_and_shows_curves(pages, opened):
    page, _ = opened(pages["many"], 360)
    button = page.locator(".legend button:has-text('z-sgd')").first
    state = """() => document.querySelector(".plotly-graph-div")._fullData
        .filter(t => t.legendgroup == "z-sgd").map(t => t.visible)"""
    assert page.evaluate(state) == [True] * 3  # averaged, current, band
    button.focus()
    page.keyboard.press("Enter")
    assert (button.get_attribute("aria-pressed"), page.evaluate(state)) == ("false", [])
    page.keyboard.press("Enter")
    assert (button.get_attribute("aria-pressed"), page.evaluate(state)) == ("true", [True] * 3)


def test_many_curves_are_named_at_their_ends_where_there_is_room(pages, opened):
    page, _ = opened(pages["many"], 1920)
    first = page.locator("figure.chart").first
    labels = first.locator(".annotation-text")
    assert set(labels.all_text_contents()) == set(STRATEGIES)
    boxes = sorted((label.bounding_box() for label in labels.all()), key=lambda box: box["y"])
    assert all(one["y"] + one["height"] <= other["y"] + 4 for one, other in pairwise(boxes))
    assert not first.locator(".legend").is_visible()
    page.set_viewport_size({"width": 360, "height": 800})
    first.locator(".legend").wait_for(state="visible")
    first.locator(".annotation-text").first.wait_for(state="detached")


def test_charts_follow_the_scheme_when_it_changes(pages, opened):
    page, _ = opened(pages["run"], bypass_csp=True)  # Playwright waits by eval
    light = colours(page)
    page.emulate_media(color_scheme="dark")
    dark = colours(page)
    assert all(one != other for one, other in zip(light[:3], dark[:3], strict=True))
    page.emulate_media(color_scheme="light")
    assert colours(page) == light


def test_the_tool_bar_lies_above_the_curves_and_comes_with_the_mouse(pages, opened):
    page, _ = opened(pages["run"], bypass_csp=True)
    chart = page.locator(".plotly-graph-div").first
    bar = chart.locator(".modebar")
    opacity = "getComputedStyle(document.querySelector('.modebar-group')).opacity"
    assert page.evaluate(opacity) == "0"
    chart.hover()
    page.wait_for_function(f"{opacity} === '1'")
    plot = chart.locator(".nsewdrag").first.bounding_box()
    box = bar.bounding_box()
    assert box["y"] + box["height"] <= plot["y"] + 1


def test_bands_have_the_seeds_standard_deviation(pages, opened):
    page, _ = opened(pages["many"])
    band = page.evaluate(
        """() => { const t = document.querySelector(".plotly-graph-div")._fullData
            .find(t => t.fill == "toself" && t.legendgroup == "laser"); return Array.from(t.y); }"""
    )
    folders = [run.parent for run in pages["many"].parent.glob("*laser*/config.json")]
    last = pd.Series([100 * pd.read_csv(f / "metrics.csv").ema_test_accuracy.iloc[-1] for f in folders])
    half = len(band) // 2
    assert (band[half - 1], band[half]) == pytest.approx((last.mean() + last.std(), last.mean() - last.std()))


def test_motion_is_for_those_who_want_it(pages, opened):
    page, _ = opened(pages["run"], reduced_motion="reduce")
    assert page.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
