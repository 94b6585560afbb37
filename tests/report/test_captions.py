"""A page speaks of what is in it, says how it was made, and compares only what can be compared."""

import csv
import re
import tomllib
from html import unescape
from pathlib import Path

import pytest

from limelm.analysis.retrieval import ATTACHED_ROUTERS, CONNECTIONS, set_label
from limelm.report.analysis import write_analysis
from limelm.report.captions import TEMPLATES, columns, paragraphs
from limelm.report.figures import heatmaps, routing
from limelm.report.figures.palette import Palette
from limelm.report.overview import RUNS, runs_fingerprint, write_overview
from limelm.report.run import write_run
from limelm.report.sections.answers import ANSWERS
from limelm.report.sections.circuits import CIRCUITS
from limelm.report.sections.costs import COSTS
from limelm.report.sections.depth import DEPTH
from limelm.report.sections.effects import EFFECTS
from limelm.report.sections.fairness import FAIRNESS
from limelm.report.sections.results import ENTROPY, LOSSES
from limelm.report.sections.routing import ROUTING
from limelm.report.sections.scores import SECTIONS
from limelm.report.sections.search import SEARCH
from limelm.report.sections.states import STATES
from limelm.report.writer import is_made_of
from limelm.routing.reader import LAYER_DELTAS, REPRESENTATIONS, SUBLAYER_DELTAS
from tests.report.synthetic import ENVIRONMENT, Study, asked, run

pytestmark = pytest.mark.usefixtures("figures_stay_undrawn")
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
    for row in analysis["records"].get("mean_retrieval", []):
        if row["model"] in attached:
            row["readers"] = ATTACHED_ROUTERS
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


@pytest.mark.parametrize(
    ("sources", "part", "said", "place", "source"),
    [
        (SUBLAYER_DELTAS, "sublayers", {"sublayers"}, "sublayer r", "0: embedding, m: delta of sublayer m - 1"),
        (LAYER_DELTAS, "queries", {"deltas"}, "layer r", "0: embedding, m: delta of layer m - 1"),
        (REPRESENTATIONS, None, set(), "layer r", "representation m"),
    ],
)
def test_captions_say_what_the_rows_of_other_connections_are(tmp_path, sources, part, said, place, source):
    label = "m" if part is None else set_label("m", part)
    analysis = Study({label: "dynamic"}, layers=4).analysis()
    analysis["models"][0] |= {"label": "m", "model_type": "llama", "routing": "dense", "has_routers": False}
    for rows in analysis["records"].values():
        for row in rows:
            row |= {"readers": CONNECTIONS} if "readers" in row else {}
            row |= {"sources_are": sources} if "sources_are" in row else {}
    page = text_of(write_analysis(tmp_path, analysis))
    words = {
        "sublayers": "Of a model marked (sublayers), r is a sublayer",
        "deltas": "m is what layer m - 1 added",
        "connections": "Of other connections over depth",
    }
    assert {each for each, text in words.items() if text in page} == {"connections", *said}
    assert not any(ONLY_WITH[kind] in page for kind in ("attached", "dynamic", "routers"))
    (axes, *_) = heatmaps.weights(analysis["records"]["weights"]).axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == (place, source)
    (axes,) = routing.mean_retrieval(analysis["records"]["mean_retrieval"], Palette([label])).axes
    assert axes.get_xlabel().startswith("representation m" if said == set() else "source m")


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
    made = facts(write_run(tmp_path, run(tmp_path / "models", LABELS, "books"), {}))
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
    made = facts(write_run(tmp_path, {k: v for k, v in summary.items() if k not in ("recipe", "provenance")}, {}))
    assert made.keys() == {"Data", "Models", "Environment"}


def test_an_analysis_says_when_and_by_which_command_it_was_made(tmp_path):
    made = facts(write_analysis(tmp_path, Study({"a": None}, layers=1).analysis()))
    assert made["Command"].keys() >= {"command", "date"} and made["Checkpoints"] == {"a": "runs/a"}
    assert made["Data and environment"]["tokens"] == "32,768"


def test_a_comparison_over_seeds_names_them_all(tmp_path):
    page = write_run(tmp_path, run(tmp_path / "models", LABELS, "books", seeds=(3, 4)), {})
    assert facts(page)["Training"]["seeds"] == "3, 4"


@pytest.mark.parametrize("same", [True, False])
def test_speed_and_memory_are_compared_within_one_environment_alone(tmp_path, same):
    summary = run(tmp_path / "models", LABELS, "books")
    summary["trainings"][1]["environment"] = {**ENVIRONMENT, "threads": 1 if same else 2}
    page = write_run(tmp_path, summary, {})
    with (tmp_path / "figures" / "efficiency.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    for key in ("tokens_per_second_ratio", "peak_memory_bytes_ratio"):
        assert [row[key] for row in rows] == (["1.0", "1.0"] if same else ["nan", "nan"])
    assert [row["parameters_ratio"] for row in rows] == ["1.0", "1.0"]
    assert ("do not compare their speed" in text_of(page)) != same
    assert facts(page)["Environment"]["threads"] == ("1" if same else "1 (LLaMA); 2 (LIMe static)")


def test_without_llama_no_column_compares_with_it(tmp_path):
    summary = run(tmp_path / "models", LABELS, "books")
    page = text_of(write_run(tmp_path, {**summary, "trainings": summary["trainings"][1:]}, {}))
    in_this_run = page.split("Efficiency at the paper")[0]
    assert "1 model, trained" in page and "minus LLaMA" not in in_this_run and "vs LLaMA" not in in_this_run


ALWAYS = {"results", "efficiency"}
SEVERAL = {"loss_over_seeds", "differences"}
FROM_SCRATCH = {"equal_budgets", "sooner", "paper_scale", "equal_time", "training_course"}


@pytest.mark.parametrize(
    ("options", "is_asked", "shown"),
    [
        ({}, False, {"loss_against_flops", "paper_scale"}),
        ({"seeds": (1, 2)}, False, SEVERAL | FROM_SCRATCH),
        ({"base": "a model"}, False, {"loss_against_flops", "against"}),
        ({"base": "a model", "seeds": (1, 2)}, False, SEVERAL | {"against"}),
        ({"seeds": (1, 2)}, True, SEVERAL | FROM_SCRATCH | {"exact_match", "exact_match_summary"}),
    ],
)
def test_sections_appear_when_their_records_do(tmp_path, options, is_asked, shown):
    labels = ["LLaMA", "other", "LIMe static", "LIMe KV"]
    summary = run(tmp_path / "models", labels, steps=6, eval_every=2, **options)
    page = write_run(tmp_path, summary, {}, asked(labels, "sums") if is_asked else None)
    assert set(re.findall('<h2 id="([^"]+)"', page.read_text())) == ALWAYS | shown | {"made"}
    text = text_of(page)
    assert ("± between seeds" in text) == ("seeds" in options) == ("lower in seeds" in text)
    assert ("trained parameters" in text) == ("base" in options) == ("has its own learning rate" in text)
    assert ("One seed." in text) == ("seeds" not in options) and ("Small scale" in text) == ("base" not in options)


def test_models_that_not_all_seeds_have_are_named_and_left_out(tmp_path):
    summary = run(tmp_path / "models", [*LABELS, "LIMe KV"], seeds=(1, 2))
    summary["trainings"].pop()
    page = text_of(write_run(tmp_path, summary, {}))
    assert "Not trained with all seeds, and left out of comparisons: LIMe KV." in page
    assert "2 models, trained from scratch with 2 seeds" in page
    for path in (tmp_path / "figures").glob("*.csv"):
        assert path.stem == "paper_scale" or "LIMe KV" not in path.read_text()
    summary["trainings"] = summary["trainings"][:1] + summary["trainings"][-1:]  # no model has both seeds
    assert "left out of comparisons: LLaMA, LIMe static." in text_of(write_run(tmp_path, summary, {}))


@pytest.mark.parametrize(("steps", "is_young"), [(999, True), (1000, False)])
def test_routing_weights_are_young_below_a_thousand_steps(tmp_path, steps, is_young):
    records = Study({"LIMe static": "static"}, layers=3).retrieval()
    page = text_of(write_run(tmp_path, run(tmp_path / "models", LABELS, steps=steps), records))
    assert ("still carry their initialization" in page) == is_young
    assert "still carry" not in text_of(write_run(tmp_path, run(tmp_path / "others", LABELS), {}))


@pytest.mark.parametrize(
    ("kept", "said"),
    [
        ({"LIMe static": 1, "LIMe KV": 1}, "(1)"),
        ({"LIMe static": 1, "LIMe KV": 2}, "(LIMe static: 1, LIMe KV: 2; over training: 1)"),
        ({}, "(1)"),
    ],
)
def test_it_is_said_which_seed_of_each_model_shows_its_routing(tmp_path, kept, said):
    summary = run(tmp_path / "models", [*LABELS, "LIMe KV"], seeds=(1, 2))
    for entry in summary["trainings"]:
        entry["routing"] = None if entry["label"] == "LLaMA" else {}
        if kept.get(entry["label"]) == entry["seed"]:
            Path(entry["checkpoint"], "model.safetensors").touch()
    page = text_of(write_run(tmp_path, summary, Study({"LIMe static": "static"}, layers=3).retrieval()))
    assert f"What routers retrieve is shown of one seed of each model {said}; other seeds may differ." in page


@pytest.mark.parametrize("name", ["scores", "average"])
def test_differences_are_spoken_of_where_there_are_models_to_compare(name):
    (section,) = (section for section in SECTIONS if section.name == name)
    for models in (["a"], ["a", "b"]):
        words = section.words([{"model": model, "tasks": 2} for model in models])
        assert ("difference is to a" in " ".join(paragraphs(name, "text", words))) == (len(models) > 1)


def test_several_runs_have_a_page_that_leads_to_theirs(tmp_path):
    summaries = {name: run(tmp_path / name, LABELS, seeds=(1, 2)) for name in ("deep-32", "deep-64")}
    page = write_overview(tmp_path, summaries, {"deep-64": asked(LABELS, "deep-64")})
    with (tmp_path / "figures" / "runs.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["run"], row["model"]) for row in rows] == [(name, label) for name in summaries for label in LABELS]
    for name in summaries:
        assert f'<a href="{name}/report.html">{name}</a>' in page.read_text()
    assert "Right answers" in text_of(page) and is_made_of(page, runs_fingerprint(summaries))


def of_depth(out, layers, seeds=(1, 2), **changes):
    """A run's summary with models of so many layers; `changes` are of its training."""
    summary = run(out / str(layers), LABELS, seeds=seeds)
    summary["recipe"]["architecture"]["num_hidden_layers"] = layers
    summary["recipe"]["training"] |= changes
    for place, entry in enumerate(summary["trainings"]):
        entry |= {"eval_loss": 6.0 + 0.01 * layers + 0.1 * place, "learning_rate": layers / 1000}
    return summary


def test_runs_of_several_depths_are_compared_over_depth(tmp_path):
    summaries = {f"deep-{layers}": of_depth(tmp_path, layers) for layers in (64, 32)}
    page = text_of(write_overview(tmp_path, summaries))
    with (tmp_path / "figures" / "loss_over_depth.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    expected = {(depth, seed, label) for depth in ("32", "64") for label in LABELS for seed in ("1", "2")}
    assert {(row["layers"], row["seed"], row["model"]) for row in rows} == expected
    assert [row["layers"] for row in rows] == sorted(row["layers"] for row in rows) and len(rows) == len(expected)
    assert all(float(row["learning_rate"]) == int(row["layers"]) / 1000 for row in rows)
    assert [row["difference"] for row in rows if row["model"] == "LLaMA"] == [""] * 4
    assert {round(float(row["difference"]), 6) for row in rows if row["model"] == LABELS[1]} == {0.1}
    assert "What depth does" in page and "all else is the same" in page and "each has its own recipe" not in page
    assert "The learning rate is the same, too" in page
    for summary in summaries.values():
        summary["search"] = []
    assert "The learning rate is the same, too" not in text_of(write_overview(tmp_path, summaries))


@pytest.mark.parametrize(("layers", "changes"), [(32, {}), (64, {"learning_rate": 1e-2})])
def test_runs_that_differ_in_other_things_are_not_compared_over_depth(tmp_path, layers, changes):
    summaries = {"first": of_depth(tmp_path / "first", 32), "other": of_depth(tmp_path / "other", layers, **changes)}
    page = text_of(write_overview(tmp_path, summaries))
    assert "What depth does" not in page and "each has its own recipe" in page


def test_every_caption_and_every_column_is_used():
    sections = [*ANSWERS, *LOSSES, *COSTS, SEARCH, *FAIRNESS, ENTROPY, *ROUTING, *EFFECTS, CIRCUITS, *STATES]
    sections += [*SECTIONS, RUNS, DEPTH]
    captions = tomllib.loads(TEMPLATES.joinpath("captions.toml").read_text())
    pages, tables = {"run", "overview", "answers", "evaluation"}, {"times", "memory", "pruning"}
    of_sections = {section.caption or section.name for section in sections} | {"weights_of_model"}
    printed = {"printed_results", "printed_answers"}
    assert captions.keys() == of_sections | pages | tables | printed | {"columns", "names"}
    named = {key for entry in captions.values() for key in entry.get("columns", "").split()}
    assert named == captions["columns"].keys()
    assert all(
        columns(name) or section.draw for section in sections if (name := section.caption or section.name) != "weights"
    )
