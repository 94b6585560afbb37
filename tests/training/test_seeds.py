import json

import pytest

from limelm.cli import main
from limelm.errors import UserError
from limelm.report.seeds import write_seeds
from limelm.training import read_summary, reproduce_seeds, seed_folders
from tests.recipes import prepared, small_recipe, write_recipe

EVERY_STEP = ("eval_steps = 3", "eval_steps = 1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seeds")
    data = prepared(folder / "tokens")
    recipe = small_recipe(folder, EVERY_STEP)
    trained = reproduce_seeds(recipe, folder / "run", 3, ["llama", "dynamic"], data)
    return recipe, folder, trained


def metrics(folder, model):
    return [json.loads(line) for line in (folder / "models" / model / "metrics.jsonl").read_text().splitlines()]


def test_every_seed_is_a_run_of_its_own(run):
    recipe, folder, trained = run
    assert trained == [f"{seed} {name}" for seed in (1, 2, 3) for name in ("llama", "dynamic")]
    folders = seed_folders(recipe, folder / "run", 3)
    assert list(folders) == [1, 2, 3]
    losses = {metrics(path, "llama")[-1]["eval_loss"] for path in folders.values()}
    assert len(losses) == 3
    shared = {metrics(path, name)[0]["loss"] for path in folders.values() for name in ("llama", "dynamic")}
    assert len(shared) == 6  # other models, other seeds


def test_what_is_done_is_kept_and_seeds_can_be_added(run):
    recipe, folder, _ = run
    data = folder / "tokens"
    assert reproduce_seeds(recipe, folder / "run", 3, ["llama", "dynamic"], data) == []
    assert reproduce_seeds(recipe, folder / "run", 4, ["llama"], data) == ["4 llama"]


def test_a_seed_alone_gives_the_same(run, tmp_path):
    recipe, folder, _ = run
    alone = recipe.with_training(seed=2)
    reproduce_seeds(alone, tmp_path / "run", 2, ["dynamic"], folder / "tokens")
    ours, theirs = (metrics(path / "seed-2", "dynamic") for path in (folder / "run", tmp_path / "run"))
    assert [line["loss"] for line in ours] == [line["loss"] for line in theirs]


def test_the_report_compares_seed_by_seed(run, tmp_path):
    recipe, folder, _ = run
    folders = seed_folders(recipe, folder / "run", 3)
    summaries = {seed: read_summary(path) for seed, path in folders.items()}
    page, losses = write_seeds(tmp_path, summaries)
    text = page.read_text()
    assert "3 seeds" in text and "not corrected" in text and "verdict" in text
    (at_end,) = (row for row in losses if row["model"] == "LIMe dynamic" and row["axis"] == "tokens")
    finals = [[metrics(path, name)[-1]["eval_loss"] for path in folders.values()] for name in ("llama", "dynamic")]
    assert at_end["mean"] == pytest.approx(sum(finals[1]) / 3)
    assert at_end["difference"] == pytest.approx(sum(b - a for a, b in zip(*finals, strict=True)) / 3)
    assert {path.stem for path in (tmp_path / "figures").iterdir()} == {
        *("seeds_summary", "seeds_differences", "seeds_curves", "seeds_sooner")
    }
    results = json.loads((tmp_path / "seeds.json").read_text())
    assert results["baseline"] == "LLaMA" and results["seeds"] == [1, 2, 3]


def test_from_the_command_line(run, capsys):
    _, folder, _ = run
    recipe = str(write_recipe(folder, EVERY_STEP))
    arguments = ["reproduce", "--scale", recipe, "--data", str(folder / "tokens"), "--out", str(folder / "run")]
    assert main([*arguments, "--seeds", "2", "--models", "llama,dynamic"]) == 0
    out = capsys.readouterr().out
    assert "LIMe dynamic" in out and "at equal" in out and f"Report: {folder / 'run' / 'report.html'}" in out
    with pytest.raises(SystemExit):
        main([*arguments, "--seeds", "1"])
    assert "--seeds: 1 must be at least 2" in capsys.readouterr().err


def test_a_folder_with_a_run_of_one_seed_is_refused(run):
    recipe, folder, _ = run
    with pytest.raises(UserError, match="seed-1: holds a run of one seed; name a new folder for --seeds 2"):
        reproduce_seeds(recipe, folder / "run" / "seed-1", 2, ["llama"], folder / "tokens")
