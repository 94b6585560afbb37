"""What other people named acts nowhere in a report, and nothing in it says where on this machine it was made."""

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from limelm.report.analysis import write_analysis
from limelm.report.bench import write_bench
from limelm.report.evaluation import markdown_tables, write_evaluation
from limelm.report.overview import write_overview
from limelm.report.run import write_run
from limelm.report.writer import published, write_csv
from limelm.text import has_control_characters
from tests.report.synthetic import Study, asked, run

CONTROL = "\x1b]0;owned\x07 \x00\x9b31m \u202eevil\u2066 \x7f"
HOSTILE = [f"{CONTROL} model", '=HYPERLINK("http://x","y")', "<script>alert(1)</script>", "$x_1$ | [a](b) `c`"]
HERE = "/home/jane/secret/runs"


def run_report(out, labels, name, text):
    records = Study(dict(zip(labels, ("static", "dynamic", "kv", "static"), strict=True)), layers=3).analysis()[
        "records"
    ]
    return write_run(out, run(out / "models", labels, text, folder=HERE), records)


def seeds_report(out, labels, name, text):
    return write_run(out, run(out / "models", labels, text, seeds=(1, 2), folder=HERE), {})


def adaptation_report(out, labels, name, text):
    return write_run(out, run(out / "models", labels, text, seeds=(1, 2), base=text, folder=HERE), {})


def answers_report(out, labels, name, text):
    return write_run(out, run(out / "models", labels, text, seeds=(1, 2), folder=HERE), {}, asked(labels, name))


def overview_report(out, labels, name, text):
    summaries = {key: run(out / place, labels, text, folder=HERE) for place, key in (("a", "first"), ("b", name))}
    return write_overview(out, summaries, {name: asked(labels, name)})


def analysis_report(out, labels, name, text):
    analysis = Study(dict.fromkeys(labels, "dynamic"), layers=3).analysis()
    for model in analysis["models"]:
        model["checkpoint"] = text
    analysis["facts"]["data"] = text
    analysis["notes"] = [{"model": labels[0], "analysis": "tsne", "reason": f"{text}: nothing there"}]
    analysis["cautions"] = [f"Measured on {text}."]
    for route in analysis["records"]["circuits"]:
        route["tokens"][0]["token"] = labels[0]
        route["examples"][0] |= {"before": labels[1], "after": labels[2]}
    return write_analysis(out, analysis)


def evaluation_report(out, labels, name, text):
    numbers = dict.fromkeys(("low", "high", "difference", "difference_low", "difference_high", "verdict"))
    sizes = {"documents": 3, "tokens": 9, "bytes": 30, "window": 8, "stride": 4}
    of_class = {"tokens_are": "1", "number": 0, "tokens": 9, "loss": 2.0, "low": 1.0, "high": 3.0}
    bits = {"bits_per_byte": 1.0, "loss": 2.0, "perplexity": 7.4, **numbers, **sizes}
    return write_evaluation(
        out,
        {
            "models": [{"label": label, "checkpoint": text, "model_type": "lime", "routing": "kv"} for label in labels],
            "facts": {"data": text},
            "notes": [{"task": name, "model": labels[0], "reason": text}],
            "cautions": [f"{text}: few documents"],
            "scores": [],
            "averages": [],
            "answers": [],
            "perplexity": [{"domain": name, "model": label, **bits} for label in labels],
            "by_context": [{"domain": name, "model": label, **of_class} for label in labels],
            "by_share": [{"domain": name, "model": label, **of_class} for label in labels],
        },
    )


def bench_report(out, labels, name, text):
    ratios = {"ratio": 1.1, "ratio_lower_quartile": 1.0, "ratio_upper_quartile": 1.2}
    times = [{"case": label, "task": name, "milliseconds": 1.0, **ratios} for label in labels]
    depths = [{"case": label, "layers": layers, **ratios} for label in labels for layers in (2, 4)]
    write_bench(out, {"baseline": name, "model": text}, {"times": times, "depths": depths})
    return out / "bench.json"


REPORTS = [
    *(run_report, seeds_report, adaptation_report, answers_report, overview_report),
    *(analysis_report, evaluation_report, bench_report),
]


@pytest.mark.parametrize("write", REPORTS)
def test_control_characters_reach_no_file_and_figures_stay_whole(tmp_path, write):
    write(tmp_path, HOSTILE, f"{CONTROL} name", f"{CONTROL} text")
    made = [path for path in tmp_path.rglob("*") if path.suffix in (".html", ".csv", ".json", ".md", ".svg")]
    assert any(path.suffix == ".svg" for path in made)
    for path in made:
        text = path.read_text()
        assert not any(has_control_characters(line) for line in re.split(r"\r?\n", text)), path
        if path.suffix == ".svg":
            ElementTree.fromstring(text)
        if path.suffix == ".json":
            json.loads(text)
        if path.suffix == ".csv":
            with path.open(newline="") as stream:
                cells = [cell for row in csv.reader(stream) for cell in row]
            assert not [cell for cell in cells if re.match(r"[=+@\t\r]|-(?![\d.])", cell)], path
        if path.suffix == ".html":
            assert "<script>alert" not in text and "model" in text


@pytest.mark.parametrize("write", REPORTS)
def test_no_published_file_says_where_on_this_machine_it_was_made(tmp_path, write):
    out = tmp_path / "published"
    write(out, ["LLaMA", "LIMe static", "LIMe KV", "other"], "a name", f"{HERE}/last-name")
    for path in (path for path in out.rglob("*") if path.is_file() and path.name != "metrics.jsonl"):
        content = path.read_bytes()
        for part in (str(tmp_path), HERE, "jane", str(Path.home())):
            assert part.encode() not in content, (path, part)


def test_cells_come_back_from_the_csv(tmp_path):
    rows = [
        {"text": HOSTILE[1], "number": -1.5, "whole": 3, "list": [{"token": CONTROL + "é"}], "none": None},
        {"text": "-0.25", "number": float("nan"), "whole": -3, "list": [], "none": "x"},
        {"text": "  @sum", "number": 1e-30, "whole": 0, "list": ["日本"], "none": "\tx"},
    ]
    write_csv(tmp_path / "t.csv", rows)
    with (tmp_path / "t.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert [row["text"] for row in read] == ["'" + HOSTILE[1], "-0.25", "'  @sum"]
    assert [float(row["number"]) for row in read][::2] == [-1.5, 1e-30]
    assert [int(row["whole"]) for row in read] == [3, -3, 0]
    assert [json.loads(row["list"]) for row in read] == [row["list"] for row in rows]
    assert read[0]["none"] == "" and "日本" in read[2]["list"]


def test_markdown_tables_hold_text_alone():
    row = {"domain": "<b>x</b> | y", "model": "[a](javascript:b)", "verdict": None}
    numbers = dict.fromkeys(("low", "high", "difference", "difference_low", "difference_high"))
    sizes = dict.fromkeys(("documents", "tokens", "bytes", "window", "stride"), 1)
    table = markdown_tables([], [], [{**row, **numbers, **sizes, "bits_per_byte": 1.0, "loss": 1.0, "perplexity": 2.0}])
    (line,) = table.splitlines()[2:]
    assert "<b>" not in line and "[a](" not in line and "&lt;b&gt;x&lt;/b&gt; \\| y" in line
    assert len(re.findall(r"(?<!\\)\|", line)) == len(re.findall(r"\|", table.splitlines()[1]))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("/home/jane/tokens", "tokens"),
        ("/home/jane/my tokens", "my tokens"),
        ("/tokens", "tokens"),
        ("~/runs/tokens", "tokens"),
        (r"C:\Users\jane\tokens", "tokens"),
        ("/home/jane/tokens: broken, see /home/jane/log.txt", "tokens: broken, see log.txt"),
        ("limelm train --data=/a/b/c --out '/x/y'", "limelm train --data=c --out 'y'"),
        ("org/model", "org/model"),
        ("runs/a/b", "runs/a/b"),
        ("https://example.org/a/b", "https://example.org/a/b"),
        ("K/V, and/or 1/2", "K/V, and/or 1/2"),
        ("/", "/"),
    ],
)
def test_paths_are_cut_down_to_their_last_name(text, shown):
    assert published({"a": [text]}) == {"a": [shown]}
