"""The explorer's page in a real browser, served by a program that answers."""

import re
from itertools import pairwise

import pytest

from tests.explorer.conftest import DRAWN_TEXT, labels_of, point_at, saved_routes, settled
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
    assert "nats (+0.2500)" in tab.inner_text("#cuts-loss")
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


def cut(tab):
    """Cut the route of the panel and wait for the answer."""
    tab.click("#cut")
    tab.wait_for_selector("#cut-list li")


def test_a_route_that_is_cut_is_said_to_be_cut_everywhere(visit, server, tmp_path):
    tab = visit(server[0] + "#route=3-1&row=all&pinned=1&token=4&flow=100")
    before = saved_routes(tab, tmp_path)[3, 1]
    assert tab.locator("#flow-arcs path[data-place='3']").count() == 4
    cut(tab)
    facts = tab.inner_text("#route-facts")
    assert re.search("^this route\ncut; before: ", facts, re.MULTILINE)
    assert not re.search("^(effect|weight$|rank)", facts, re.MULTILINE)
    assert "this route\ncut; before:" in point_at(tab, "#effect-map", 1, 2) == point_at(tab, "#router-map", 1, 2)
    after_cut = saved_routes(tab, tmp_path)[3, 1]
    assert float(before["weight"]) > 0 and float(before["effect"]) != 0
    assert (float(after_cut["weight"]), after_cut["effect"], after_cut["effectIs"]) == (0, "", "cut")
    sources = tab.locator("#flow-arcs path[data-place='3']").evaluate_all("arcs => arcs.map(arc => arc.dataset.source)")
    assert sorted(sources) == ["0", "2", "3"]
    assert "Routes that are cut are not drawn." in tab.inner_text("#flow-lead")
    assert "1 of these 13 cells were really cut (dots)" in tab.inner_text("#trust")
    assert " of 13 routes" in tab.inner_text("#flow-lead")  # one of the 14 is cut
    assert "Effects are those of further cuts, with these in place." in tab.inner_text("#trust")
    tab.click("#row-details summary")
    assert set(tab.locator("#row-table tbody td:not(:first-child)").all_inner_texts()) == {"cut"}
    tab.keyboard.press("a")
    tab.wait_for_selector("#route-facts :text('of 3')")  # the ranks are among those that are left


def effect_before(facts):
    return re.search(r"cut; before: (.*)", facts)[1]


def test_a_cut_route_keeps_its_numbers(visit, server):
    tab = visit(server[0] + "#route=2-0&row=all&pinned=1&token=4")
    facts = tab.inner_text("#route-facts")
    estimate, loss = (re.search(rf"{name}.*\n(\S+) nats", facts)[1] for name in ("estimated", "measured"))
    weight = re.search(r"weight.*\n(.*)", facts)[1]
    cut(tab)
    facts = tab.inner_text("#route-facts")
    assert effect_before(facts) == f"measured {loss} (estimated {estimate}) nats"
    assert f"weight before\n{weight}" in facts
    assert f"cut; before: measured {loss} (estimated" in point_at(tab, "#effect-map", 0, 1)
    assert re.search(r"Mean loss [\d.]+ nats with the cuts \(", tab.inner_text("#sentence-lead"))
    tab.keyboard.press("t")
    tab.wait_for_selector("#route-facts :text('whole sentence')")
    assert effect_before(tab.inner_text("#route-facts")).startswith(f"measured {loss} (estimated {estimate}) nats,")
    tab.click("#restore")
    tab.wait_for_selector("#cuts", state="hidden")
    assert "with the cuts" not in tab.inner_text("#sentence-lead")


def test_an_estimate_is_kept_where_nothing_was_measured(visit, server):
    tab = visit(server[0] + "#route=3-1&row=all&pinned=1")
    estimate = re.search(r"estimated.*\n(\S+) nats", tab.inner_text("#route-facts"))[1]
    cut(tab)
    assert effect_before(tab.inner_text("#route-facts")) == f"estimated {estimate} nats"


def test_what_is_cut_already_checks_no_estimate(visit, server):
    tab = visit(server[0] + "#route=2-0&row=all&pinned=1")
    assert "Over 1 cell and 4 single heads that were really cut" in tab.inner_text("#trust")
    cut(tab)
    assert re.search(r"Over [34] single heads that were really cut", tab.inner_text("#trust"))
    assert "none of these cells was really cut" in tab.inner_text("#trust")


def test_a_cell_of_which_one_head_is_cut_can_have_a_dot(visit, server):
    tab = visit(server[0] + "#route=2-0&row=keys.1&pinned=1")
    cut(tab)
    tab.click("#rows button[data-value=all]")
    tab.wait_for_selector("#trust:text('1 of these 14 cells were really cut (dots)')")


def test_a_difference_has_no_numbers_of_what_is_cut(visit, server, tmp_path):
    tab = visit(server[0] + "#route=3-1&row=all&pinned=1&token=4")
    assert saved_routes(tab, tmp_path)[3, 1]["minus"] == ""
    cut(tab)
    tab.select_option("#minus", "untouched")
    tab.wait_for_selector("#difference-note:not([hidden])")
    routes = saved_routes(tab, tmp_path)
    row = routes[3, 1]
    assert (row["weight"], row["effect"], row["effectIs"], row["minus"]) == ("", "", "cut", "static, untouched")
    assert float(routes[3, 0]["weight"]) == 0 and routes[3, 0]["minus"] == "static, untouched"
    assert "from −0 to 0" in tab.locator("#router-map").get_attribute("aria-label")  # but for the cut nothing differs
    assert tab.locator("#reading-grid canvas").get_attribute("aria-label").endswith("From 0 to 0.")


@pytest.mark.parametrize("minus", ["", "untouched"])
def test_the_row_of_a_cut_route_is_blank_in_the_reading(visit, server, minus):
    tab = visit(server[0] + "#route=3-1&row=all&pinned=1")
    script = """() => {
        const canvas = document.querySelector("#reading-grid canvas");
        const at = Object.fromEntries(Object.entries(canvas.dataset).map(([name, value]) => [name, Number(value)]));
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const alpha = (row) => context.getImageData(Math.round(at.gutter + at.width * 1.4),
            Math.round(at.head + (row + 0.3) * at.height), 1, 1).data[3];
        return [0, 1, 2].map(alpha);
    }"""
    assert tab.evaluate(script) == [255, 255, 255]
    cut(tab)
    tab.select_option("#minus", minus)
    tab.wait_for_selector("body[data-busy=false]")
    tab.keyboard.press("s")
    tab.wait_for_selector("#route-title:text('reads layer 1')")
    assert tab.evaluate(script) == [255, 0, 255]


def test_labels_of_the_change_of_loss_do_not_touch(visit, server):
    tab = visit(server[0] + "#route=3-1", script=DRAWN_TEXT)
    cut(tab)
    tab.wait_for_selector("body[data-busy=false]")
    labels = labels_of(tab, "loss-scale", 3)
    assert [label["text"] for label in labels] == ["−0.25", "0", "0.25"]
    assert all(one["right"] + 5 < other["left"] for one, other in pairwise(labels))


def test_after_cuts_shares_are_of_what_is_still_read(visit, server):
    tab = visit(server[0] + "#route=3-1")
    assert "the share of what is read" in tab.inner_text("#flow-lead")
    cut(tab)
    assert "the share of what is still read" in tab.inner_text("#flow-lead")


def test_an_address_keeps_what_is_still_asked_for(visit, server):
    tab = visit(server[0])
    tab.goto("about:blank")
    tab.goto(server[0] + "#text=slow&cuts=3-all-1&token=4&row=keys.1&minus=untouched")
    tab.wait_for_timeout(300)
    address = tab.evaluate("location.hash")
    for part in ("text=slow", "cuts=3-all-1", "token=4", "row=keys.1", "minus=untouched"):
        assert part in address
    assert tab.evaluate("document.body.dataset.busy") == "true"
    assert tab.input_value("#text") == "slow"
    tab.reload()
    tab.wait_for_timeout(300)
    tab.keyboard.press("t")
    tab.wait_for_selector("#cut-list li")
    for part in ("text=slow", "cuts=3-all-1", "token=4", "row=keys.1", "minus=untouched", "scope=token"):
        assert part in settled(tab)
    assert tab.evaluate("document.body.dataset.busy") == "false"
    tab.evaluate("location.hash = '#text=slow&token=4&cuts=3-all-2'")
    tab.click("#token-2")
    tab.wait_for_selector("#cut-list li:has-text('layer 1')")
    assert "token=2&" in settled(tab)  # what is chosen while the page reads counts


def test_a_new_text_stands_in_the_address_at_once(visit, server):
    tab = visit(server[0])
    tab.fill("#text", "slow")
    at_once = """() => {
        document.querySelector("#read-form").requestSubmit();
        return [location.hash.includes("text=slow"), document.body.dataset.busy];
    }"""
    assert tab.evaluate(at_once) == [True, "true"]
    tab.wait_for_timeout(500)
    assert tab.evaluate("document.body.dataset.busy") == "true"
    tab.wait_for_selector("body[data-busy=false]")
    assert not tab.locator("#status").is_visible()


def test_a_cut_cell_looks_like_one(visit, server):
    tab = visit(server[0] + "#route=3-1&row=all&pinned=1")
    box = tab.locator("#effect-map").evaluate("({ dataset }) => ({ ...dataset })")
    left = float(box["gutter"]) + float(box["width"])
    top = float(box["head"]) + 2 * float(box["height"])
    near_the_corner = """([x, y]) => ["router-map", "effect-map"].map((id) => {
        const canvas = document.getElementById(id);
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        return [...context.getImageData(Math.round(x), Math.round(y), 1, 1).data].join();
    })"""
    at = [left + 6, top + 6]
    assert "255,255,255,255" not in tab.evaluate(near_the_corner, at)
    cut(tab)
    assert tab.evaluate(near_the_corner, at) == ["255,255,255,255"] * 2


def test_a_head_that_is_cut_is_left_out_of_all_heads_together(visit, server, tmp_path):
    tab = visit(server[0] + "#route=3-1&row=all&pinned=1")
    before = float(saved_routes(tab, tmp_path)[3, 1]["weight"])
    tab.click("#rows button[data-value='keys.1']")
    cut(tab)
    assert "this route\ncut" in tab.inner_text("#route-facts")
    tab.click("#rows button[data-value='keys.0']")
    tab.wait_for_selector("#cut:text('Cut this route')")
    assert "cut" not in tab.inner_text("#route-facts")
    tab.click("#rows button[data-value=all]")
    assert float(saved_routes(tab, tmp_path)[3, 1]["weight"]) < before
    assert "cut heads\nkeys, head 1" in tab.inner_text("#route-facts")


def test_what_was_pointed_at_last_is_cut(visit, server):
    address, asked = server
    tab = visit(address + "#route=2-0&row=all")
    point_at(tab, "#effect-map", 1, 2)
    cut(tab)
    assert asked[-1][2]["changes"] == [{"place": 3, "row": None, "source": 1}]
    assert tab.inner_text("#route-title") == "Route: layer 3 reads layer 0"
    assert "route=3-1" in settled(tab)


def test_the_change_by_cuts_stands_with_its_token(visit, server):
    tab = visit(server[0] + "#route=3-1&token=0")
    cut(tab)
    assert "loss of this token\nnone" in tab.inner_text("#token-facts")
    assert "(+0.25 by the cuts)" in tab.inner_text("#following")
    assert re.match(r"Mean loss \d+\.\d{4} → \d+\.\d{4} nats \(\+0\.2500\)\.", tab.inner_text("#cuts-loss"))


def test_cuts_stay_for_another_sentence(visit, server):
    address, asked = server
    tab = visit(address + "#route=3-1&row=all")
    cut(tab)
    changes = [{"place": 3, "row": None, "source": 1}]
    tab.fill("#text", "Quite another")
    tab.press("#text", "Enter")
    tab.wait_for_selector("body[data-busy=false]")
    assert "text=Quite+another" in settled(tab)
    questions = [{"text": "Quite another", "changes": []}, {"text": "Quite another", "changes": changes}]
    assert [question for _, _, question in asked[-2:]] == questions
    assert tab.locator("#cut-list li").count() == 1
    assert tab.locator("#predictions th").all_inner_texts() == ["token", "untouched", "cut"]
    assert "token=10" in tab.url
    tab.evaluate("location.hash = '#text=A+third&cuts=3-all-1'")
    tab.wait_for_selector("#cut-list li")
    tab.wait_for_selector("body[data-busy=false]")
    assert tab.input_value("#text") == "A third"
    assert [question["text"] for _, _, question in asked[-2:]] == ["A third"] * 2
    assert [question["changes"] for _, _, question in asked[-2:]] == [[], changes]
    assert "(+0.2500)" in tab.inner_text("#cuts-loss")


def test_the_key_that_cuts_says_that_it_waits(visit, server):
    address, asked = server
    tab = visit(address + "#route=3-1&row=all")
    tab.fill("#text", "slow")
    tab.press("#text", "Enter")
    tab.wait_for_selector("#status:not([hidden])")
    tab.locator("#router-map").press("c")
    tab.locator("#router-map").press("c")
    text = "Reading the sentence … Cutting waits until this is done; then press c again."
    assert tab.inner_text("#status") == text
    tab.wait_for_selector("#status", state="hidden")
    assert asked[-1][2] == {"text": "slow", "changes": []}


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
