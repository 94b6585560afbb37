"""Exact match: models that know the answers, models that do not, and what is made of several seeds."""

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from transformers import GenerationMixin, LlamaConfig, LlamaForCausalLM

from limelm.cli import main
from limelm.data.problems import prepare_problems, read_problems
from limelm.data.synthetic import arithmetic
from limelm.data.synthetic.tokenizer import word_tokenizer
from limelm.errors import UserError
from limelm.evaluation.exact_match import (
    EXACT_MATCH,
    score_checkpoint,
    score_run,
    summarize_accuracies,
    write_continuations,
)
from limelm.training import load_recipe, reproduce
from tests.recipes import prepared, write_recipe

PROBLEMS = (
    'preset = "python-library"\nsequence_length = 32\nvocab_size = 300\nvalidation_fraction = 0.2',
    'task = "arithmetic-3"\nworked_steps = true\ntrain_problems = 20\ntest_problems = 10\ntest_file = ""\n'
    "sequence_length = 16",
)


class KnowsByHeart(GenerationMixin):
    """Stands in for a model: writes what it was told for each prompt, or goes on for ever."""

    device = torch.device("cpu")

    def __init__(self, tokenizer, told):
        self.tokenizer, self.told = tokenizer, told

    def generate(self, batch, attention_mask, do_sample, max_new_tokens, eos_token_id, pad_token_id, logits_processor):
        assert attention_mask.all() and not do_sample
        rows = []
        for row in batch.tolist():
            continuation = self.told[self.tokenizer.decode(row)]
            ids = self.tokenizer(continuation or "7 + " * max_new_tokens)["input_ids"]
            ids = [*ids, eos_token_id] if continuation else ids
            rows.append([*row, *(ids + [pad_token_id] * max_new_tokens)[:max_new_tokens]])
        return torch.tensor(rows)


def test_prompts_of_all_lengths_come_back_in_their_order():
    tokenizer = word_tokenizer(arithmetic.all_words())
    told = {"1 + 2 =": "3", "( 1 + 2 ) * 2 =": "3 * 2 = 6", "4 + 4 =": None, "1 + 1 + 2 =": "2 + 2 = 4", "3 + 3 =": "6"}
    model = KnowsByHeart(tokenizer, told)
    assert write_continuations(model, tokenizer, list(told), longest=16) == list(told.values())


def test_what_does_not_end_in_time_is_no_answer():
    tokenizer = word_tokenizer(arithmetic.all_words())
    model = KnowsByHeart(tokenizer, {"1 + 2 =": "3", "2 + 2 =": "1 + 3 = 2 + 2 = 4"})
    assert write_continuations(model, tokenizer, ["1 + 2 =", "2 + 2 ="], longest=8) == ["3", None]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problems") / "data"
    prepare_problems(folder, "arithmetic-3", worked_steps=True, train=20, test=200)
    return folder


def checkpoint(folder, data):
    torch.manual_seed(0)
    tokenizer = word_tokenizer(arithmetic.all_words())
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=16,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_a_model_that_learned_the_test_by_heart_is_right_and_a_random_one_is_not(data, tmp_path):
    folder = checkpoint(tmp_path / "model", data)
    assert score_checkpoint(folder, data, 16)["correct"] < 60  # of 200
    (folder / EXACT_MATCH).unlink()
    model, tokenizer = LlamaForCausalLM.from_pretrained(folder), word_tokenizer(arithmetic.all_words())
    problems = read_problems(data, "test")
    texts = [" = ".join([p.prompt, *p.steps, p.answer]) for p in problems]
    rows = [[*tokenizer(text)["input_ids"], 1] for text in texts]
    ids = torch.tensor([row + [0] * (16 - len(row)) for row in rows])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(250):
        model(input_ids=ids, labels=ids.masked_fill(ids == 0, -100)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(folder)
    score = score_checkpoint(folder, data, 16)
    assert score["correct"] >= 190
    assert [item["prompt"] for item in score["items"]] == [problem.prompt for problem in problems]
    for problem, item in zip(problems, score["items"], strict=True):
        assert item["correct"] == (item["written"] is not None and item["written"].split(" = ")[-1] == problem.answer)


def test_a_score_is_kept_and_read_again(data, tmp_path):
    folder = checkpoint(tmp_path / "model", data)
    first = score_checkpoint(folder, data, 16)
    kept = json.loads((folder / EXACT_MATCH).read_text())
    assert kept == first and score_checkpoint(folder, data, 16) == first
    (folder / EXACT_MATCH).write_text(json.dumps({**kept, "data_sha256": "of other problems"}))
    assert score_checkpoint(folder, data, 16) == first


def test_seeds_are_compared_in_pairs():
    right = {"LLaMA": [0.5, 0.6, 0.4], "LIMe": [0.7, 0.9, 0.5]}
    scores = [
        {"task": "arithmetic-3", "model": model, "seed": seed, "accuracy": accuracy}
        for model, accuracies in right.items()
        for seed, accuracy in enumerate(accuracies)
    ]
    llama, lime = summarize_accuracies(scores, "LLaMA")
    assert llama["mean"] == pytest.approx(0.5) and llama["standard_deviation"] == pytest.approx(0.1)
    assert llama["high"] - llama["mean"] == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-5)  # Student's t, 2
    assert llama["difference"] is None and llama["verdict"] is None
    assert lime["difference"] == pytest.approx(0.2) and lime["better_in"] == 3
    assert lime["difference_high"] == pytest.approx(0.2 + 4.302653 * 0.1 / math.sqrt(3), rel=1e-5)
    assert lime["verdict"] == "not distinguishable"


def test_a_single_seed_has_a_difference_and_no_verdict():
    scores = [{"task": "t", "model": model, "seed": 1, "accuracy": rate} for model, rate in (("a", 0.5), ("b", 0.75))]
    first, second = summarize_accuracies(scores, "a")
    nothing = ("low", "high", "standard_deviation", "difference_low", "difference_high", "verdict")
    assert all(row[key] is None for row in (first, second) for key in nothing)
    assert (first["mean"], second["mean"]) == (0.5, 0.75) and first["difference"] is None
    assert (second["difference"], second["better_in"], second["seeds"]) == (0.25, 1, 1)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    recipe = write_recipe(folder, PROBLEMS)
    options = ["reproduce", str(recipe), "--out", str(folder / "run"), "--seeds", "2"]
    assert main([*options, "--models", "llama,static,hc"]) == 0
    return folder, options


def test_the_command_trains_asks_and_reports(run, capsys):
    folder, options = run
    out = folder / "run"
    result = json.loads((out / EXACT_MATCH).read_text())
    assert result["task"] == "small" and result["problems"] == 10 and result["baseline"] == "LLaMA"
    assert {(row["model"], row["seed"]) for row in result["scores"]} == {
        (model, seed) for model in ("LLaMA", "LIMe static", "hc") for seed in (1, 2)
    }
    page = (out / "report.html").read_text()
    assert "Right answers" in page and "not corrected for the 2 comparisons" in page
    assert "small: no model is above guessing" in page and "(generated problems)" in page
    assert (out / "figures" / "exact_match.png").exists() and (out / "figures" / "exact_match_summary.csv").exists()
    before = (out / "seed-1" / "hc" / EXACT_MATCH).stat().st_mtime_ns
    assert main([*options, "--models", "llama,static,hc"]) == 0
    assert (out / "seed-1" / "hc" / EXACT_MATCH).stat().st_mtime_ns == before
    assert "small  LLaMA" in capsys.readouterr().out


def test_a_run_without_the_steps_is_another(run, capsys):
    _, options = run
    assert main([*options, "--models", "llama", "--worked-steps", "false"]) == 2
    assert "holds a run with recipe.data.worked_steps=True, not False" in capsys.readouterr().err


def test_all_seeds_learn_the_same_problems(run):
    folder, _ = run
    runs = [json.loads(path.read_text())["run"] for path in (folder / "run").glob("seed-*/*/run.json")]
    assert len(runs) == 6 and {run["training"]["seed"] for run in runs} == {1, 2}
    assert len({run["data_sha256"] for run in runs}) == 1


def test_other_problems_in_the_same_folder_are_refused(run, tmp_path, capsys):
    folder, options = run
    wanted = ["--models", "llama", "--test-problems", "11"]
    assert main([*options, *wanted]) == 2
    assert "holds a run with recipe.data.test_problems=10, not 11" in capsys.readouterr().err
    shutil.copytree(folder / "run" / "data", tmp_path / "run" / "data")
    assert main(["reproduce", str(folder / "small.toml"), "--out", str(tmp_path / "run"), *wanted]) == 2
    assert "holds other problems" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--task", "sudoku"], "task 'sudoku' is unknown; allowed: arithmetic-N"),
        (["--sequence-length", "8"], "data: sequence_length=8 is too short for arithmetic-3"),
        (["--test-file", "missing.json"], "takes no file of test problems"),
        (["--task", "prosqa", "--test-file", "missing.json"], "missing.json: No such file"),
        (["--preset", "tiny"], "unknown field 'preset'"),
        (["--train-problems", "0"], "data.train_problems=0 must be at least 1"),
        (["--train-problems", "500000"], "count=500000 is too large; allowed: up to about"),
    ],
)
def test_bad_input_is_one_line(tmp_path, capsys, more, message):
    recipe = write_recipe(tmp_path, PROBLEMS)
    assert main(["reproduce", str(recipe), "--out", str(tmp_path / "run"), *more]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and len(error.splitlines()) == 1


def test_text_is_not_taken_for_problems(tmp_path, capsys):
    recipe, tokens = write_recipe(tmp_path, PROBLEMS), prepared(tmp_path / "tokens")
    assert main(["reproduce", str(recipe), "--out", str(tmp_path / "run"), "--data", str(tokens)]) == 2
    assert "tokens: not a folder of reasoning problems (no problems.json)" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_score_run_names_what_trivial_answers_score(data, tmp_path):
    folder = checkpoint(tmp_path / "model", data)
    entry = {"label": "LLaMA", "model_type": "llama", "checkpoint": str(folder)}
    trainings = [{"seed": seed, **entry} for seed in (1, 2)]
    in_one = {**entry, "seed": 1, "label": "LIMe", "checkpoint": "nowhere"}  # is neither asked nor compared
    summary = {"seeds": [1, 2], "trainings": [in_one, *trainings], "data": {"sequence_length": 16}}
    result = score_run("arithmetic-3", summary, data)
    assert [(row["model"], row["seed"]) for row in result["scores"]] == [("LLaMA", 1), ("LLaMA", 2)]
    answers = [problem.answer for problem in read_problems(data, "test")]
    assert result["constant_rate"] == max(answers.count(answer) for answer in answers) / 200
    assert result["chance"] == 1 / 11


def test_a_run_whose_models_have_no_seeds_in_common_has_no_score(data):
    trainings = [{"seed": seed, "label": label} for seed, label in ((1, "LLaMA"), (2, "LIMe"))]
    with pytest.raises(UserError, match=r"arithmetic-3: no model was trained with all seeds \(1, 2\)"):
        score_run("arithmetic-3", {"seeds": [1, 2], "trainings": trainings}, data)


def test_the_problems_are_made_once_for_all_seeds(tmp_path):
    recipe = replace(load_recipe(str(write_recipe(tmp_path, PROBLEMS))), seeds=2)
    assert reproduce(recipe, tmp_path / "run", ["llama"]) == ["seed-1/llama", "seed-2/llama"]
    assert (tmp_path / "run" / "data" / "problems.json").exists()
    assert not (tmp_path / "run" / "seed-1" / "data").exists()
