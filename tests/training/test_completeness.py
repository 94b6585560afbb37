"""What is complete shows from what is there: killed at any moment, moved or copied, a run ends with all its results."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from limelm.cli import main
from limelm.data.dataset import load_prepared_tokenizer
from limelm.training import read_summary
from tests.recipes import prepared, write_recipe
from tests.training.moments import Moments

ONCE = (("steps = 4", "steps = 2"), ("eval_steps = 3", "eval_steps = 2"), ("save_steps = 3", "save_steps = 2"))
PROBLEMS = (
    'preset = "python-library"\nsequence_length = 32\nvocab_size = 300\nvalidation_fraction = 0.2',
    'task = "arithmetic-3"\nworked_steps = true\ntrain_problems = 20\ntest_problems = 4\ntest_file = ""\n'
    "sequence_length = 16",
)
KINDS = ("one seed", "seeds", "adapted", "problems")
NAMES = {"result.json", "summary.json", "report.html", "exact-match.json", "run.json"}


pytestmark = pytest.mark.usefixtures("figures_stay_undrawn")


class Kind:
    """One kind of the main job: a finished run of two models, to which a third is added."""

    def __init__(self, kind: str, folder: Path):
        self.kind, self.folder = kind, folder
        self.label = "K/V scale per head" if kind == "adapted" else "LIMe static"
        self.first, self.added = (["base", "kv"], "scale") if kind == "adapted" else (["llama", "kv"], "static")
        tokens = prepared(folder / "tokens")
        changes = (*ONCE, PROBLEMS) if kind == "problems" else ONCE
        options = [str(write_recipe(folder, *changes))]
        if kind in ("one seed", "seeds"):
            options += ["--data", str(tokens)]
        if kind in ("seeds", "problems"):
            options += ["--seeds", "2"]
        if kind == "adapted":
            short = {"steps": 2, "sequence_length": 32, "eval_steps": 2, "save_steps": 2, "warmup_steps": 1}
            values = [text for key, value in short.items() for text in (f"--{key}", str(value))]
            options = ["attach", "--from", str(self._base(tokens)), "--data", str(tokens), *values]
        self.options = options

    def _base(self, tokens: Path) -> Path:
        tokenizer = load_prepared_tokenizer(tokens)
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=32,
        )
        LlamaForCausalLM(config).save_pretrained(self.folder / "base")
        tokenizer.save_pretrained(self.folder / "base")
        return self.folder / "base"

    def run(self, out: Path, *models: str) -> None:
        wanted = ",".join([*self.first, *models])
        assert main(["reproduce", *self.options, "--models", wanted, "--out", str(out)]) == 0

    def runs(self, out: Path) -> list[Path]:
        """The folders with a summary."""
        return sorted(path.parent for path in out.rglob("summary.json"))

    def pages(self, out: Path) -> list[Path]:
        return sorted(out.rglob("report.html"))


@pytest.fixture(scope="module", params=KINDS)
def kind(request, tmp_path_factory, figures_stay_undrawn):
    """A kind, a finished run of two models, and one of three with the moments at which a kill may have come."""
    folder = tmp_path_factory.mktemp("kind")
    made = Kind(request.param, folder)
    made.run(folder / "two")
    shutil.copytree(folder / "two", folder / "three")
    with Moments(folder / "three", folder / "moments", NAMES) as moments:
        made.run(folder / "three", made.added)
    return made, folder, moments.copies


def results(summary: dict) -> list[tuple]:
    return [(entry["seed"], entry["name"], entry["label"], entry["eval_loss"]) for entry in summary["trainings"]]


def test_killed_at_any_moment_it_ends_with_all_results(kind, capsys):
    made, folder, copies = kind
    names = [name for name, _ in copies]
    assert {"result.json", "summary.json", "report.html"} <= set(names)
    late = names.index("summary.json")  # from the last result on nothing is trained any more
    for name, copy in copies[max(0, late - 1) :]:
        for page in made.pages(copy):
            os.utime(page, ns=(2**61, 2**61))  # a clock that has gone backwards since
        made.run(copy, made.added)
        assert [path.relative_to(copy) for path in made.runs(copy)] == [
            path.relative_to(folder / "three") for path in made.runs(folder / "three")
        ]
        for here, there in zip(made.runs(copy), made.runs(folder / "three"), strict=True):
            assert results(read_summary(here)) == results(read_summary(there)), name
            assert made.added in [entry["name"] for entry in read_summary(here)["trainings"]]
        assert made.pages(copy) and all(made.label in page.read_text() for page in made.pages(copy)), name


def test_a_complete_run_is_left_as_it_is(kind, capsys):
    made, folder, _ = kind
    before = {path: (path / "summary.json").stat().st_mtime_ns for path in made.runs(folder / "three")}
    page = made.pages(folder / "three")[-1]
    stamp = page.stat().st_mtime_ns
    made.run(folder / "three", made.added)
    assert "complete, nothing to train" in capsys.readouterr().out
    assert before == {path: (path / "summary.json").stat().st_mtime_ns for path in made.runs(folder / "three")}
    assert page.stat().st_mtime_ns == stamp


def test_a_moved_run_tells_of_its_own_numbers(kind, tmp_path):
    """Another run, with other numbers, stands where it was; its report is written anew from what moved with it."""
    made, folder, _ = kind
    place, moved = tmp_path / "place", tmp_path / "moved"
    shutil.copytree(folder / "two", place)
    place.rename(moved)
    shutil.copytree(folder / "two", place)
    for summary in made.runs(place):
        for metrics in summary.rglob("metrics.jsonl"):
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
            marked = [{**line, "eval_loss": 77.125} for line in lines]
            metrics.write_text("".join(json.dumps(line) + "\n" for line in marked))
    for page in made.pages(moved):
        page.unlink()
    tables = tables_in(moved)
    made.run(moved)
    assert tables and tables == tables_in(moved)


def tables_in(run: Path) -> dict[Path, bytes]:
    """The tables of a run's pages, without those of times, which are taken anew when a page is written."""
    paths = (path for path in run.rglob("figures/*.csv") if path.stem not in ("measured_costs", "equal_time"))
    return {path.relative_to(run): path.read_bytes() for path in paths}


def test_no_file_of_a_run_names_a_place_of_the_machine(kind):
    made, folder, _ = kind
    place = str(folder).encode()
    names_its_base = ("lime_adapter.json", "README.md") if made.kind == "adapted" else ()  # an adapter is found by it
    for path in (folder / "three").rglob("*"):
        if path.is_file() and path.name not in names_its_base:
            assert place not in path.read_bytes(), path
    for run in made.runs(folder / "three"):
        summary = json.loads((run / "summary.json").read_text())
        assert [entry["checkpoint"] for entry in summary["trainings"]] == [
            f"seed-{entry['seed']}/{entry['name']}" for entry in summary["trainings"]
        ]
        assert summary["recipe"]["training"]["seed"] >= 0 and summary["provenance"]["date"]
