"""The explorer's page in a real browser, served by a program that answers."""

import pytest

from tests.explorer.conftest import settled
from tests.explorer.stub_server import served


@pytest.fixture(scope="module")
def server():
    with served() as (address, asked):
        yield address, asked


def test_another_sentence_is_read(visit, server):
    address, asked = server
    tab = visit(address)
    tab.fill("#text", "Another <b>sentence</b>")
    tab.press("#text", "Enter")
    tab.wait_for_selector("#status[hidden]", state="attached")
    assert "text=Another+%3Cb%3Esentence" in settled(tab)
    question = {"text": "Another <b>sentence</b>", "changes": []}
    assert asked[-1] == ("/explore", "application/json", question)


def test_routes_are_cut_and_restored(visit, server):
    address, asked = server
    tab = visit(address + "#route=3-1&row=keys.1&pinned=1&token=4")
    tab.click("#cut")
    tab.wait_for_selector("#cut-list li")
    assert asked[-1][2]["changes"] == [{"place": 3, "row": 1, "source": 1}]
    assert "(+0.25)" in tab.inner_text("#cuts-loss")
    assert tab.locator("#predictions th").all_inner_texts() == ["token", "untouched", "cut"]
    assert tab.inner_text("#cut") == "Restore this route"
    tab.click("#rows button[data-value=all]")
    tab.keyboard.press("s")
    tab.keyboard.press("c")
    tab.wait_for_selector("#cut-list li:nth-child(2)")
    assert asked[-1][2]["changes"][1] == {"place": 3, "row": None, "source": 2}
    again = visit(settled(tab))
    again.wait_for_selector("#cut-list li:nth-child(2)")
    assert again.inner_text("#cuts") == tab.inner_text("#cuts")
    again.select_option("#minus", "untouched")
    again.wait_for_selector("#difference-note:not([hidden])")
    assert again.inner_text("#difference-note").startswith("Shown: static minus the untouched model,")
    tab.click("#cut-list li:first-child button")
    tab.wait_for_selector("#cut-list li:nth-child(2)", state="detached")
    tab.click("#restore")
    tab.wait_for_selector("#cuts", state="hidden")
    assert tab.locator("#predictions th").count() == 2


def test_an_error_is_a_line_and_leaves_what_was_shown(visit, server):
    tab = visit(server[0])
    tab.fill("#text", "fail")
    tab.click("#read")
    tab.wait_for_selector("#error:not([hidden])")
    assert tab.inner_text("#error") == "the text is too long <b>by far</b>"
    assert tab.locator("#token-2").is_visible()
    assert not tab.locator("#status").is_visible()
    tab.fill("#text", "fine")
    tab.click("#read")
    tab.wait_for_selector("#error", state="hidden")


def test_the_page_says_that_it_waits_and_shows_what_was_asked_last(visit, server):
    tab = visit(server[0])
    tab.fill("#text", "slow")
    tab.press("#text", "Enter")
    tab.wait_for_selector("#status:not([hidden])")
    assert tab.inner_text("#status") == "Reading the sentence …"
    assert tab.locator("#cut").is_disabled()
    tab.fill("#text", "two\nlines")
    tab.press("#text", "Enter")
    tab.wait_for_selector("#status", state="hidden")
    tab.wait_for_timeout(1100)
    assert "text=two%0Alines" in tab.url
    assert not tab.locator("#error").is_visible()
    assert tab.locator("#cut").is_enabled()


def test_a_server_that_is_gone_is_said(visit):
    with served() as (address, _):
        tab = visit(address)
    tab.click("#cut")
    tab.wait_for_selector("#error:not([hidden])")
    assert "still running" in tab.inner_text("#error")
