"""The report in a real browser."""

import re
import shutil
from urllib.parse import parse_qs

import pytest

from limelm.report import write_analysis
from tests.report.synthetic import Study

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(BROWSERS)}")

WIDTHS = (1280, 420)
ROUTES = "#browser tbody tr:not(.details)"
MODELS = {"LLaMA": None, "LIMe static": "static", "LIMe dynamic": "dynamic", "dynamic, a longer name": "dynamic"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    out = tmp_path_factory.mktemp("browser")
    analysis = Study(MODELS, layers=8).analysis()
    shown = ("weights", "layer_mass", "circuits", "separability", "tsne", "logit_lens")  # a figure of every kind
    records = {name: analysis["records"][name] for name in shown}
    return write_analysis(out, {**analysis, "records": records}).as_uri()


@pytest.fixture(scope="module")
def chromium():
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def page(chromium, address):
    """The report, open; afterwards nothing must have gone wrong or been fetched."""
    opened = chromium.new_page(viewport={"width": WIDTHS[0], "height": 900})
    problems, requests = [], []
    opened.on(
        "console", lambda message: problems.append(message.text) if message.type in ("error", "warning") else None
    )
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("request", lambda request: requests.append(request.url))
    opened.goto(address)
    yield opened
    opened.close()
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in requests), requests


def shown(page):
    return page.locator(ROUTES)


def search(page, text: str) -> None:
    """Type a token, and wait for the page to have taken it: a browser passes input on when it likes."""
    page.get_by_label("Token", exact=False).first.fill(text)
    page.wait_for_function("text => new URLSearchParams(location.hash.slice(1)).get('search') === text", arg=text)


def shows(page, routes: int) -> None:
    """Wait until the page says that it shows so many routes."""
    playwright.expect(page.locator("#routes-found")).to_have_text(re.compile(rf"^\s*{routes:,} "))


def total(page) -> int:
    return int(page.locator("#routes-found").inner_text().split()[0].replace(",", ""))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways_and_shows_every_figure(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")


def test_at_small_width_a_route_is_read_without_scrolling_sideways(page):
    page.set_viewport_size({"width": WIDTHS[1], "height": 900})
    button = page.locator(f"{ROUTES} button.open").first
    button.click()
    assert button.get_attribute("aria-expanded") == "true"
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[1]
    frame = page.locator("#browser .scroll")
    assert frame.evaluate("frame => frame.scrollWidth - frame.clientWidth") == 0


def test_a_token_is_searched(page):
    everything = total(page)
    assert everything == 2 * 4 * sum(range(2, 9)) and shown(page).count() == 25
    search(page, "Paris")
    found = total(page)
    assert 0 < found < everything
    rows = shown(page)
    assert all("Paris" in text or "found in its examples" in text for text in rows.all_inner_texts())
    assert page.locator("#browser mark").first.inner_text() == "Paris"
    search(page, "no such token")
    assert total(page) == 0 and "clear a filter" in page.locator("#routes-found").inner_text()
    page.get_by_role("button", name="Clear").click()
    shows(page, everything)


def test_a_whole_token_is_searched(page):
    search(page, "i")
    parts = total(page)
    page.locator("[name=whole]").check()
    shows(page, 0)
    assert parts > 0
    search(page, "IS")  # in any case, and with a space before it
    assert set(page.locator("#browser mark").all_inner_texts()) == {"␣is"}


def test_routes_are_sorted_and_filtered(page):
    page.locator("th[data-key=coherence] button").click()
    column = page.locator("#browser thead th").all_inner_texts().index("coherence")

    def coherences():
        return [float(text) for text in page.locator(f"{ROUTES} td:nth-child({column + 1})").all_inner_texts()]

    sorted_by = playwright.expect(page.locator("th[data-key=coherence]"))
    sorted_by.to_have_attribute("aria-sort", "descending")
    assert coherences() == sorted(coherences(), reverse=True)
    page.locator("th[data-key=coherence] button").click()
    sorted_by.to_have_attribute("aria-sort", "ascending")
    assert coherences() == sorted(coherences())
    page.locator("[name=layer]").select_option("3")
    page.locator("[name=model]").select_option("LIMe dynamic")
    shows(page, 4 * 4)
    page.locator("[name=others]").check()
    shows(page, 4 * 3)


def test_a_route_opens_to_its_examples_and_its_control(page):
    details = page.locator("#browser tbody tr.details").first
    assert not details.is_visible()
    button = page.locator(f"{ROUTES} button.open").first
    button.focus()
    page.keyboard.press("Enter")
    playwright.expect(details).to_be_visible()
    assert button.get_attribute("aria-expanded") == "true"
    text = details.inner_text()
    assert "A random route's" in text and "Where it is open widest" in text and "people, even late at night" in text


def test_pages_turn(page):
    first = shown(page).first.inner_text()
    page.get_by_role("button", name="Next").click()
    playwright.expect(page.locator("#routes-page")).to_contain_text("page 2 of")
    assert shown(page).first.inner_text() != first
    page.get_by_role("button", name="Previous").click()
    playwright.expect(page.locator("#routes-page")).to_contain_text("page 1 of")
    assert shown(page).first.inner_text() == first


def test_a_view_can_be_linked(page):
    search(page, " is")
    page.locator("[name=layer]").select_option("5")
    page.locator("th[data-key=percentile] button").click()
    page.wait_for_function("location.hash.includes('sort=')")
    fragment = parse_qs(page.evaluate("location.hash.slice(1)"))
    assert fragment == {"search": [" is"], "layer": ["5"], "sort": ["percentile"]}
    before = (total(page), shown(page).all_inner_texts())
    page.reload()
    assert (total(page), shown(page).all_inner_texts()) == before
    assert page.locator("[name=layer]").input_value() == "5"
    assert page.locator("th[data-key=percentile]").get_attribute("aria-sort") == "descending"


def test_without_scripts_the_most_used_routes_are_there(chromium, address):
    context = chromium.new_context(java_script_enabled=False)
    plain = context.new_page()
    plain.goto(address)
    assert plain.locator("#first-routes tbody tr").count() == 2 * 10
    assert not plain.locator("#browser").is_visible()
    context.close()
