"""The page in the frame in which a notebook shows it."""

from limelm.explorer import Exploration
from tests.explorer.sample import sample


def test_a_notebook_shows_a_page_that_works(browser, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text(f"<!doctype html><body>{Exploration(sample())._repr_html_()}</body>", encoding="utf-8")
    tab, problems = browser.new_page(viewport={"width": 1000, "height": 950}), []
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(path.as_uri())
    frame = tab.frame_locator("iframe")
    frame.locator("#token-3").click()
    frame.locator("#tokens").press("ArrowRight")
    frame.locator("#token-title", has_text="Token 4").wait_for()
    tab.wait_for_timeout(400)  # until the address would be written
    tab.close()
    assert not problems
