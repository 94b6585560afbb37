"""What the explorer's page draws of the flow through depth, in a real browser."""

import re

import numpy as np
import pytest

from limelm.explorer.page import data_of, page
from tests.explorer.sample import sample
from tests.explorer.test_effects_in_browser import effects_of, with_cuts


def shares_of(data, number, t=None):
    """Each source's share of what a place reads at a token, or its mean over tokens."""
    weights = np.abs(data_of(page(data))["models"][0]["places"][number - 1]["weights"].astype(float)[..., 0])
    shares = (weights / weights.sum(-1, keepdims=True)).mean(1)
    return shares.mean(0) if t is None else shares[t]


def width_of(tab, place, source):
    """The width of an arc."""
    arc = tab.locator(f"#flow-arcs path[data-place='{place}'][data-source='{source}']")
    return float(arc.get_attribute("stroke-width"))


def test_arcs_and_table_have_shares_and_effects_of_the_same_scope(show):
    data = with_cuts((5, None, 2, 9.0))
    tab = show(data, "#token=7&flow=100")
    assert tab.inner_text("#flow-title") == "Flow through depth in the whole sentence"
    assert "shares are means over its tokens" in tab.inner_text("#flow-lead")
    assert width_of(tab, 5, 2) == pytest.approx(0.7 + 8 * shares_of(data, 5)[2], abs=0.01)
    row = tab.locator("#flow-table tr", has_text="layer 5 reads layer 1").inner_text()
    share, wrong = 100 * shares_of(data, 5)[2], 100 * shares_of(data, 5, 7)[2]
    assert abs(share - wrong) > 1
    assert float(re.search(r"([\d.]+)%", row)[1]) == pytest.approx(share, abs=0.51)
    assert tab.inner_text("#flow-table caption").startswith("Routes that matter most in the whole sentence")
    tab.keyboard.press("t")
    tab.wait_for_selector("#flow-table caption:text('where this token reads')")
    assert tab.inner_text("#flow-title") == "Flow through depth at the selected token"
    assert "What each layer reads at ·kept: " in tab.inner_text("#flow-lead")
    assert "an effect is the part that arises where ·kept reads" in tab.inner_text("#flow-lead")
    assert width_of(tab, 5, 2) == pytest.approx(0.7 + 8 * shares_of(data, 5, 7)[2], abs=0.01)
    assert "●" not in tab.inner_text("#flow-table")
    title, share, effect = tab.locator("#flow-table tbody tr").first.inner_text().split("\t")
    number, source = (int(text) for text in re.search(r"layer (\d+) reads layer (\d+)", title).groups())
    assert float(share.rstrip("%")) == pytest.approx(100 * shares_of(data, number, 7)[source + 1], abs=0.51)
    own = effects_of(data, number)[1][7, :, source + 1].sum()
    assert float(effect.replace("−", "-")) == pytest.approx(own, rel=0.01, abs=1e-4)


def test_measured_effects_stand_in_the_sentence_only(show):
    cells = [(place, None, source, 0.1) for place in (1, 2) for source in range(place + 1)]
    tab = show(with_cuts(*cells, layers=3), "#token=7&flow=100")
    assert tab.inner_text("#flow-table tbody").count("●") == 5
    arc = tab.locator("#flow-arcs path").first
    arc.dispatch_event("pointermove")
    assert "effect, measured\n+0.1 nats" in tab.inner_text("#tooltip")
    tab.keyboard.press("t")
    tab.wait_for_selector("#flow-table caption:text('where this token reads')")
    assert "●" not in tab.inner_text("#flow-table")
    tab.locator("#flow-arcs path").first.dispatch_event("pointermove")
    assert "estimated" in tab.inner_text("#tooltip") and "measured" not in tab.inner_text("#tooltip")


def test_at_the_last_token_there_are_shares_only(show):
    data = sample()
    tab = show(data, "#token=23&scope=token&flow=100")
    assert "Shares only: nothing follows this token" in tab.inner_text("#flow-lead")
    assert tab.locator("#flow-table th").all_inner_texts() == ["route", "share"]
    assert width_of(tab, 5, 2) == pytest.approx(0.7 + 8 * shares_of(data, 5, 23)[2], abs=0.01)
    tab.keyboard.press("ArrowLeft")
    tab.wait_for_selector("#flow-table th:nth-child(3)")
    assert "Shares only" not in tab.inner_text("#flow-lead")


def test_the_lead_says_where_an_arc_ends(show):
    lead = show(sample()).inner_text("#flow-lead")
    assert "An arc begins at a source and ends at what the layer hands on." in lead
    assert "the share of what is read" in lead


def arcs_of(tab, place):
    """Where the arcs to a place begin and end, by their source."""
    paths = tab.locator(f"#flow-arcs path[data-place='{place}']")
    numbers = {}
    for path in paths.all():
        points = [float(text) for text in re.findall(r"[\d.]+", path.get_attribute("d"))]
        numbers[int(path.get_attribute("data-source"))] = (points[1], points[-1])
    return numbers


def node_heights(tab):
    labels = tab.locator("#flow-arcs text").all()
    return {int(label.get_attribute("data-node")): float(label.get_attribute("y")) - 4 for label in labels}


@pytest.mark.parametrize(("own_source", "end"), [("input", 6), ("made", 5)])
def test_arcs_end_at_what_the_layer_makes(show, own_source, end):
    data = sample()
    data["models"][0]["ownSource"] = own_source
    tab = show(data, "#flow=100")
    nodes = node_heights(tab)
    assert arcs_of(tab, 5) == {source: (nodes[source], nodes[end]) for source in range(6)}
    assert len(nodes) == {"input": 9, "made": 8}[own_source]


def test_a_layer_s_own_values_are_a_loop_at_its_node(show):
    data = sample()
    data["models"][0]["ownSource"] = "made"
    tab = show(data, "#flow=100")
    box = tab.locator("#flow-arcs path[data-place='5'][data-source='5']").evaluate("path => path.getBBox().height")
    assert box > 5


@pytest.mark.parametrize(("scheme", "color"), [("light", "black"), ("dark", "white")])
def test_the_flow_says_which_arc_is_chosen(show, scheme, color):
    assert f"The chosen route is {color}." in show(sample(), color_scheme=scheme).inner_text("#flow-lead")
