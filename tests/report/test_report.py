import csv
import json
import math
import re

import pytest

from limelm.data.dataset import TokenDataset
from limelm.report.captions import columns
from limelm.report.figures.training import router_entropy as entropy_figure
from limelm.report.run import write_run
from limelm.report.sections.costs import efficiency, paper_scale
from limelm.report.sections.results import loss_curves, results, router_entropy
from limelm.training import read_summary, reproduce
from limelm.training.jsonl import append_line
from limelm.training.router_statistics import measure_retrieval
from tests.recipes import prepared, small_recipe
from tests.report.synthetic import run as synthetic_run

FIGURES = {
    "loss_against_flops",
    "router_entropy",
    "mean_retrieval",
    "self_retrieval",
    "self_retrieval_by_layer",
    "expected_source",
    "layer_mass",
    "layer_mass_absolute",
    "layer_mass_same_head",
    "weights-lime-static",
    "weights-lime-dynamic",
    "weights-kv",
}
TABLES = {"results", "efficiency", "paper_scale"}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    reproduce(small_recipe(folder), folder / "run", models=["all"], data=prepared(folder / "tokens"))
    summary = read_summary(folder / "run")
    held_out = TokenDataset(folder / "tokens", "validation", 32)
    write_run(folder / "run", summary, measure_retrieval(summary, held_out))
    return folder / "run", summary


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_figure_stands_as_png_and_csv(run):
    folder, _ = run
    files = {path.name for path in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")} | {
        f"{name}.csv" for name in TABLES
    }
    for name in FIGURES:
        assert (folder / "figures" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    rows = read_csv(folder / "figures" / "weights-kv.csv")
    by_head = {}
    for row in rows:
        by_head[row["layer"], row["head"]] = by_head.get((row["layer"], row["head"]), 0) + float(row["weight"])
    assert len(by_head) == 2 * 2
    assert list(by_head.values()) == pytest.approx([1.0] * 4, abs=1e-5)


def test_the_page_is_one_self_contained_file(run):
    folder, summary = run
    page = (folder / "report.html").read_text()
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|figures/)""", page)
    assert set(re.findall(r'href="figures/([^"]+)"', page)) == {path.name for path in (folder / "figures").iterdir()}
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES)
    for entry in summary["trainings"]:
        assert entry["label"] in page and f"{entry['eval_loss']:.3f}" in page
    for words in ("One seed", "Small scale", "1,176,770,784", "+0.075 %", "+0.754 %"):
        assert words in page


def test_curves_hold_flops_and_both_losses(run):
    folder, summary = run
    rows = loss_curves(summary)
    first = summary["trainings"][0]
    metrics = [json.loads(line) for line in (folder / "seed-1/llama/metrics.jsonl").read_text().splitlines()]
    own = [row for row in rows if row["model"] == first["label"]]
    assert [row["loss"] for row in own] == [line["loss"] for line in metrics if "loss" in line]
    assert own[-1]["train_flops"] == pytest.approx(3 * first["flops_per_token_forward"] * first["train_tokens"])
    assert own[-1]["eval_loss"] == first["eval_loss"]
    assert [row["smoothed_loss"] for row in own] == [row["loss"] for row in own]  # four steps are not smoothed


def test_tables_compare_with_llama(run):
    _, summary = run
    rows, trainings = results(summary), summary["trainings"]
    assert rows[0]["difference"] is None
    assert rows[1]["difference"] == pytest.approx(trainings[1]["eval_loss"] - trainings[0]["eval_loss"])
    costs = efficiency(summary)
    assert costs[2]["parameters_ratio"] == costs[2]["parameters"] / costs[0]["parameters"]
    without_llama = {**summary, "trainings": trainings[1:]}
    for name, tables in (
        ("results", [rows, results(without_llama)]),
        ("efficiency", [costs, efficiency(without_llama)]),
    ):
        shown = [column.show(row[column.key]) for table in tables for row in table for column in columns(name)]
        assert all(isinstance(text, str) for text in shown) and any(shown)


def test_a_model_that_takes_no_step_has_no_speed_to_compare(tmp_path):
    summary = synthetic_run(tmp_path, ["LLaMA", "untrained", "LIMe static"])
    summary |= {"base": "a model"}
    summary["trainings"][1]["tokens_per_second"] = 0
    rows = efficiency(summary)
    assert [row["tokens_per_second"] for row in rows] == [8.0, None, 8.0]
    ratios = [row["tokens_per_second_ratio"] for row in rows]
    assert (ratios[0], ratios[2]) == (1, 1) and math.isnan(ratios[1])


def test_the_paper_scale_table_is_exact():
    rows = paper_scale()
    assert {row["model"]: row["parameters"] for row in rows} == {
        "LLaMA": 1_176_735_744,
        "Hyper-Connections": 1_177_064_256,
        "LIMe static": 1_176_770_784,
        "LIMe dynamic": 1_185_613_824,
        "LIMe KV": 1_176_873_984,
    }


def test_entropy_over_training_comes_from_the_routers_log(run, tmp_path):
    _, summary = run
    model = {**summary["trainings"][2], "checkpoint": str(tmp_path / "model")}
    assert router_entropy({"seeds": [1], "trainings": [model]}) == []
    (tmp_path / "model").mkdir()
    for step in (1, 2):
        others = {"self_weight": 0.5, "pruned": 0, "weights": 4}
        layers = [{"layer": r, "entropy": r / step, "normalized_entropy": 0.5 / step, **others} for r in (1, 2)]
        totals = {"pruned": 0, "weights": 8, "padded_weights": 8, "pruned_share": 0.0, "padded_pruned_share": 0.0}
        append_line(tmp_path / "model" / "routers.jsonl", {"step": step, "layers": layers, **totals})
    records = router_entropy({"seeds": [1], "trainings": [summary["trainings"][0], model]})
    of_model = [row for row in records if row["model"] == model["label"]]
    assert [(row["step"], row["layer"], row["entropy"]) for row in of_model] == [
        (1, 1, 1.0),
        (1, 2, 2.0),
        (2, 1, 0.5),
        (2, 2, 1.0),
    ]
    [axes, bar] = entropy_figure(of_model).axes
    assert [list(line.get_ydata()) for line in axes.lines] == [[0.5, 0.25]] * 2
    assert bar.get_ylabel() == "layer r"


def test_curves_know_evaluations_in_the_line_of_their_step(tmp_path):
    lines = [{"step": step, "tokens": 8 * step, "seconds": 0.5 * step, "loss": 3.0} for step in (1, 2)]
    lines[1]["eval_loss"] = 2.5
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"seed": 1, "label": "m", "checkpoint": str(tmp_path), "flops_per_token_forward": 1}
    assert [row["eval_loss"] for row in loss_curves({"seeds": [1], "trainings": [entry]})] == [None, 2.5]


def test_a_run_without_routing_has_a_report_too(run, tmp_path):
    folder, summary = run
    llama = {**summary, "trainings": summary["trainings"][:1]}
    held_out = TokenDataset(folder.parent / "tokens", "validation", 32)
    page = write_run(tmp_path, llama, measure_retrieval(llama, held_out)).read_text()
    assert "Figure 2" not in page and "LLaMA" in page
