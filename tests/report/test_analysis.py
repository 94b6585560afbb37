import csv
import json
import re

import numpy as np
import pytest
from matplotlib.image import imread

from limelm.report.analysis import write_analysis
from limelm.report.figures import heatmaps, routing, states
from limelm.report.figures.palette import Palette
from limelm.report.sections.circuits import visible_token
from limelm.report.writer import file_names, save_figure
from tests.report.synthetic import Study

MODELS = {"LLaMA": None, "LIMe static": "static", "LIMe dynamic": "dynamic", "LIMe KV": "kv", "pruned": "static"}
FIGURES = {
    *("mean_retrieval", "self_retrieval", "self_retrieval_by_layer", "expected_source", "retrieval_under_top_p"),
    *("layer_mass", "layer_mass_absolute", "layer_mass_same_head"),
    *("weights-lime-static", "weights-lime-dynamic", "weights-lime-kv", "weights-pruned"),
    *(
        f"{name}-{states}"
        for name in ("entropy", "effective_rank", "separability", "tsne")
        for states in ("values", "hidden-states")
    ),
    *("cosine", "cka", "logit_lens", "gradients"),
    *("cell_effects", "route_effects", "weight_and_effect"),
}
TABLES = {"pruned_weights", "circuits", "effect_estimates", "effects_by_token"}


def study(models=MODELS, only=None, **options):
    """An analysis; of all records, or of some by name."""
    analysis = Study(models, **options).analysis()
    records = {name: rows for name, rows in analysis["records"].items() if only is None or name in only}
    return {**analysis, "records": records}


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("analysis")
    write_analysis(folder, study(top_p=["pruned"]))
    return folder


def read_csv(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_figure_and_table_stands_as_a_file(out):
    files = {path.name for path in (out / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in FIGURES for kind in ("png", "svg", "csv")} | {
        f"{name}.csv" for name in TABLES
    }
    told = json.loads((out / "analysis.json").read_text())
    assert [entry["label"] for entry in told["models"]] == list(MODELS) and told["notes"][0]["model"] == "LLaMA"


def test_the_page_is_one_self_contained_file(out):
    page = (out / "report.html").read_text()
    assert set(re.findall(r'href="figures/([^"]+)"', page)) == {path.name for path in (out / "figures").iterdir()}
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#|figures/)""", page) and "://" not in page.split("<main>")[0]
    assert page.count("data:image/svg+xml;base64,") == len(FIGURES)
    for words in ("Figure 2)", "Figure 3)", "Figure 4)", "Figure 5)", "Figure 6)", "Figure 7)", "Figure 9)"):
        assert words in page
    for words in ("Figure 10)", "Figure 11)", "Figure 12)", "Figure 13)", "Figure 15)", "Table 2)", "Table 5)"):
        assert words in page
    assert "What could not be measured" in page and "it has no routers" in page


def test_records_stand_in_the_csv(out):
    rows = read_csv(out / "figures" / "entropy-values.csv")
    expected = [row for row in study(top_p=["pruned"])["records"]["entropy"] if row["states"] != "hidden states"]
    assert [(row["model"], row["states"], int(row["layer"]), float(row["entropy"])) for row in rows] == [
        (row["model"], row["states"], row["layer"], row["entropy"]) for row in expected
    ]
    routes = read_csv(out / "figures" / "circuits.csv")
    assert len(routes) == 4 * sum(range(2, 9))
    assert json.loads(routes[0]["tokens"])[0].keys() == {"token", "logit", "weight"}


def test_a_second_report_in_the_folder_leaves_nothing_of_the_first(tmp_path):
    write_analysis(tmp_path, study({"a": "static"}, only=["weights", "cosine"], layers=3))
    write_analysis(tmp_path, study({"b": None}, only=["cka"], layers=3))
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {"cka"}


HOSTILE = ["</script><script>alert(1)</script>", "$x_1$ & \"quotes\" 'more'", "_hidden", "日本", ""]


def test_labels_and_tokens_are_shown_as_they_are(tmp_path):
    analysis = study(dict.fromkeys(HOSTILE[:3], "dynamic"), only=["circuits", "weights", "entropy", "tsne"], layers=3)
    for route in analysis["records"]["circuits"]:
        route |= {"is_own": False, "usage": 0.5}
        for entry, token in zip(route["tokens"], HOSTILE, strict=False):
            entry["token"] = token
        route["examples"][0] |= {"token": HOSTILE[0], "before": HOSTILE[1], "after": "\u202e\x07\n"}
    page = write_analysis(tmp_path, analysis).read_text()
    assert "<script" not in page and "script-src 'none'" in page
    assert '<bdi class="token">&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;</bdi>' in page
    assert "<mark>&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt;</mark>\\u{202e}\\u{7}\\n" in page


def test_the_page_shows_the_clearest_routes_and_the_csv_all(tmp_path):
    analysis = study({"a": "dynamic", "b": "dynamic"}, only=["circuits"], layers=8)
    page = write_analysis(tmp_path, analysis).read_text()
    routes = analysis["records"]["circuits"]
    clear = [route for route in routes if route["usage"] >= 0.2 and not route["is_own"]]
    for model in "ab":
        own = [route["matched_percentile"] for route in clear if route["model"] == model]
        rows = re.findall(rf"<tr><td>{model}</td>(?:<td>[^<]*</td>){{6}}<td>(\d+)</td>", page)
        assert rows == [f"{percentile:.0f}" for percentile in sorted(own, reverse=True)[:25]] and len(own) > 25
    assert len(read_csv(tmp_path / "figures" / "circuits.csv")) == len(routes) > 50


def test_names_stand_in_figures_as_they_are():
    labels = ["$x_1$", "_hidden", "a very long name (with/the/path/of/its/folder)"]
    (axes,) = states.cosine(study(dict.fromkeys(labels), layers=2)["records"]["cosine"], Palette(labels)).axes
    names = [text.get_text().lstrip("\u200b") for text in axes.get_legend().get_texts()]
    assert names[:2] == [r"\$x_1\$", "_hidden"] and max(map(len, names[2].split("\n"))) <= 30


def test_nothing_is_cut_off(tmp_path):
    """What is drawn ends before the edges of the image, also where labels are wider than the panel."""
    records = study({"a very long name (with/the/path/of/its/folder)": "kv"}, layers=2)["records"]["layer_mass"]
    save_figure(heatmaps.absolute_mass(records), tmp_path / "figure")
    image = imread(tmp_path / "figure.png")[..., :3]
    for edge in (image[0], image[-1], image[:, 0], image[:, -1]):
        assert (edge == 1).all()


@pytest.mark.parametrize(
    ("models", "options"),
    [
        ({"one": "dynamic"}, {"layers": 3}),
        ({f"model {i}": ("static", "kv", None)[i % 3] for i in range(9)}, {"layers": 3}),
        ({"bounded": "dynamic", "kv": "kv"}, {"layers": 5, "read_first_and_last": 2}),
        ({"single layer": "static"}, {"layers": 1}),
        ({"two": "dynamic"}, {"layers": 2, "heads": 1}),
        ({"words": None}, {"layers": 2, "words": tuple("abcdefghij")}),
    ],
)
def test_every_shape_has_a_report(tmp_path, models, options):
    page = write_analysis(tmp_path, study(models, **options)).read_text()
    assert all(model in page for model in models)


def test_a_model_of_128_layers_is_legible(tmp_path):
    """Each cell of a heatmap has at least two pixels of the PNG."""
    analysis = study({"deep": "static"}, only=["weights", "layer_mass"], layers=128, heads=8)
    figure = heatmaps.weights(analysis["records"]["weights"])
    figure.canvas.draw()
    panels = [axes for axes in figure.axes if axes.images and axes.get_title().startswith("head")]
    assert len(panels) == 8
    for axes in panels:
        assert axes.get_window_extent().width * 160 / figure.dpi / 128 >= 2
    assert figure.get_figwidth() <= 12
    write_analysis(tmp_path, analysis)


def test_numbers_that_are_not_there_are_left_out(tmp_path):
    analysis = study({"kv": "kv"}, only=["layer_mass", "entropy"], layers=4)
    for row in analysis["records"]["layer_mass"]:
        row["same_head_share"] = None if row["layer"] == 2 else 0.5
    for row in analysis["records"]["entropy"]:
        row["standard_error"] = float("nan")  # of a single sequence
    write_analysis(tmp_path, analysis)


def test_heatmaps_show_each_weight_where_it_belongs():
    records = study({"m": "static"}, layers=6, heads=3)["records"]["weights"]
    figure = heatmaps.weights(records)
    for head in range(3):
        axes = next(axes for axes in figure.axes if axes.get_title() == f"head {head}")
        image = axes.images[-1].get_array()
        assert image.shape == (5, 6)
        for row in records:
            if row["head"] == head:
                assert image[row["layer"] - 1, row["source"]] == row["weight"]
        assert np.isnan(np.ma.filled(image, np.nan)[0, 2:]).all()


def test_a_bounded_router_shows_what_it_does_not_read():
    records = study({"m": "static"}, layers=8, heads=1, read_first_and_last=2)["records"]["weights"]
    figure = heatmaps.weights(records)
    axes = next(axes for axes in figure.axes if axes.get_title() == "all heads")
    unread, weights = (np.ma.filled(image.get_array().astype(float), np.nan) for image in axes.images)
    assert np.isnan(weights[6, 3]) and unread[6, 3] == 0 and np.isnan(unread[6, 0]) and np.isnan(unread[0, 5])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["not read"]


def dashed(axes):
    return [line for line in axes.lines if line.get_linestyle() == "--" and len(line.get_xdata())]


def test_models_that_read_the_same_share_the_line_of_no_preference_and_others_have_their_own():
    """Every layer of the bounded model reads the first and the last source, whose mean is that of all of them."""
    every, bounded = (
        Study({"a": "static", "b": "kv"}, layers=6),
        Study({"c": "static"}, layers=6, read_first_and_last=1),
    )
    palette = Palette(["a", "b", "c"])
    alike, others = every.retrieval(), bounded.retrieval()
    for name in ("mean_retrieval", "self_retrieval_by_layer", "expected_source"):
        (axes,) = getattr(routing, name)(alike[name], palette).axes
        (line,) = dashed(axes)
        assert line.get_color() == "#999999" and line.get_label() == "no preference (uniform)"
        assert list(line.get_ydata()) == [row["uniform"] for row in alike[name] if row["model"] == "a"]
        (axes,) = getattr(routing, name)(alike[name] + others[name], palette).axes
        colors = ["#999999"] if name == "expected_source" else [palette[model] for model in "abc"]
        assert [line.get_color() for line in dashed(axes)] == colors
        assert list(dashed(axes)[-1].get_ydata()) == [row["uniform"] for row in others[name]]
    first, _, last = routing.self_retrieval(alike["self_retrieval"] + others["self_retrieval"], palette).axes
    assert list(dashed(first)[0].get_ydata()) == [1 / 2, 1 / 3, 1 / 4, 1 / 5, 1 / 6]
    assert list(dashed(last)[0].get_ydata()) == [1 / 2] * 5


def test_figure_9_shows_both_curves_of_every_model():
    records = study({"a": "static", "b": "static"}, top_p=["a", "b"], layers=4)["records"]["retrieval_under_top_p"]
    figure = routing.retrieval_under_top_p(records)
    assert [axes.get_title() for axes in figure.axes] == ["a", "b"]
    own = [row["self_retrieval"] for row in records if row["model"] == "b" and row["self_retrieval"] is not None]
    assert list(figure.axes[1].lines[1].get_ydata()) == own and len(own) == 3


def test_values_before_routing_are_dashed_in_the_color_of_their_model():
    records = [row for row in study({"m": "kv"})["records"]["entropy"] if row["states"] != "hidden states"]
    (axes,) = states.matrix_entropy(records, Palette(["m"])).axes
    after, before = (line for line in axes.lines if len(line.get_xdata()) == 8)
    assert after.get_color() == before.get_color() and (after.get_linestyle(), before.get_linestyle()) == ("-", "--")


def test_tokens_are_shown_visibly():
    assert visible_token(" is") == "␣is" and visible_token("\n\t") == "\\n\\t" and visible_token("é") == "é"
    assert visible_token("\u200b") == "\\u{200b}"


def test_file_names_are_safe_and_different():
    assert file_names(["LIMe KV", "lime kv", "../x", "日本"]) == {
        "LIMe KV": "lime-kv",
        "lime kv": "lime-kv-2",
        "../x": "x",
        "日本": "model",
    }


def test_many_models_have_a_panel_each():
    labels = [f"model {number}" for number in range(11)]
    records = Study(dict.fromkeys(labels, "static"), layers=4).retrieval()["mean_retrieval"]
    panels = routing.mean_retrieval(records, Palette(labels)).axes
    assert [axes.get_title() for axes in panels] == labels
    for axes, label in zip(panels, labels, strict=True):
        solid, uniform = axes.lines
        own = [row for row in records if row["model"] == label]
        assert list(solid.get_ydata()) == [row["mean_weight"] for row in own]
        assert list(uniform.get_ydata()) == [row["uniform"] for row in own]
