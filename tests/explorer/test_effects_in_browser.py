"""What the explorer's page says of effects in a real browser: measured before estimated, and how far to trust them."""

import re
from itertools import pairwise

import numpy as np
import pytest

from limelm.explorer.page import block, data_of, page
from tests.explorer.conftest import DRAWN_TEXT, after, labels_of, point_at, saved_routes, settled
from tests.explorer.sample import sample

ROWS = ["keys.0", "keys.1", "values.0", "values.1"]


def with_cuts(*cuts, error=None, **options):
    """Sample data of which the routes (place, row, source, loss) were measured."""
    data = sample(**options)
    measured = [
        {"place": place, "row": row, "source": source, "estimate": 0.5, "loss": loss, "kl": 0.25}
        for place, row, source, loss in cuts
    ]
    data["models"][0] |= {"measured": measured, "effectError": error}
    return data


def dot_color(tab, grid, column, row):
    """The color where a cell's dot stands, and that of its opposite corner."""
    script = """([grid, column, row]) => {
        const canvas = document.querySelector(grid);
        const at = Object.fromEntries(Object.entries(canvas.dataset).map(([name, value]) => [name, Number(value)]));
        const size = Math.min(Math.max(at.width / 8, 1.6), 3);
        const copy = Object.assign(document.createElement("canvas"), { width: canvas.width, height: canvas.height });
        const context = copy.getContext("2d", { willReadFrequently: true });
        context.drawImage(canvas, 0, 0);
        const color = (x, y) => [...context.getImageData(Math.round(x), Math.round(y), 1, 1).data];
        const [left, top] = [at.gutter + column * at.width, at.head + row * at.height];
        return [color(left + at.width - size - 3, top + size + 2), color(left + 4, top + at.height - 5)];
    }"""
    return tab.evaluate(script, [grid, column, row])


def has_dot(tab, column, row, grid="#effect-map"):
    dot, other = dot_color(tab, grid, column, row)
    return dot != other


def effects_of(data, number):
    place = data_of(page(data))["models"][0]["places"][number - 1]
    return place["effects"].astype(float), place["effectsByToken"].astype(float)


def test_a_measured_effect_stands_in_for_the_estimate_of_just_that_cell(show, tmp_path):
    data = with_cuts((5, None, 2, 9.0), (3, 1, 1, -7.0), (3, 2, 0, 4.0))
    tab = show(data)
    routes = saved_routes(tab, tmp_path)
    assert (float(routes[5, 2]["effect"]), routes[5, 2]["effectIs"]) == (9.0, "measured")
    of_head = routes[3, 1]
    assert of_head["effectIs"] == "estimated"
    assert float(of_head["effect"]) == pytest.approx(effects_of(data, 3)[0][:, 1].sum(), rel=1e-4)
    tab.click("#rows button[data-value='keys.1']")
    routes = saved_routes(tab, tmp_path)
    assert (float(routes[3, 1]["effect"]), routes[3, 1]["effectIs"]) == (-7.0, "measured")
    assert routes[5, 2]["effectIs"] == routes[3, 0]["effectIs"] == "estimated"


def test_measured_effects_rank_color_and_choose(show):
    tab = show(with_cuts((5, None, 2, 9.0), (3, None, 1, -7.0)))
    assert tab.inner_text("#route-title") == "Route: layer 5 reads layer 1"
    assert "rank by size of the effect\n1st of 6" in tab.inner_text("#route-panel")
    assert "from −9 to 9" in tab.locator("#effect-map").get_attribute("aria-label")
    first, second = tab.locator("#flow-table tbody tr").all_inner_texts()[:2]
    assert first.startswith("layer 5 reads layer 1") and first.endswith("● +9")
    assert second.startswith("layer 3 reads layer 0") and second.endswith("● −7")
    assert "●" not in tab.locator("#flow-table tbody tr").all_inner_texts()[2]


def test_the_rank_of_a_head_counts_what_was_measured(show):
    tab = show(with_cuts((5, 1, 2, 9.0), (5, 3, 4, 10.0)), "#row=keys.1&route=5-2")
    assert "rank by size of the effect\n2nd of 24" in tab.inner_text("#route-panel")


def test_dots_stand_where_just_that_cell_was_measured(show):
    tab = show(with_cuts((5, None, 2, 0.2), (3, 1, 1, 0.2)))
    assert has_dot(tab, 2, 4)
    assert not has_dot(tab, 1, 2) and not has_dot(tab, 3, 4)
    assert not has_dot(tab, 2, 4, "#router-map")
    assert "1 of these 35 cells were really cut (dots)" in tab.inner_text("#trust")
    tab.click("#rows button[data-value='keys.1']")
    tab.wait_for_timeout(100)
    assert has_dot(tab, 1, 2) and not has_dot(tab, 2, 4)
    tab.click("#scope button >> nth=1")
    tab.wait_for_timeout(100)
    assert not has_dot(tab, 1, 2)


def test_hover_and_panel_name_both_effects(show):
    data = with_cuts((5, None, 2, 9.0))
    tab = show(data)
    text = point_at(tab, "#effect-map", 2, 4)
    estimate = effects_of(data, 5)[0][:, 2].sum()
    for shown in (text, tab.inner_text("#route-facts")):
        assert after(r"effect, estimated \(sum of heads\)", shown) == pytest.approx(estimate, rel=0.02, abs=1e-4)
        assert "effect, measured\n+9 nats (KL 0.25)" in shown
    assert "measured" not in point_at(tab, "#effect-map", 1, 4)


def test_the_heads_of_a_route_have_both_effects_in_the_sentence_and_estimates_at_a_token(show):
    tab = show(with_cuts((5, 1, 2, 9.0)), "#route=5-2&pinned=1")
    tab.click("#row-details summary")
    assert tab.locator("#row-table th").all_inner_texts() == ["head", "weight", "estimated", "measured"]
    measured = tab.locator("#row-table tbody td:last-child").all_inner_texts()
    assert measured == ["–", "+9", "–", "–"]
    tab.keyboard.press("t")
    tab.wait_for_selector("#row-table th:nth-child(4)", state="detached")
    assert tab.locator("#row-table th").all_inner_texts() == ["head", "weight", "estimated"]


@pytest.mark.parametrize(("off", "is_warned"), [(0.06, True), (0.04, False)])
def test_the_error_of_estimates_stands_beside_the_size_of_what_was_measured(show, off, is_warned):
    error = {"routes": 3, "meanAbsolute": off, "correlation": -0.25}
    tab = show(with_cuts((5, None, 2, 0.2), (3, 1, 1, -0.05), (4, 0, 1, 0.05), error=error))
    text = tab.inner_text("#trust")
    assert f"Over 1 cell and 2 single heads that were really cut, estimates are off by {off} nats on average" in text
    worst = "at most 0.55 (layer 3 reads layer 0, keys, head 1: estimated +0.5, measured −0.05)"
    assert worst in text
    assert "measured effects have a mean size of 0.1 nats; correlation −0.25" in text
    assert ("do not trust undotted cells" in text) == is_warned


def test_nobody_is_warned_of_undotted_cells_where_there_are_none(show):
    error = {"routes": 3, "meanAbsolute": 9, "correlation": 0}
    cells = [(place, None, source, 0.1) for place in (1, 2) for source in range(place + 1)]
    tab = show(with_cuts(*cells, error=error, layers=3))
    text = tab.inner_text("#trust")
    assert text.startswith("All 5 cells were really cut (dots). Over 5 cells that were really cut,")
    assert "do not trust" not in text
    tab.click("#rows button[data-value='keys.1']")
    tab.wait_for_selector("#trust:text('do not trust undotted cells')")


def test_a_place_with_one_head_has_cells_and_no_single_heads(show):
    error = {"routes": 1, "meanAbsolute": 0.4, "correlation": None}
    text = show(with_cuts((5, 0, 2, 0.1), error=error, sets=("",), heads=1)).inner_text("#trust")
    assert "Over 1 cell that were really cut" in text and "layer 5 reads layer 1: estimated" in text


def test_a_difference_is_of_two_measured_effects_or_of_two_estimates(show, tmp_path):
    data = with_cuts((5, None, 2, 9.0), (3, None, 1, 8.0), models=2)
    other = {"place": 5, "row": None, "source": 2, "estimate": 0, "loss": 2.0, "kl": 0.1}
    data["models"][1] |= {"measured": [other], "effectError": None}
    tab = show(data, "#minus=1")
    routes = saved_routes(tab, tmp_path)
    assert (float(routes[5, 2]["effect"]), routes[5, 2]["effectIs"]) == (7.0, "measured")
    assert routes[3, 1]["effectIs"] == "estimated" and abs(float(routes[3, 1]["effect"])) < 5
    assert "effect, measured, difference\n+7 nats" in point_at(tab, "#effect-map", 2, 4)


def test_the_part_of_one_token_is_named_so_and_measured_effects_beside_it_too(show, tmp_path):
    data = with_cuts((5, None, 2, 9.0))
    tab = show(data, "#scope=token&token=7")
    caption = tab.inner_text("#effect-caption")
    assert "the part of the sentence's effect that arises where ·kept reads; it may show at later tokens" in caption
    tops = [tab.locator(grid).bounding_box()["y"] for grid in ("#router-map", "#effect-map")]
    assert tops[0] == tops[1], "the maps stand side by side, however long their captions are"
    text = point_at(tab, "#effect-map", 2, 4)
    assert "effect, measured\n+9 nats (KL 0.25) (whole sentence)" in text
    assert "nats (whole sentence)" not in re.search(r"effect, estimated.*\n(.*)", text)[1]
    assert float(saved_routes(tab, tmp_path)[5, 2]["effect"]) == pytest.approx(effects_of(data, 5)[1][7, :, 2].sum())
    assert "only those of the whole sentence are measured" in tab.inner_text("#trust")


@pytest.mark.parametrize(("scale", "unit"), [(1, "in nats"), (1e-3, "in 10⁻³ nats"), (1e-6, "in 10⁻⁶ nats")])
def test_the_caption_says_the_unit_of_the_cells(show, scale, unit):
    data = with_cuts()
    for place in data["models"][0]["places"]:
        effects = np.full(place["effects"]["shape"], scale, np.float32)
        place["effects"] = block(effects)
    assert f"loss {unit}, all heads together" in show(data).inner_text("#effect-caption")


def test_the_lead_says_what_weight_and_effect_are_and_what_sources_are(show):
    tab = show(sample())
    text = tab.inner_text("#maps")
    assert "Weight is how much a layer reads of what earlier layers left." in text
    assert "orange, the model gets worse; blue, it gets better" in text
    assert tab.inner_text("#sources-are") == "A source is what a layer left, as it was made up."
    tab.keyboard.press("?")
    assert "as it was made up" in tab.inner_text("#help")


def test_older_pages_lack_what_is_new(show):
    data = sample(effects=False)
    for name in ("effectsMissing", "sourcesAre", "ownSource"):
        del data["models"][0][name]
    tab = show(data)
    assert not tab.locator("#sources-are").is_visible()
    assert tab.inner_text("#trust") == "Effects were not measured for this model."


def test_what_was_pointed_at_last_stays_in_the_panel(show):
    tab = show(sample(), "#route=3-1")
    assert "Click pins" in tab.inner_text("#pin-note")
    point_at(tab, "#router-map", 2, 4)
    tab.mouse.move(5, 5)
    tab.wait_for_selector("#tooltip", state="hidden")
    tab.wait_for_timeout(100)
    assert tab.inner_text("#route-title") == "Route: layer 5 reads layer 1"
    tab.keyboard.press("s")
    tab.wait_for_selector("#route-title:text('layer 5 reads layer 2')")
    assert "route=5-3" in settled(tab)
    tab.keyboard.press("Escape")
    point_at(tab, "#router-map", 0, 1)
    tab.keyboard.press("p")
    assert "route=2-0" in settled(tab) and "pinned=1" in tab.url


def test_losses_are_named_by_their_token(show):
    data = sample()
    loss = data["models"][0]["loss"]
    tab = show(data, "#token=3")
    assert f"loss of this token\n{float(f'{loss[3]:.3g}'):g} nats" in tab.inner_text("#token-facts")
    assert tab.inner_text("#following").startswith("Followed by ·maker, loss of it ")
    assert float(re.search(r"([\d.]+) nats", tab.inner_text("#following"))[1]) == pytest.approx(loss[4], rel=0.01)
    tab.keyboard.press("ArrowRight")
    assert "token=4" in settled(tab)
    for _ in range(30):
        tab.keyboard.press("ArrowRight")
    tab.wait_for_selector("#following:text('it is the last')")


def test_the_first_token_that_is_looked_at_has_one_after_it(show):
    tab = show(sample(count=9))
    assert tab.locator("#token-7").get_attribute("aria-selected") == "true"
    tab = show(sample(count=1))
    assert tab.locator("#token-0").get_attribute("aria-selected") == "true"


@pytest.mark.parametrize("dynamic", [True, False])
def test_the_title_of_the_reading_says_what_is_shown(show, dynamic):
    title = "What one layer reads" if dynamic else "Where one layer's reading matters"
    tab = show(sample(dynamic=dynamic))
    assert tab.inner_text("#reading-title") == f"{title}, token by token"
    lead = tab.inner_text("#reading-lead")
    for words in ("numbers are estimates", "arises where this token reads", "losses of later tokens", "by cutting"):
        assert (words in lead) != dynamic


def test_words_that_a_stranger_asked_for_are_there(show):
    tab = show(sample())
    ranks = tab.inner_text("#route-facts")
    assert "rank by size of the weight" in ranks and "rank by size of the effect" in ranks
    assert "is how far the whole prediction moved, in nats" in tab.locator("#help").text_content()


def test_a_scale_with_room_has_all_its_labels(show):
    tab = show(with_cuts((5, None, 2, 8)), script=DRAWN_TEXT)
    labels = labels_of(tab, "effect-scale", 5)
    assert {label["text"] for label in labels} == {"−8", "−2", "0", "2", "8"}
    assert all(one["right"] + 5 < other["left"] for one, other in pairwise(labels))


def test_a_page_from_the_disk_says_what_cutting_needs(show):
    tab = show(sample())
    assert "limelm explore ... --serve" in tab.inner_text("#route-panel")
    assert not tab.locator("#status").is_visible()
    tab.keyboard.press("c")
    tab.wait_for_selector("#status:text('limelm explore ... --serve')")
    assert tab.evaluate("getComputedStyle(document.querySelector('#status'), '::before').display") == "none"
    assert "limelm explore ... --serve" in tab.locator("#help").text_content()


@pytest.mark.parametrize("width", [1280, 420])
def test_words_of_a_difference_do_not_break_inside(show, width):
    tab = show(sample(2), "#minus=1&route=5-0", width=width)
    tab.click("#row-details summary")
    script = """() => {
        const broken = [];
        const walker = document.createTreeWalker(document.querySelector("#route-panel"), NodeFilter.SHOW_TEXT);
        while (walker.nextNode()) {
            for (const { index, 0: word } of walker.currentNode.data.matchAll(/[a-z]+/gi)) {
                const range = document.createRange();
                range.setStart(walker.currentNode, index);
                range.setEnd(walker.currentNode, index + word.length);
                if (range.getClientRects().length > 1) broken.push(word);
            }
        }
        return broken;
    }"""
    assert tab.evaluate(script) == []


def test_a_text_without_losses_has_no_legend_of_them(show):
    tab = show(sample())
    assert tab.locator("#loss-scale").is_visible()
    tab = show(sample(count=1))
    assert not tab.locator("#loss-scale").is_visible()
