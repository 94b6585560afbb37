"""A browser that opens the explorer's pages."""

import csv
import re
import shutil

import pytest

from limelm.explorer.page import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
REFUSED = re.compile("status of 400|ERR_CONNECTION_REFUSED")  # the browser's own notes of a request that failed

DRAWN_TEXT = """{
    window.drawn = []; // every text that is drawn on a canvas, with its room
    const fillText = CanvasRenderingContext2D.prototype.fillText;
    CanvasRenderingContext2D.prototype.fillText = function (text, x, y, ...rest) {
        const width = this.measureText(text).width;
        const left = x - ({ center: 0.5, right: 1 }[this.textAlign] ?? 0) * width;
        drawn.push({ id: this.canvas.id, text, left, right: left + width, y, room: this.canvas.width });
        fillText.call(this, text, x, y, ...rest);
    };
}"""


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip(f"needs one of {', '.join(BROWSERS)}")
    with playwright.sync_playwright() as engine:
        started = engine.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def visit(browser):
    """Open an address and wait until all is drawn; afterwards nothing may have gone wrong or been fetched elsewhere."""
    problems, requests, opened = [], [], []

    def start(address, width=1280, script=None, **options):
        tab = browser.new_page(viewport={"width": width, "height": 900}, **options)
        tab.on("console", lambda message: problems.append(message.text))
        tab.on("pageerror", lambda error: problems.append(str(error)))
        tab.on("request", lambda request: requests.append(request.url))
        if script:
            tab.add_init_script(script)
        tab.goto(address)
        tab.wait_for_selector("body[data-busy=false]")
        opened.append(tab)
        return tab

    yield start
    for tab in opened:
        tab.close()
    assert not [problem for problem in problems if not REFUSED.search(problem)]
    assert all(url.startswith(("file:", "data:", "blob:", "http://127.0.0.1:")) for url in requests), requests


@pytest.fixture
def show(visit, tmp_path):
    """Write data as a page and open it from the disk."""

    def start(data, address="", **options):
        path = tmp_path / "page.html"
        path.write_text(page(data), encoding="utf-8")
        return visit(path.as_uri() + address, **options)

    return start


def settled(tab):
    """The page's address once it holds what is chosen."""
    tab.wait_for_timeout(300)
    return tab.url


def cell(tab, grid, column, row):
    """The middle of a cell of a canvas, in the canvas's pixels."""
    at = {name: float(value) for name, value in tab.locator(grid).evaluate("canvas => ({...canvas.dataset})").items()}
    return {"x": at["gutter"] + (column + 0.5) * at["width"], "y": at["head"] + (row + 0.5) * at["height"]}


def point_at(tab, grid, column, row):
    """The text of the tooltip over a cell."""
    tab.locator(grid).scroll_into_view_if_needed()
    tab.hover(grid, position=cell(tab, grid, column, row))
    tab.wait_for_selector("#tooltip:not([hidden])")
    return tab.inner_text("#tooltip")


def after(label, text):
    """The number that stands in the line after a label."""
    return float(re.search(rf"^{label}\n\s*\+?([−\d.e-]+)", text, re.MULTILINE)[1].replace("−", "-"))


def labels_of(tab, scale, count):
    """The last labels that were drawn below a scale, on a page that notes the texts it draws."""
    return tab.evaluate("id => drawn.filter((label) => label.id === id && label.y > 10)", scale)[-count:]


def saved_routes(tab, tmp_path):
    """The rows of the CSV, by place and source."""
    with tab.expect_download() as download:
        tab.click("#save-csv")
    download.value.save_as(tmp_path / "routes.csv")
    with (tmp_path / "routes.csv").open(encoding="utf-8", newline="") as stream:
        return {(int(row["place"]), int(row["source"])): row for row in csv.DictReader(stream)}
