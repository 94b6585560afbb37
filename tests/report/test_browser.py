"""The report in a real browser."""

import shutil

import pytest

from limelm.report.analysis import write_analysis
from tests.report.synthetic import Study

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"needs one of {', '.join(BROWSERS)}")

WIDTHS = (1280, 420)
MODELS = {"LLaMA": None, "LIMe static": "static", "LIMe dynamic": "dynamic", "dynamic, a longer name": "dynamic"}


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    out = tmp_path_factory.mktemp("browser")
    analysis = Study(MODELS, layers=8).analysis()
    shown = ("weights", "layer_mass", "circuits", "separability", "tsne", "logit_lens")  # a figure of every kind
    records = {name: analysis["records"][name] for name in shown}
    return write_analysis(out, {**analysis, "records": records}).as_uri()


@pytest.fixture
def page(address):
    """The report, open; afterwards nothing must have gone wrong or been fetched."""
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        opened = browser.new_page()
        problems, requests = [], []
        opened.on("console", lambda message: problems.append(message.text))
        opened.on("pageerror", lambda error: problems.append(str(error)))
        opened.on("request", lambda request: requests.append(request.url))
        opened.goto(address)
        yield opened
        browser.close()
    assert problems == []
    assert all(url.startswith(("file:", "data:")) for url in requests), requests


@pytest.mark.parametrize("width", WIDTHS)
def test_the_page_never_scrolls_sideways_and_shows_every_figure(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    examples = page.locator("details").first
    assert not examples.locator("li").first.is_visible()
    examples.locator("summary").click()
    assert examples.locator("li").first.is_visible()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
