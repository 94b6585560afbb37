"""A page speaks of what is in it, says how it was made, and compares only what can be compared."""

import csv
import re
from html import unescape

import pytest

from limelm.report.analysis import write_analysis
from limelm.report.page import write_report
from limelm.report.seeds import write_seeds
from tests.report.synthetic import Study
from tests.report.test_untrusted import ENVIRONMENT, run

LABELS = ["LLaMA", "LIMe static"]
#: What only reports with such models say.
ONLY_WITH = {
    "kv": "LIMe KV has signed weights",
    "dynamic": "Weights of dynamic routers depend",
    "attached": "An attached router works beside",
    "routers": "What a layer has read from early representations",
}


def analysis_page(tmp_path, models, attached=()):
    analysis = Study(models, layers=4).analysis()
    for entry in analysis["models"]:
        if entry["label"] in attached:
            entry["model_type"] = "gpt2"
    return text_of(write_analysis(tmp_path, analysis))


def text_of(page):
    """What is to be read on a page."""
    body = re.sub(r"<style>.*?</style>|<script.*?</script>", " ", page.read_text(), flags=re.DOTALL)
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", body)))


@pytest.mark.parametrize(
    ("models", "attached", "said"),
    [
        ({"a": None}, (), set()),
        ({"a": "static"}, (), {"routers"}),
        ({"a": "dynamic"}, (), {"dynamic", "routers"}),
        ({"a": "kv", "b": None}, (), {"kv", "routers"}),
        ({"a": "kv", "b": "static"}, ("a",), {"kv", "attached", "routers"}),
    ],
)
def test_captions_explain_what_is_there_and_nothing_else(tmp_path, models, attached, said):
    page = analysis_page(tmp_path, models, attached)
    assert {kind for kind, words in ONLY_WITH.items() if words in page} == said


def test_each_figure_of_the_paper_stands_in_one_title(tmp_path):
    out = write_analysis(tmp_path, Study({"a": "static", "b": "dynamic", "c": "kv"}, layers=4, top_p=["a"]).analysis())
    titles = re.findall(r"<h[23] id=[^>]*>(.*?)</h[23]>", out.read_text())
    figures = [number for title in titles for number in re.findall(r"(?:Figure|Figures|Table) (\d+)", title)]
    named = [
        re.search(r"\((?:Figure|Table)s? .*\)", title)[0] for title in titles if "(Figure" in title or "(Table" in title
    ]
    assert len(figures) >= 14 and len(set(named)) == len(named)
    assert {"a", "b", "c"} <= set(titles)


def facts(page):
    """Names and values at the end of a page, by heading."""
    _, end = page.read_text().split('<h2 id="made">How it was made</h2>')
    parts = re.findall(r"<h3>(.*?)</h3>\s*<dl>(.*?)</dl>", end, re.DOTALL)
    return {heading: dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", unescape(listed))) for heading, listed in parts}


def test_a_report_says_how_it_was_made(tmp_path):
    made = facts(write_report(tmp_path, run(tmp_path / "models", LABELS, "books"), {}))
    assert made["Command"] == {
        "command": "limelm reproduce --data books",
        "date": "2026-11-28T12:00:00+00:00",
        "commit": "abc",
    }
    assert made["Data"]["source"] == "books" and made["Data"]["fingerprint (SHA-256 of the data)"] == "0" * 64
    assert made["Data"]["sequence length, tokens"] == "8" and "folder" not in made["Data"]
    assert made["Models"]["layers"] == "3" and made["Models"]["width (hidden size)"] == "32"
    assert made["Models"]["LIMe static"] == "model type lime, 100 parameters"
    assert made["Training"] == {"steps": "2", "learning rate": "0.001", "tokens per step": "8", "seed": "1"}
    assert made["Environment"] == {key: str(value) for key, value in ENVIRONMENT.items()}


def test_what_a_summary_does_not_say_is_left_out(tmp_path):
    summary = run(tmp_path / "models", LABELS, "books")
    made = facts(write_report(tmp_path, {k: v for k, v in summary.items() if k not in ("recipe", "provenance")}, {}))
    assert made.keys() == {"Data", "Models", "Environment"}


def test_an_analysis_says_when_and_by_which_command_it_was_made(tmp_path):
    made = facts(write_analysis(tmp_path, Study({"a": None}, layers=1).analysis()))
    assert made["Command"].keys() >= {"command", "date"} and made["Checkpoints"] == {"a": "runs/a"}
    assert made["Data and environment"]["tokens"] == "32,768"


def test_a_comparison_over_seeds_names_them_all(tmp_path):
    page, _ = write_seeds(tmp_path, {seed: run(tmp_path / "models", LABELS, "books", seed) for seed in (3, 4)})
    assert facts(page)["Training"]["seeds"] == "3, 4"


@pytest.mark.parametrize("same", [True, False])
def test_speed_and_memory_are_compared_within_one_environment_alone(tmp_path, same):
    summary = run(tmp_path / "models", LABELS, "books")
    summary["models"][1]["environment"] = {**ENVIRONMENT, "threads": 1 if same else 2}
    page = write_report(tmp_path, summary, {})
    with (tmp_path / "figures" / "efficiency.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for key in ("tokens_per_second_ratio", "peak_memory_bytes_ratio"):
        assert [row[key] for row in rows] == (["1.0", "1.0"] if same else ["nan", "nan"])
    assert [row["parameters_ratio"] for row in rows] == ["1.0", "1.0"]
    assert ("do not compare their speed" in text_of(page)) != same
    assert facts(page)["Environment"]["threads"] == ("1" if same else "1 (LLaMA); 2 (LIMe static)")


def test_without_llama_no_column_compares_with_it(tmp_path):
    summary = run(tmp_path / "models", LABELS, "books")
    page = text_of(write_report(tmp_path, {**summary, "models": summary["models"][1:]}, {}))
    in_this_run = page.split("Efficiency at the paper")[0]
    assert "1 model, trained" in page and "minus LLaMA" not in in_this_run and "vs LLaMA" not in in_this_run
