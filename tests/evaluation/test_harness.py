"""Scores through limelm are the harness's own; a model that knows scores 100 %, one that does not scores chance."""

import json
from pathlib import Path

import lm_eval.evaluator
import lm_eval.tasks
import numpy as np
import pytest
import torch
from lm_eval.api.task import ConfigurableTask
from lm_eval.tasks import TaskManager

from limelm.evaluation import harness
from limelm.evaluation.answer_loss import answer_rows
from limelm.evaluation.generated import WORDS
from limelm.evaluation.harness import TaskSettings, language_model, run_task, run_tasks
from limelm.evaluation.loading import load_for_evaluation
from limelm.evaluation.local_data import LOCAL_TASKS
from limelm.evaluation.own_tasks import hub_like
from limelm.evaluation.scores import score_rows
from limelm.evaluation.suites import SuiteTask, expand
from limelm.evaluation.tasks import LoadedTask, load_tasks
from limelm.loading import load_checkpoint
from tests.evaluation.benchmarks import write_checkpoint
from tests.evaluation.direct_harness import direct

GENERATED = ["key_value_retrieval", "induction"]
NAMES = [*LOCAL_TASKS, *GENERATED]
KNOWN = 3  # items of each task that the trained model has seen


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(scope="module")
def random_model(folder):
    return write_checkpoint(folder / "random", "kv_gqa")


def records_of(checkpoint, tasks, out, **settings):
    settings = TaskSettings(**settings)
    loaded = load_for_evaluation(str(checkpoint), "model", settings.device)
    records, notes = run_tasks(loaded, tasks, settings, out)
    return loaded.facts(), {record["task"]: record for record in records}, notes


def small_task_manager():
    root = Path(lm_eval.tasks.__file__).parent
    folders = ("arc", "blimp", "glue", "hellaswag", "lambada", "openbookqa", "piqa", "super_glue", "winogrande")
    return TaskManager(include_defaults=False, include_path=[root / name for name in folders])


@pytest.mark.parametrize(
    ("names", "shots"),
    [
        (
            [name for name in LOCAL_TASKS if name != "logical_deduction_three_objects"]  # which the harness has not
            + ["blimp_wh_island"],
            0,
        ),
        (["arc_easy", "winogrande", "copa", "multirc"], 2),
    ],
)
def test_scores_equal_those_of_a_direct_call(names, shots, benchmarks, random_model, tmp_path, monkeypatch):
    monkeypatch.setattr(lm_eval.evaluator, "add_env_info", lambda results: None)  # a slow survey of the machine
    expected = direct(random_model, benchmarks, names, shots, limit=12, task_manager=small_task_manager())
    _, records, _ = records_of(random_model, load_tasks(expand(names, shots), benchmarks, 1234), tmp_path, limit=12)
    assert records.keys() == set(names)
    for name, record in records.items():
        samples = expected[name]["samples"][name]
        assert len(record["items"]) == len(samples) == 12
        for key, value in record["results"].items():
            assert value == expected[name]["results"][name][key]
        for item, sample in zip(record["items"], samples, strict=True):
            assert item["scores"] == {metric: sample[metric] for metric in item["scores"]}
            if "log_likelihoods" in item:
                assert item["log_likelihoods"] == [likelihood for likelihood, _ in sample["filtered_resps"]]
                assert item["scores"]["acc"] == (item["prediction"] == item["gold"])
        if name == "lambada_openai":
            [row] = answer_rows([{"label": "model"}], {"model": [record]})
            assert np.exp(row["answer_loss"]) == pytest.approx(record["results"]["perplexity,none"])


@pytest.fixture(scope="module")
def trained(folder, benchmarks):
    """A model that has learned the answers of the first items of every task."""
    checkpoint = write_checkpoint(
        folder / "trained",
        "none",
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        max_position_embeddings=256,
    )
    model, tokenizer = load_checkpoint(checkpoint)
    lm = language_model(model, tokenizer, 1)
    choices = []  # for each item, the token ids of its choices, where their answers begin, and the right one
    for loaded in load_tasks(expand(NAMES, 0), benchmarks, seed=1234):
        task = loaded.task
        task.build_all_requests(limit=KNOWN)
        for number in range(KNOWN):
            pairs = [lm._encode_pair(*request.args) for request in task.instances if request.doc_id == number]
            doc = task.eval_docs[number]
            gold = 0
            if len(pairs) > 1:
                answers = [[(-1.0, False)] * len(pairs) for _ in pairs]
                for place, answer in enumerate(answers):
                    answer[place] = (0.0, True)
                gold = [task.process_results(doc, answer)["acc"] for answer in answers].index(1.0)
            choices.append((pairs, gold))
    train(model, choices)
    model.save_pretrained(checkpoint)
    return checkpoint


def train(model, choices):
    """Raise the likelihood of right answers, and lower it of wrong ones."""
    sequences = [context + answer for pairs, _ in choices for context, answer in pairs]
    length = max(map(len, sequences))
    tokens = torch.tensor([sequence + [0] * (length - len(sequence)) for sequence in sequences])
    answered = torch.zeros(tokens.shape, dtype=torch.bool)
    for row, (context, answer) in enumerate(pair for pairs, _ in choices for pair in pairs):
        answered[row, len(context) : len(context) + len(answer)] = True
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(24):
        logits = model(tokens).logits[:, :-1].log_softmax(-1)
        likelihoods = (logits.gather(2, tokens[:, 1:, None])[..., 0] * answered[:, 1:]).sum(1)
        loss, place = torch.zeros(()), 0
        for pairs, gold in choices:
            own = likelihoods[place : place + len(pairs)]
            loss = loss - own[gold] + (own.logsumexp(0) - own[gold])
            place += len(pairs)
        optimizer.zero_grad()
        (loss / len(choices)).backward()
        optimizer.step()


def test_a_model_that_knows_the_answers_scores_100_percent(trained, benchmarks, tmp_path):
    _, records, notes = records_of(trained, load_tasks(expand(NAMES, 0), benchmarks, 1234), tmp_path, limit=KNOWN)
    assert not notes and records.keys() == set(NAMES)
    scores = {name: record["results"]["acc,none"] for name, record in records.items()}
    assert scores == dict.fromkeys(NAMES, 1.0)


def test_a_random_model_scores_near_chance(random_model, benchmarks, tmp_path):
    names = [name for name in NAMES if name not in ("lambada_openai", "sglue_rte")]
    model, records, _ = records_of(random_model, load_tasks(expand(names, 0), benchmarks, 1234), tmp_path, limit=60)
    rows = score_rows([model], {"model": list(records.values())}, [], seed=0)
    for row in (row for row in rows if row["metric"] == "acc"):
        assert row["items"] == 60
        assert abs(row["accuracy"] - row["chance"]) < 3 * (row["chance"] * (1 - row["chance"]) / 60) ** 0.5, row
    chances = {row["task"]: row["chance"] for row in rows}
    assert (chances["hellaswag"], chances["piqa"], chances["induction"]) == (1 / 4, 1 / 2, 1 / 8)
    assert chances["logical_deduction_three_objects"] == pytest.approx(1 / 3)


def files(out):
    return {path.name: path.read_bytes() for path in sorted((out / "items").rglob("*.json"))}


def test_two_runs_leave_the_same_bytes(random_model, benchmarks, tmp_path):
    for turn in ("first", "second"):
        tasks = load_tasks(expand(["copa", "arc_easy", "induction"], 1), benchmarks, 1234)
        records_of(random_model, tasks, tmp_path / turn, limit=10)
    assert files(tmp_path / "first") == files(tmp_path / "second") and len(files(tmp_path / "first")) == 3


def test_an_interrupted_evaluation_goes_on_with_the_next_task(random_model, benchmarks, tmp_path, monkeypatch):
    tasks = load_tasks(expand(["copa", "rte", "piqa"], 1), benchmarks, 1234)
    ran, run = [], run_task

    def interrupted(lm, task, *arguments):
        if task.name == "piqa" and len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(task.name)
        return run(lm, task, *arguments)

    monkeypatch.setattr(harness, "run_task", interrupted)
    with pytest.raises(KeyboardInterrupt):
        records_of(random_model, tasks, tmp_path, limit=6)
    assert list(files(tmp_path)) == ["copa-1-shot.json", "rte-1-shot.json"]
    ran.append("again")
    _, resumed, _ = records_of(random_model, tasks, tmp_path, limit=6)
    assert ran == ["copa", "rte", "again", "piqa"]
    _, whole, _ = records_of(random_model, tasks, tmp_path / "whole", limit=6)
    assert resumed == json.loads(json.dumps(whole))


@pytest.mark.parametrize("change", ["limit", "batch_size", "seed", "weights", "data", "half a file"])
def test_what_would_change_the_scores_is_run_again(change, folder, benchmarks, tmp_path, monkeypatch):
    checkpoint = write_checkpoint(folder / f"changing {change}", "none")
    settings = {"limit": 6, "batch_size": 4, "seed": 1}
    records_of(checkpoint, load_tasks(expand(["copa"], 1), benchmarks, 1), tmp_path, **settings)
    tasks = load_tasks(expand(["copa"], 1), benchmarks, 1)
    if change in settings:
        settings[change] += 1
    elif change == "weights":
        model, _ = load_checkpoint(checkpoint)
        model.model.norm.weight.data[0] += 1e-3
        model.save_pretrained(checkpoint)
    elif change == "data":
        tasks[0].task.sampler.df[0]["premise"] = "Something else."
    else:
        [path] = (tmp_path / "items").rglob("*.json")
        path.write_text(path.read_text()[:-20])
    ran = []
    monkeypatch.setattr(
        harness, "run_task", lambda lm, task, *rest: (ran.append(task.name), run_task(lm, task, *rest))[1]
    )
    records_of(checkpoint, tasks, tmp_path, **settings)
    assert ran == ["copa"]
    records_of(checkpoint, tasks, tmp_path, **settings)
    assert ran == ["copa"]


def test_prompts_that_do_not_fit_are_counted(folder, benchmarks, tmp_path):
    whole = write_checkpoint(folder / "whole", "none")
    short = write_checkpoint(folder / "short", "none", max_position_embeddings=24)
    tasks = load_tasks(expand(["multirc"], 0), benchmarks, 1234)
    _, records, _ = records_of(whole, tasks, tmp_path / "whole", limit=12)
    assert records["multirc"]["items_cut"] == 0
    _, records, notes = records_of(short, tasks, tmp_path / "short", limit=12)
    record = records["multirc"]
    assert record["items_cut"] == sum(item["cut"] for item in record["items"]) == 12 and not notes


def generation_task(max_gen_toks):
    rows = [{"question": " ".join(WORDS[:30]), "answer": "x"}, {"question": "apple", "answer": "y"}]
    definition = {
        "task": "spell",
        "custom_dataset": hub_like({"test": rows}),
        "output_type": "generate_until",
        "test_split": "test",
        "doc_to_text": "question",
        "doc_to_target": "answer",
        "generation_kwargs": {"max_gen_toks": max_gen_toks, "until": ["\n"]},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    return LoadedTask(ConfigurableTask(config=definition), SuiteTask("spell", 0))


def test_generated_answers_are_scored_and_cut_prompts_counted(folder, tmp_path):
    short = write_checkpoint(folder / "generates", "none", max_position_embeddings=24)
    model, records, notes = records_of(short, [generation_task(4)], tmp_path)
    assert not notes and [item["cut"] for item in records["spell"]["items"]] == [True, False]
    [row] = score_rows([model], {"model": list(records.values())}, [], seed=0)
    assert (row["metric"], row["accuracy"], row["chance"], row["constant_rate"]) == ("exact_match", 0.0, None, None)
    _, records, [note] = records_of(short, [generation_task(24)], tmp_path)
    assert not records and note["reason"] == "no room for a prompt: the model's context holds 24 tokens"


def test_a_task_whose_answers_do_not_fit_is_left_out_and_told(folder, benchmarks, tmp_path):
    short = write_checkpoint(folder / "shorter", "none", max_position_embeddings=6)
    tasks = load_tasks(expand(["multirc", "rte"], 0), benchmarks, 1234)
    model, records, notes = records_of(short, tasks, tmp_path, limit=4)
    [note] = notes
    assert note["task"] == "multirc" and "tokens, the model's context holds 6" in note["reason"]
    assert model["context"] == 6 and records["rte"]["items_cut"] == 4
    assert [path.name for path in (tmp_path / "items").rglob("*.json")] == ["rte-0-shot.json"]


def test_paired_differences_are_over_the_same_items(random_model, trained, benchmarks, tmp_path):
    tasks = load_tasks([SuiteTask("piqa", 0, {"llama": 72.5, "kv": 60.0}, "v1 Table 1")], benchmarks, 1234)
    known, first, _ = records_of(trained, tasks, tmp_path / "a", limit=KNOWN)
    other, second, _ = records_of(random_model, tasks, tmp_path / "b", limit=KNOWN)
    models = [known | {"label": "knows"}, other | {"label": "random"}]
    rows = score_rows(models, {"knows": [first["piqa"]], "random": [second["piqa"]]}, [tasks[0].wanted], seed=0)
    plain = [row for row in rows if row["metric"] == "acc"]
    normalized = [row for row in rows if row["metric"] == "acc_norm"]
    assert plain[0]["difference"] is None and plain[0]["verdict"] is None
    assert plain[1]["difference"] == pytest.approx(plain[1]["accuracy"] - plain[0]["accuracy"])
    assert [row["paper"] for row in plain] == [None, None]  # the paper's are of acc_norm, in all likelihood
    assert [row["paper"] for row in normalized] == [0.725, 0.6] and normalized[0]["paper_table"] == "v1 Table 1"
