"""What the explorer's page saves, in a real browser: JSON, CSV and PNG."""

import csv
import json

import numpy as np
import pytest

from limelm.explorer.page import data_of, page
from tests.explorer.conftest import DRAWN_TEXT
from tests.explorer.sample import sample
from tests.explorer.stub_server import answer, served


def saved_json(tab, tmp_path):
    with tab.expect_download() as download:
        tab.click("#save-json")
    download.value.save_as(tmp_path / "shown.json")
    return json.loads((tmp_path / "shown.json").read_text(encoding="utf-8"))


def test_what_is_shown_can_be_saved(show, tmp_path):
    data = sample()
    places = data_of(page(data))["models"][0]["places"]
    tab = show(data, "#row=keys.1&scope=token&token=4")
    saved = {}
    for kind in ("csv", "json", "png"):
        with tab.expect_download() as download:
            tab.click(f"#save-{kind}")
        saved[kind] = tmp_path / download.value.suggested_filename
        download.value.save_as(saved[kind])
    with saved["csv"].open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [*rows[0]] == ["place", "set", "head", "source", "column", "token", "weight", "effect", "effectIs", "minus"]
    assert len(rows) == sum(range(2, 9))
    row = next(row for row in rows if (row["place"], row["source"]) == ("3", "2"))
    assert (row["set"], row["head"], row["token"]) == ("keys", "1", "4")
    assert float(row["weight"]) == pytest.approx(float(places[2]["weights"][4, 1, 2, 0]))
    assert float(row["effect"]) == pytest.approx(float(places[2]["effectsByToken"][4, 1, 2]))
    assert row["minus"] == ""
    content = json.loads(saved["json"].read_text(encoding="utf-8"))
    np.testing.assert_allclose(content["places"][2]["weights"], places[2]["weights"][4])
    np.testing.assert_allclose(content["places"][2]["estimates"], places[2]["effectsByToken"][4], atol=1e-6)
    assert "effects" not in content["places"][2]
    assert content["untouched"] is content["meanLossChange"] is None
    lens = data_of(page(data))["models"][0]["lens"]
    assert [each["id"] for each in content["lens"]] == lens["ids"][:, 4].tolist()
    assert [each["name"] for each in content["lens"]] == lens["names"]
    chances = [[each["probability"], each["nextProbability"]] for each in content["lens"]]
    np.testing.assert_allclose(chances, np.stack([lens["probabilities"], lens["nextProbabilities"]], -1)[:, 4])
    assert saved["png"].read_bytes().startswith(b"\x89PNG")


def test_a_page_without_a_lens_is_saved_without_one(show, tmp_path):
    data = sample()
    data["models"][0] |= {"lens": None, "lensMissing": "none", "sourceLens": None}
    assert saved_json(show(data), tmp_path)["lens"] is None


def test_a_name_is_no_formula_to_a_spreadsheet(show, tmp_path):
    data = sample(2)
    data["models"][1]["label"] = "=1+1"
    tab = show(data, "#minus=1")
    with tab.expect_download() as download:
        tab.click("#save-csv")
    download.value.save_as(tmp_path / "shown.csv")
    with (tmp_path / "shown.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["minus"] for row in rows} == {"'=1+1"} and any(float(row["weight"]) < 0 for row in rows)


def texts_of_picture(tab):
    """Every text that was drawn on the saved picture, which is on no canvas of the page."""
    tab.evaluate("drawn.length = 0")
    with tab.expect_download():
        tab.click("#save-png")
    return tab.evaluate("drawn.filter(({ id }) => id === '')")


@pytest.mark.parametrize("width", [1280, 420])
def test_a_picture_s_captions_are_not_clipped(show, width):
    text = " ".join(["A long sentence about clocks"] * 20)
    data = sample(columns=2, text=text, layers=4)
    drawn = texts_of_picture(show(data, "#scope=token&token=7", script=DRAWN_TEXT, width=width))
    assert all(line["left"] >= 0 and line["right"] <= line["room"] for line in drawn)
    said = " ".join(line["text"] for line in drawn)
    assert "static · A long sentence about clocks" in said and "…" in said
    assert "it may show at later tokens" in said and "a cell is split by the heads of its source" in said
    end_of_title = next(i for i, line in enumerate(drawn) if "…" in line["text"])
    captions = drawn[end_of_title + 1 :]
    middle = max(line["left"] for line in captions)
    of_weights = [line for line in captions if line["left"] < middle]
    assert len(of_weights) > 1 and all(line["right"] <= middle for line in of_weights)


def test_files_say_what_is_cut_and_what_was_before(visit, tmp_path):
    with served() as (address, _):
        tab = visit(address + "#route=3-1&row=all", script=DRAWN_TEXT)
        tab.click("#cut")
        tab.wait_for_selector("#cut-list li")
        content = saved_json(tab, tmp_path)
        said = " ".join(line["text"] for line in texts_of_picture(tab))
    before = answer("The old clock maker", [])["models"][0]
    assert content["untouched"]["loss"] == before["loss"]
    assert content["untouched"]["predictions"] == before["predictions"]
    assert content["untouched"]["meanLoss"] == pytest.approx(np.mean(before["loss"][1:]))
    assert content["meanLossChange"] == pytest.approx(0.25)
    assert content["meanLoss"] == pytest.approx(content["untouched"]["meanLoss"] + 0.25)
    assert "The old clock maker · Cut: layer 3 reads layer 0 (all heads)" in said
