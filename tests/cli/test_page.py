"""The page in a browser: it draws, it is quiet, it fits."""

import shutil

import pytest
import report_records

from ngram_copy import report

pytestmark = pytest.mark.browser

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    out = tmp_path_factory.mktemp("page")
    return report.write(report_records.make(), out, verdicts=report_records.VERDICTS)["index.html"]


@pytest.fixture(scope="module")
def learned_index(tmp_path_factory):
    """Symbolic and learned engines beside each other."""
    out = tmp_path_factory.mktemp("learned")
    records = [*report_records.make(), *report_records.make_learned()]
    return report.write(records, out, verdicts=report_records.VERDICTS)["index.html"]


@pytest.fixture
def opened(browser, index, request):
    """The page at a width, and everything that it complained of or asked the network for."""
    yield from at_width(browser, index, request.param)


@pytest.fixture
def opened_learned(browser, learned_index, request):
    """The same of the page with learned engines."""
    yield from at_width(browser, learned_index, request.param)


def at_width(browser, index, width):
    context = browser.new_context(viewport={"width": width, "height": 900}, offline=True)
    page = context.new_page()
    troubles = []
    page.on("console", lambda message: troubles.append(message.text) if message.type in {"error", "warning"} else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("requestfailed", lambda call: troubles.append(call.url))
    page.on("request", lambda call: troubles.append(call.url) if call.url.startswith("http") else None)
    page.goto(index.as_uri())
    page.wait_for_selector("body[data-drawn=yes]", timeout=60_000)
    yield page, troubles
    context.close()


@pytest.mark.parametrize("opened", [390, 1280], indirect=True)
def test_page_draws_quietly_and_fits(opened):
    page, troubles = opened
    assert troubles == []
    width = page.evaluate("innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    plots = page.locator(".plot")
    assert plots.count() > 10
    assert page.locator(".plot svg.marks").count() == plots.count()
    boxes = page.evaluate(
        "[...document.querySelectorAll('.plot svg.marks')].map(s => s.getBoundingClientRect().toJSON())"
    )
    assert all(box["right"] <= width and box["width"] > 200 and box["height"] > 150 for box in boxes)
    assert page.locator("#plot-bits-0 .mark-symbol path").count() > 50


@pytest.mark.parametrize("opened_learned", [390, 1400], indirect=True)
def test_learned_engines_stand_in_the_same_charts(opened_learned):
    page, troubles = opened_learned
    assert troubles == []
    width = page.evaluate("innerWidth")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.locator(".plot svg.marks").count() == page.locator(".plot").count()
    boxes = page.evaluate(
        "[...document.querySelectorAll('.plot svg.marks')].map(s => s.getBoundingClientRect().toJSON())"
    )
    assert all(box["right"] <= width for box in boxes)
    # One chart: the points of symbolic engines, and those of learned ones, which have an edge.
    edged = page.locator("#plot-bits-0 .mark-symbol path[stroke='#1f2933']").count()
    assert 0 < edged < page.locator("#plot-bits-0 .mark-symbol path").count()
    assert page.locator("#training .plot").count() == 3
    assert page.locator("#errors .plot").count() == 5
    assert page.locator("#learned table").count() == 2


@pytest.mark.parametrize("opened", [1280], indirect=True)
def test_tooltip_has_counts_and_the_legend_picks(opened):
    page, troubles = opened
    page.locator("#plot-strings-0 .mark-symbol path").first.hover()
    tip = page.locator("#vg-tooltip-element")
    tip.wait_for(state="visible")
    assert "/1000 = " in tip.inner_text()
    assert "95%" in tip.inner_text()
    button = page.locator("#strings .legend button", has_text="ngram-3")
    button.click()
    assert button.get_attribute("aria-pressed") == "true"
    points = "[...document.querySelectorAll('#strings .mark-symbol path')]"
    faint = f"{points}.filter(point => point.getAttribute('opacity') < 0.5).length"
    page.wait_for_function(f"{faint} > 0")
    button.click()
    page.wait_for_function(f"{faint} === 0")
    assert troubles == []


@pytest.mark.parametrize("opened", [390], indirect=True)
def test_tooltips_stay_on_a_narrow_screen(opened):
    page, _ = opened
    points = page.locator("#plot-bits-0 .mark-symbol path")
    tip = page.locator("#vg-tooltip-element")
    for place in range(0, points.count(), 20):
        points.nth(place).scroll_into_view_if_needed()
        points.nth(place).hover(force=True)
        tip.wait_for(state="visible")
        box = tip.bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 390
        assert box["y"] >= 0
        assert box["y"] + box["height"] <= 900
    assert "seed" in tip.inner_text()


@pytest.mark.parametrize("opened", [390], indirect=True)
def test_a_wide_table_scrolls_inside_its_box(opened):
    page, _ = opened
    inner, outer = page.evaluate("(b => [b.scrollWidth, b.clientWidth])(document.querySelector('#cells .scroll'))")
    assert inner > outer
    assert outer <= 390
