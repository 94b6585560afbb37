"""The explorer's page in a real browser, opened from the disk."""

import math
import re

import numpy as np
import pytest

from limelm.explorer.page import block, data_of, page
from tests.explorer.conftest import after, cell, point_at, settled
from tests.explorer.sample import sample

WIDTHS = (1280, 420)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_a_page_never_scrolls_sideways_and_shows_every_view(show, width, scheme):
    tab = show(sample(3, layers=13), width=width, color_scheme=scheme)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    for view in ("#tokens", "#router-map", "#effect-map", "#reading-grid", "#lens", "#flow", "#route-panel"):
        assert tab.locator(view).is_visible(), view


def test_what_cannot_be_seen_is_marked_and_equal_tokens_have_their_positions(show):
    texts = ["<s>", " the", " the", "\n", "\t", "\u200b", "a b", ""]
    tab = show(sample(count=8, texts=texts, layers=3))
    shown = tab.locator("#tokens [role=option]").all_inner_texts()
    assert [text.replace("\n", "") for text in shown] == ["<s>", "·the1", "·the2", "↵", "→", "U+200B", "a·b", "∅"]
    assert "special" in tab.locator("#token-0").get_attribute("class")


@pytest.mark.parametrize(("scope", "row"), [("sentence", "values.1"), ("token", "values.1"), ("token", "all")])
def test_the_maps_show_the_numbers_that_were_measured(show, scope, row):
    data = sample()
    place = data_of(page(data))["models"][0]["places"][4]  # layer 5
    tab = show(data, f"#token=7&row={row}&scope={scope}")
    chosen = slice(None) if row == "all" else slice(3, 4)
    weights, effects = place["weights"].astype(float), place["effectsByToken"].astype(float)
    weights = weights[7] if scope == "token" else weights.mean(0)
    effects = effects[7] if scope == "token" else place["effects"]
    weight = np.abs(weights[chosen, 2, 0]).mean() if row == "all" else weights[3, 2, 0]
    text = point_at(tab, "#router-map", 2, 4)
    assert text.startswith("layer 5 reads layer 1")
    assert after("weight(?:, mean size)?", text) == pytest.approx(weight, rel=0.01, abs=0.001)
    assert after(r"effect, estimated(?: \(sum of heads\))?", text) == pytest.approx(
        effects[chosen, 2].sum(), rel=0.01, abs=1e-4
    )
    assert point_at(tab, "#effect-map", 2, 4) == text
    assert tab.inner_text("#route-title") == "Route: layer 5 reads layer 1"


def test_a_source_that_is_not_read_has_no_tooltip(show):
    tab = show(sample())
    point_at(tab, "#router-map", 1, 3)
    tab.hover("#router-map", position=cell(tab, "#router-map", 6, 1))
    tab.wait_for_selector("#tooltip", state="hidden")


def test_both_effects_of_a_route_that_was_cut_are_shown(show):
    data = sample()
    route, error = data["models"][0]["measured"][0], data["models"][0]["effectError"]
    tab = show(data, f"#row={['keys.0', 'keys.1', 'values.0', 'values.1'][route['row']]}")
    text = point_at(tab, "#effect-map", route["source"], route["place"] - 1)
    assert after("effect, estimated", text) == pytest.approx(route["estimate"], rel=0.02, abs=1e-4)
    assert after("effect, measured", text) == pytest.approx(route["loss"], rel=0.02, abs=1e-4)
    assert "KL" in text
    assert f"estimates are off by {error['meanAbsolute']} nats" in tab.inner_text("#trust")


def test_what_is_chosen_stands_in_the_address(show):
    tab = show(sample(2))
    tab.click("#token-3")
    tab.click("#models button >> nth=1")
    tab.click("#rows button[data-value='keys.1']")
    tab.click("#scope button >> nth=1")
    tab.click("#router-map", position=cell(tab, "#router-map", 1, 2))
    tab.click("#lens-kind button >> nth=1")
    tab.fill("#flow-share", "50")
    address = settled(tab)
    panel = tab.inner_text("#route-panel")
    assert "Pinned" in panel
    tab.goto("about:blank")
    tab.goto(address)
    tab.wait_for_selector("#token-3[aria-selected=true]")
    assert tab.inner_text("#route-panel") == panel
    assert tab.locator("#lens-kind button >> nth=1").get_attribute("aria-pressed") == "true"
    assert tab.inner_text("#flow-name") == "50%"
    tab.evaluate("location.hash = '#token=5&row=values.0'")
    tab.wait_for_selector("#token-5[aria-selected=true]")
    assert tab.locator("#rows button[data-value='values.0']").get_attribute("aria-pressed") == "true"


@pytest.mark.parametrize("address", ["#model=9&token=99&row=x&route=77-1&minus=5&cuts=a,1-2", "#%E0%A4%A", "#token=-1"])
def test_an_address_that_makes_no_sense_does_no_harm(show, address):
    tab = show(sample(), address)
    assert tab.locator("#router-map").is_visible()


def test_a_click_pins_and_escape_lets_go(show):
    tab = show(sample())
    tab.click("#effect-map", position=cell(tab, "#effect-map", 0, 5))
    point_at(tab, "#router-map", 2, 4)
    assert tab.inner_text("#route-title") == "Route: layer 6 reads embedding"
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#pin-note:not(.pinned)")
    point_at(tab, "#router-map", 2, 4)
    assert tab.inner_text("#route-title") == "Route: layer 5 reads layer 1"


def test_the_keys_do_what_the_help_says(show):
    tab = show(sample(2), "#token=5&route=3-1")
    for key in ("ArrowLeft", "ArrowDown", "s", "]", "t", "m"):
        tab.keyboard.press(key)
    address = settled(tab)
    for part in ("token=4", "route=4-2", "row=keys.0", "scope=token", "model=1", "pinned=1"):
        assert part in address
    tab.keyboard.press("w")
    assert tab.evaluate("document.activeElement.id") == "router-map"
    tab.keyboard.press("?")
    assert tab.locator("#help").is_visible()
    tab.keyboard.press("Escape")
    assert not tab.locator("#help").is_visible()


def test_everything_is_reached_by_tab(show):
    tab = show(sample(2))
    reached = set()
    for _ in range(70):
        tab.keyboard.press("Tab")
        reached.add(tab.evaluate("document.activeElement.id"))
    assert {"minus", "save-csv", "tokens", "router-map", "effect-map", "reading-grid", "lens-grid"} <= reached
    assert {"reading-place", "flow-share", "flow-arcs"} <= reached


def test_a_layer_with_the_same_weights_everywhere_shows_its_effects_by_token(show):
    tab = show(sample(dynamic=False), "#route=4-1&token=0")
    assert "same weights at every token" in tab.inner_text("#reading-lead")
    assert "part of the effect" in point_at(tab, "#reading-grid canvas", 3, 2)


def test_a_layer_that_depends_on_tokens_shows_its_weights(show):
    data = sample()
    place = data_of(page(data))["models"][0]["places"][3]
    tab = show(data, "#route=4-1&row=keys.1&token=0")
    text = point_at(tab, "#reading-grid canvas", 6, 2)
    assert after("weight", text) == pytest.approx(float(place["weights"][6, 1, 2, 0]), rel=0.01, abs=0.001)
    tab.click("#reading-grid canvas", position=cell(tab, "#reading-grid canvas", 6, 2))
    assert "token=6" in settled(tab) and "route=4-2" in tab.url


def test_a_head_that_mixes_heads_has_several_weights_for_a_source(show):
    data = sample(columns=3, sets=("",), dynamic=False)
    weights = data_of(page(data))["models"][0]["places"][2]["weights"]
    tab = show(data, "#row=.1")
    line = re.search(r"weight\n(.*)", point_at(tab, "#router-map", 1, 2))[1]
    shown = [float(text.replace("−", "-")) for text in line.split(", ")]
    assert shown == pytest.approx(weights[1, 1].tolist(), rel=0.01, abs=0.001)


def test_a_model_without_routes_shows_the_rest(show):
    data = sample()
    data["models"][0] |= {"places": [], "measured": [], "effectError": None, "sourceLens": None}
    tab = show(data)
    assert not tab.locator("#maps").is_visible()
    assert tab.locator("#lens-grid").is_visible()
    assert not tab.locator("#lens-tabs").is_visible()
    tab.keyboard.press("ArrowLeft")
    assert "token=21" in settled(tab)


def test_a_missing_lens_and_missing_effects_are_said(show):
    data = sample(effects=False, dynamic=False)
    data["models"][0] |= {"lens": None, "lensMissing": "its head reads two streams", "sourceLens": None}
    tab = show(data)
    assert "its head reads two streams" in tab.inner_text("#lens")
    assert tab.inner_text("#trust") == "The sentence is too long for effects."
    assert tab.inner_text("#reading-lead").endswith("at every token. The sentence is too long for effects.")
    assert not tab.locator("#effect-map").is_visible()


def test_the_lens_tells_what_a_layer_would_say(show):
    data = sample()
    lens = data_of(page(data))["models"][0]["lens"]
    tab = show(data, "#token=0")
    text = point_at(tab, "#lens-grid canvas", 2, 5)
    assert f"(id {lens['ids'][5, 2]})" in text
    assert text.startswith("layer 4 at ·old")
    assert f"{100 * float(lens['nextProbabilities'][5, 2]):.1f}"[:2].rstrip(".") in text


def test_fewer_arcs_are_drawn_when_less_is_asked_for(show):
    tab = show(sample())
    tab.fill("#flow-share", "100")
    tab.wait_for_timeout(100)
    every = tab.locator("#flow-arcs path").count()
    tab.fill("#flow-share", "30")
    tab.wait_for_timeout(100)
    assert 0 < tab.locator("#flow-arcs path").count() < every == sum(range(2, 9))


def test_two_models_are_subtracted(show):
    data = sample(2)
    one, other = (model["places"][1]["weights"] for model in data_of(page(data))["models"])
    tab = show(data, "#row=keys.0&minus=1")
    assert tab.inner_text("#difference-note").startswith("Shown: static minus dynamic, in the maps and the lens.")
    difference = float(one[:, 0, 1].astype(float).mean() - other[:, 0, 1].astype(float).mean())
    assert after("weight, difference", point_at(tab, "#router-map", 1, 1)) == pytest.approx(difference, abs=0.001)


def test_models_that_cannot_be_subtracted_say_why(show):
    data = sample(2)
    fewer = sample(count=9, layers=8)["models"][0]
    tab = show({**data, "models": [data["models"][0], fewer]}, "#minus=1")
    note = tab.inner_text("#difference-note")
    assert "no difference of the lens, as the two models split the sentence into different tokens" in note
    assert "weights" not in note
    tab.click("#scope button >> nth=1")
    tab.wait_for_timeout(100)
    assert "no difference of the weights" in tab.inner_text("#difference-note")


def test_a_slider_chooses_the_training_step(show):
    tab = show(sample(3, kind="steps"))
    assert not tab.locator("#model-tabs").is_visible()
    tab.fill("#step", "2")
    assert "model=2" in settled(tab)
    assert tab.inner_text("#step-name") == "1,600"


def test_text_is_inert(show):
    evil = "</script><img src=x onerror=window.hacked=1>"
    data = sample(2, texts=["<s>", evil, "\u202eright", "\x00", "<b>"], text=evil)
    model = data["models"][0]
    model |= {"label": evil, "description": evil}
    model["places"][2]["name"] = model["sourceNames"][1] = evil
    tab = show(data, "#token=1&minus=1")
    tab.hover("#token-1")
    point_at(tab, "#router-map", 1, 2)
    point_at(tab, "#lens-grid canvas", 1, 2)
    assert tab.evaluate("window.hacked === undefined && document.images.length === 0")
    assert evil in tab.inner_text("#about")


def test_numbers_that_are_not_finite_are_shown_as_unknown(show):
    data = sample()
    model = data["models"][0]
    model["loss"][3] = math.nan
    model["predictions"][5][0]["probability"] = math.nan
    for name in ("weights", "effects", "effectsByToken"):
        numbers = np.full(model["places"][2][name]["shape"], np.nan, np.float32)
        model["places"][2][name] = block(numbers)
    tab = show(data, "#token=5&route=3-1")
    assert "weight, mean size\n–" in point_at(tab, "#router-map", 1, 2)


def test_thousands_of_tokens_are_windowed(show):
    tab = show(sample(count=4096, layers=4, sets=("",)))
    assert tab.evaluate("document.querySelectorAll('*').length") < 1500
    tab.evaluate("document.querySelector('#tokens').scrollTop = 0")
    tab.wait_for_selector("#token-0")
    tab.click("#token-0")
    tab.wait_for_selector("#token-0[aria-selected=true]")
    tab.wait_for_timeout(200)
    assert tab.evaluate("document.querySelector('#lens-grid').scrollLeft") == 0
    tab.keyboard.press("ArrowLeft")
    assert "token=0&" in settled(tab)


def test_numbers_are_decoded_by_older_browsers_too(show):
    data = sample()
    values = data_of(page(data))["models"][0]["places"][3]["weights"][7, 1, 2]
    tab = show(data, "#row=keys.1&scope=token&token=7", script="delete Uint8Array.fromBase64")
    weight = after("weight", point_at(tab, "#router-map", 2, 3))
    assert weight == pytest.approx(float(values[0]), rel=0.01, abs=0.001)


def test_another_model_may_lack_what_is_pointed_at(show):
    data = sample(2)
    data["models"][1]["places"] = data["models"][1]["places"][:3]
    tab = show(data)
    point_at(tab, "#router-map", 2, 6)
    tab.keyboard.press("m")
    assert "model=1" in settled(tab)
    assert tab.inner_text("#route-title").startswith("Route: layer")


def test_a_page_from_the_disk_asks_no_server(show):
    tab = show(sample(), "#text=Other&cuts=3-0-1")
    assert not tab.locator("#text").is_visible()
    assert not tab.locator("#cut").is_visible()
    assert not tab.locator("#error").is_visible()
