"""The live page in a real browser, with the server and models that people have."""

import pytest

from tests.explorer.conftest import settled
from tests.explorer.served import TEXT, served

pytest.importorskip("uvicorn")
pytest.importorskip("starlette")


@pytest.fixture(scope="module")
def address(tmp_path_factory, browser):
    with served(tmp_path_factory.mktemp("served")) as port:
        yield f"http://127.0.0.1:{port}/"


def predictions(tab):
    return tab.locator("#predictions td").all_inner_texts()


@pytest.mark.parametrize("width", [1280, 420])
def test_a_sentence_is_typed_a_route_is_cut_and_the_prediction_changes(visit, address, width):
    tab = visit(address, width=width)
    tab.fill("#text", "all of them were gone")
    tab.click("#read")
    tab.wait_for_selector("#status[hidden]", state="attached")
    assert "all+of+them+were+gone" in settled(tab) and not tab.locator("#error").is_visible()
    own = predictions(tab)
    tab.keyboard.press("Escape")
    tab.goto(settled(tab) + "&route=3-3&row=all&pinned=1")
    tab.wait_for_selector("body[data-busy=false]")
    tab.click("#cut")
    tab.wait_for_selector("#cut-list li")
    assert tab.locator("#predictions th").all_inner_texts() == ["token", "untouched", "cut"]
    assert predictions(tab) != own
    again = visit(settled(tab), width=width)
    again.wait_for_selector("#cut-list li")
    assert predictions(again) == predictions(tab)
    again.click("#restore")
    again.wait_for_selector("#cuts", state="hidden")
    assert again.evaluate("document.documentElement.scrollWidth") <= width


def test_what_the_server_refuses_is_said(visit, address):
    tab = visit(address)
    tab.fill("#text", "late " * 60)
    tab.click("#read")
    tab.wait_for_selector("#error:not([hidden])")
    assert "reads at most 32" in tab.inner_text("#error")
    assert TEXT.split()[0] in tab.inner_text("#tokens")
