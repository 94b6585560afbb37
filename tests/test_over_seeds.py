"""runs/over_seeds.py: the scores of several seeds' models in one table."""

import csv
import json
import statistics

import pytest

from limelm.evaluation.statistics import t_interval
from limelm.report.writer import write_csv
from tests.scripts import load_script

script = load_script("runs/over_seeds.py")

MODELS = [
    {"label": "LLaMA", "model_type": "llama", "routing": None},
    {"label": "LIMe static", "model_type": "lime", "routing": "static"},
]


def evaluation(llama, static):
    """What `limelm eval` writes of two models that have these losses and accuracies."""
    values = {"LLaMA": llama, "LIMe static": static}
    of_class = {"domain": "wiki", "number": 0, "tokens_are": "1"}
    return {
        "models": MODELS,
        "scores": [
            {"task": "copa", "shots": 0, "metric": "acc", "model": model, "accuracy": value / 10}
            for model, value in values.items()
        ],
        "answers": [],
        "perplexity": [{"domain": "wiki", "model": model, "loss": value} for model, value in values.items()],
        "by_context": [{**of_class, "model": model, "loss": value} for model, value in values.items()],
        "by_share": [],
    }


@pytest.fixture
def tables(tmp_path):
    """The tables of three seeds, by name."""
    folders = []
    for seed, losses in enumerate([(5.0, 4.0), (5.2, 4.1), (5.1, 4.2)]):
        folders.append(tmp_path / f"seed-{seed}")
        folders[-1].mkdir()
        (folders[-1] / "evaluation.json").write_text(json.dumps(evaluation(*losses)))
    script.write(folders, tmp_path / "out")
    return {path.stem: list(csv.DictReader(path.open())) for path in (tmp_path / "out").glob("*.csv")}


def test_differences_are_taken_seed_by_seed(tables):
    llama, static = tables["perplexity"]
    assert float(llama["loss"]) == pytest.approx(5.1) and not llama["difference"]
    assert float(static["difference"]) == pytest.approx(-1.0)
    assert float(static["t_low"]) == pytest.approx(t_interval([-1.0, -1.1, -0.9]).low)
    assert float(static["standard_deviation"]) == pytest.approx(statistics.stdev([4.0, 4.1, 4.2]))
    assert (static["seeds"], static["verdict"]) == ("3", "lower by 1.000 nats")


def test_a_lower_accuracy_is_worse(tables):
    assert tables["accuracy"][1]["verdict"] == "worse by 10.0 points"


def test_classes_of_tokens_have_a_figure_and_empty_tables_no_file(tables, tmp_path):
    assert tables.keys() == {"accuracy", "perplexity", "loss_by_context"}
    assert (tmp_path / "out" / "loss_by_context.png").exists()


def test_folders_with_other_models_are_refused(tmp_path):
    for seed, written in enumerate([evaluation(5.0, 4.0), evaluation(5.0, 4.0)]):
        if seed:
            written["scores"].reverse()
        (tmp_path / str(seed)).mkdir()
        (tmp_path / str(seed) / "evaluation.json").write_text(json.dumps(written))
    with pytest.raises(SystemExit, match="accuracy: the folders have other models"):
        script.write([tmp_path / "0", tmp_path / "1"], tmp_path / "out")


def analysis(folder, entropy, weight):
    """What `limelm analyze` writes of two models of six layers, one of which routes."""
    (folder / "figures").mkdir(parents=True)
    (folder / "analysis.json").write_text(json.dumps({"models": MODELS}))
    layers = range(6)
    tables = {
        "entropy-values": [
            {"model": model["label"], "states": "values", "layer": layer, "entropy": entropy[place] + layer}
            for place, model in enumerate(MODELS)
            for layer in layers
        ],
        "gradients": [
            {"model": model["label"], "layer": layer, "gradient_norm": 0.1 * (place + 1)}
            for place, model in enumerate(MODELS)
            for layer in layers
        ],
        "self_retrieval_by_layer": [
            {"model": "LIMe static", "layer": layer, "weight": weight / (layer + 1), "uniform": 1 / (layer + 1)}
            for layer in layers[1:]
        ],
    }
    tables["mean_retrieval"] = [
        {"model": "LIMe static", "source": source, "mean_weight": 0.5 - 0.1 * source, "uniform": 0.2}
        for source in range(3)
    ]
    for name, rows in tables.items():
        write_csv(folder / "figures" / f"{name}.csv", rows)
    return folder


@pytest.fixture
def inside(tmp_path):
    """The tables over three seeds of what analyses found."""
    seeds = [((3.0, 3.5), 0.8), ((3.1, 3.5), 0.7), ((2.9, 3.3), 0.9)]
    folders = [analysis(tmp_path / str(seed), *numbers) for seed, numbers in enumerate(seeds)]
    script.write(folders, tmp_path / "out")
    assert {path.stem for path in (tmp_path / "out").glob("*.png")} == {"entropy-values", "gradients"}
    return {path.stem: list(csv.DictReader(path.open())) for path in (tmp_path / "out").glob("*.csv")}


def test_what_is_inside_is_compared_layer_by_layer(inside):
    assert inside.keys() == {"entropy", "gradients", "by_third"}
    (row,) = (row for row in inside["entropy"] if (row["model"], row["layer"]) == ("LIMe static", "2"))
    assert float(row["entropy"]) == pytest.approx(statistics.mean([5.5, 5.5, 5.3]))
    interval = t_interval([0.5, 0.4, 0.4])
    assert [float(row[key]) for key in ("difference", "t_low", "t_high")] == pytest.approx(
        [interval.mean, interval.low, interval.high]
    )
    assert "verdict" not in row  # more or less entropy is neither better nor worse


def test_means_over_thirds_of_the_layers(inside):
    rows = {(row["measure"], row["of"], row["layers"], row["model"]): row for row in inside["by_third"]}
    assert float(rows["entropy", "values", "last third", "LLaMA"]["mean"]) == pytest.approx(3.0 + 4.5)
    assert float(rows["entropy", "values", "all", "LIMe static"]["difference"]) == pytest.approx(1.3 / 3)
    routed = rows["self_retrieval", "", "middle third", "LIMe static"]  # layers 2 and 3
    assert float(routed["mean"]) == pytest.approx(0.8 * (1 / 3 + 1 / 4) / 2)
    assert float(routed["difference"]) == pytest.approx(-0.2 * (1 / 3 + 1 / 4) / 2)
    assert float(rows["mean_retrieval", "", "first third", "LIMe static"]["difference"]) == pytest.approx(0.3)
    part = "self_retrieval, as a part of no preference", "LIMe static", "each third"
    assert float(rows[*part, "last third"]["mean"]) == pytest.approx(0.8)  # of what all sources alike would give
    assert float(rows[*part, "last third"]["difference"]) == pytest.approx(0)
    assert not rows[*part, "middle third"]["difference"]
