import csv
import json
from dataclasses import replace

import pytest

from limelm.cli import main
from limelm.cli.reproduce import _costs
from limelm.errors import UserError
from limelm.evaluation.seeds import in_all_seeds
from limelm.recipes.files import override
from limelm.report.run import write_run
from limelm.report.sections.results import results
from limelm.training import read_summary, reproduce, train_model
from limelm.training.router_statistics import measure_retrieval
from tests.recipes import prepared, small_recipe, write_recipe

pytestmark = pytest.mark.usefixtures("figures_stay_undrawn")

EVERY_STEP = ("eval_steps = 3", "eval_steps = 1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    data = prepared(folder / "tokens")
    recipe = small_recipe(folder, EVERY_STEP, ('"dynamic"]', '"dynamic"]\nseeds = 3'))
    trained = reproduce(recipe, folder / "run", ["llama", "dynamic"], data)
    return recipe, folder, trained


def metrics(folder, seed, model):
    lines = (folder / f"seed-{seed}" / model / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def places(folder):
    """Seed and name of every training that the summary tells of, in its order."""
    return [(entry["seed"], entry["name"]) for entry in read_summary(folder)["trainings"]]


def test_every_seed_is_a_training_of_its_own(run):
    _, folder, trained = run
    assert trained == [f"seed-{seed}/{name}" for seed in (1, 2, 3) for name in ("llama", "dynamic")]
    assert places(folder / "run") == [(seed, name) for seed in (1, 2, 3) for name in ("llama", "dynamic")]
    assert read_summary(folder / "run")["seeds"] == [1, 2, 3]
    losses = {metrics(folder / "run", seed, "llama")[-1]["eval_loss"] for seed in (1, 2, 3)}
    assert len(losses) == 3
    first = {metrics(folder / "run", seed, name)[0]["loss"] for seed in (1, 2, 3) for name in ("llama", "dynamic")}
    assert len(first) == 6  # other models, other seeds


def test_what_is_done_is_kept_and_seeds_can_be_added(copied):
    recipe, out, data = copied
    assert reproduce(recipe, out, ["llama", "dynamic"], data) == []
    assert reproduce(replace(recipe, seeds=4), out, ["llama"], data) == ["seed-4/llama"]
    assert places(out)[-2:] == [(3, "dynamic"), (4, "llama")]


def test_fewer_seeds_lose_nothing(copied):
    """Started with other seeds and another model, a run still tells of every result in its folder."""
    recipe, out, data = copied
    before = (out / "summary.json").stat().st_mtime_ns
    assert reproduce(replace(recipe, seeds=1), out, ["llama"], data) == []
    assert (out / "summary.json").stat().st_mtime_ns == before
    assert reproduce(replace(recipe, seeds=2), out, ["static"], data) == ["seed-1/static", "seed-2/static"]
    assert places(out) == [
        (seed, name) for seed in (1, 2, 3) for name in ("llama", "dynamic", "static") if (seed, name) != (3, "static")
    ]
    assert in_all_seeds(read_summary(out)) == ["LLaMA", "LIMe dynamic"]


def test_another_first_seed_is_refused_by_name(copied):
    recipe, out, data = copied
    with pytest.raises(UserError, match=r"holds a run with recipe\.training\.seed=1, not 2; name a new folder"):
        reproduce(recipe.with_training(seed=2), out, ["llama"], data)


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_seed_gives_the_same_as_among_several(run, tmp_path, seeds):
    recipe, folder, _ = run
    alone = replace(recipe.with_training(seed=2), seeds=seeds)
    reproduce(alone, tmp_path / "run", ["dynamic"], folder / "tokens")
    ours, theirs = (metrics(path, 2, "dynamic") for path in (folder / "run", tmp_path / "run"))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]


def test_one_training_alone_gives_the_same(run, tmp_path):
    recipe, folder, _ = run
    train_model(recipe.with_training(seed=3), "llama", folder / "tokens", tmp_path / "llama")
    ours = [(folder / "run" / "seed-3" / "llama" / name).read_bytes() for name in ("model.safetensors", "config.json")]
    assert ours == [(tmp_path / "llama" / name).read_bytes() for name in ("model.safetensors", "config.json")]


def test_a_single_training_has_no_number_of_seeds(run):
    recipe, _, _ = run
    assert override(recipe, {"seeds": "2"}).seeds == 2
    with pytest.raises(UserError, match="one training has one seed; name it with --seed"):
        override(recipe, {"seeds": "2"}, "llama")


def test_the_last_seeds_of_all_can_be_trained(tmp_path):
    recipe = replace(small_recipe(tmp_path, ("seed = 1", f"seed = {2**32 - 2}")), seeds=2)
    seeds = (2**32 - 2, 2**32 - 1)
    trained = reproduce(recipe, tmp_path / "run", ["llama"], prepared(tmp_path / "tokens"))
    assert trained == [f"seed-{seed}/llama" for seed in seeds] and read_summary(tmp_path / "run")["seeds"] == [*seeds]


def test_retrieval_is_measured_on_the_first_seed(run, tmp_path):
    recipe, folder, _ = run
    held_out = recipe.open_data(folder / "tokens")[2]
    summary = read_summary(folder / "run")
    several = measure_retrieval(summary, held_out)
    alone = {**summary, "seeds": [1], "trainings": [row for row in summary["trainings"] if row["seed"] == 1]}
    other = {**summary, "seeds": [2], "trainings": [row for row in summary["trainings"] if row["seed"] == 2]}
    assert several == measure_retrieval(alone, held_out) != measure_retrieval(other, held_out)
    assert {row["model"] for rows in several.values() for row in rows} == {"LIMe dynamic"}


def test_costs_are_measured_on_the_device_of_the_trainings_and_not_of_large_models(run, monkeypatch, capsys):
    recipe, folder, _ = run
    summary, tokenizer = read_summary(folder / "run"), recipe.open_data(folder / "tokens")[0]
    costs = _costs(recipe, summary, tokenizer)
    assert [(row["model"], row["precision"]) for row in costs] == [("LLaMA", "fp32"), ("LIMe dynamic", "fp32")]
    device = summary["trainings"][-1]["environment"]["device"]
    summary["trainings"][-1]["environment"]["device"] = "another one"
    assert _costs(recipe, summary, tokenizer) == [] and "trained on another device" in capsys.readouterr().err
    summary["trainings"][-1]["environment"]["device"] = device
    monkeypatch.setattr("limelm.cli.reproduce.MOST_MEASURED", 1000)
    assert _costs(recipe, summary, tokenizer) == [] and "too large" in capsys.readouterr().err


def test_the_report_compares_seed_by_seed(run, tmp_path):
    _, folder, _ = run
    summary = read_summary(folder / "run")
    text = write_run(tmp_path, summary, {}).read_text()
    assert "3 seeds" in text and "not corrected" in text and "verdict" in text
    (first, at_end) = results(summary)
    finals = [
        [metrics(folder / "run", seed, name)[-1]["eval_loss"] for seed in (1, 2, 3)] for name in ("llama", "dynamic")
    ]
    assert (first["model"], at_end["model"]) == ("LLaMA", "LIMe dynamic") and first["difference"] is None
    assert at_end["eval_loss"] == pytest.approx(sum(finals[1]) / 3)
    assert at_end["difference"] == pytest.approx(sum(b - a for a, b in zip(*finals, strict=True)) / 3)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        *("results", "differences", "equal_budgets", "sooner", "loss_over_seeds"),
        *("efficiency", "paper_scale", "router_entropy", "equal_time", "training_course", "movement"),
    }
    with (tmp_path / "figures" / "differences.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert {row["baseline"] for row in rows} == {"LLaMA"} and {row["model"] for row in rows} == {"LIMe dynamic"}
    assert [row["seed"] for row in rows] == ["1", "2", "3"] * 2
    at_tokens = [float(row["difference"]) for row in rows if row["axis"] == "tokens"]
    assert at_tokens == pytest.approx([b - a for a, b in zip(*finals, strict=True)])


def test_from_the_command_line(run, capsys):
    _, folder, _ = run
    recipe = str(write_recipe(folder, EVERY_STEP))
    arguments = ["reproduce", recipe, "--data", str(folder / "tokens"), "--out", str(folder / "run")]
    assert main([*arguments, "--seeds", "2", "--models", "llama,dynamic"]) == 0
    out = capsys.readouterr().out
    assert "LIMe dynamic" in out and "verdict" in out and f"Report: {folder / 'run' / 'report.html'}" in out
    with pytest.raises(SystemExit):
        main([*arguments, "--seeds", "0"])
    assert "--seeds: 0 must be at least 1" in capsys.readouterr().err
