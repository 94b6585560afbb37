"""Hand-checked: what the model is shown, among what it chooses, and what is right, for one item of every format."""

import gzip
import json
from pathlib import Path

import pytest

from limelm.errors import UserError
from limelm.evaluation import tasks
from limelm.evaluation.items import definition_fingerprint, mean_metrics
from limelm.evaluation.local_data import LOCAL_TASKS, read_splits
from limelm.evaluation.suites import SUITES, expand
from limelm.evaluation.tasks import load_tasks
from tests.evaluation.benchmarks import write_rows
from tests.evaluation.direct_harness import local_hub

SHARED = Path(__file__).parents[3] / "shared" / "data" / "eval"

COWS = {"text": ["goats", "cows", "owls"], "label": ["A", "B", "C"]}

# File and line; the contexts; the continuations; the position of the right one.
ITEMS = {
    "arc_easy": (
        ("arc_easy", "test", {"id": "x", "question": "What moos?", "choices": COWS, "answerKey": "B"}),
        ["Question: What moos?\nAnswer:"],
        [" goats", " cows", " owls"],
        1,
    ),
    "arc_challenge": (
        ("arc_challenge", "test", {"id": "x", "question": "What moos?", "choices": COWS, "answerKey": "B"}),
        ["Question: What moos?\nAnswer:"],
        [" goats", " cows", " owls"],
        1,
    ),
    "openbookqa": (
        ("openbookqa", "test", {"id": "x", "question_stem": "What moos?", "choices": COWS, "answerKey": "C"}),
        ["What moos?"],
        [" goats", " cows", " owls"],
        2,
    ),
    "hellaswag": (
        (
            "hellaswag",
            "validation.gz",
            {
                "ind": 1,
                "activity_label": "Baking",
                "ctx_a": "A man [step] mixes dough.",
                "ctx_b": "he",
                "ctx": "",
                "endings": ["waits.", "flies  off.", "sings [title] Loudly", "sits."],
                "label": "2",
            },
        ),
        ["Baking: A man mixes dough. He"],
        [" waits.", " flies off.", " sings. Loudly", " sits."],
        2,
    ),
    "winogrande": (
        (
            "winogrande",
            "validation",
            {"sentence": "Ann met Bea and _ waved.", "option1": "Ann", "option2": "Bea", "answer": "2"},
        ),
        ["Ann met Bea and Ann", "Ann met Bea and Bea"],
        [" waved.", " waved."],
        1,
    ),
    "piqa": (
        ("piqa", "validation", {"goal": "Boil water", "sol1": "use a pot", "sol2": "use a hat", "label": 0}),
        ["Question: Boil water\nAnswer:"],
        [" use a pot", " use a hat"],
        0,
    ),
    "copa": (
        (
            "copa",
            "val",
            {
                "premise": "It rained.",
                "choice1": "I got wet.",
                "choice2": "We sang.",
                "question": "effect",
                "label": 0,
                "idx": 0,
            },
        ),
        ["It rained therefore"],
        ["  i got wet.", "  we sang."],  # two spaces: the harness's own
        0,
    ),
    "rte": (
        ("rte", "val", {"premise": "It is wet.", "hypothesis": "It is dry.", "label": "not_entailment", "idx": 0}),
        ["It is wet.\nQuestion: It is dry. True or False?\nAnswer:"],
        [" True", " False"],
        1,
    ),
    "sglue_rte": (
        ("rte", "val", {"premise": "It is wet.", "hypothesis": "It is wet.", "label": "entailment", "idx": 0}),
        ["It is wet.\nQuestion: It is wet. True or False?\nAnswer:"],
        [" True", " False"],
        0,
    ),
    "multirc": (
        (
            "multirc",
            "val",
            {
                "idx": 0,
                "passage": {
                    "text": "Tom fell.",
                    "questions": [{"question": "Who?", "idx": 0, "answers": [{"text": "Tim", "idx": 0, "label": 0}]}],
                },
            },
        ),
        ["Tom fell.\nQuestion: Who?\nAnswer:"],
        [" Tim\nIs the answer correct? yes", " Tim\nIs the answer correct? no"],
        0,  # a wrong answer's label is 0, where the harness has "yes"; see docs/evaluation.md
    ),
    "wic": (
        (
            "wic",
            "val",
            {
                "word": "bank",
                "sentence1": "A river bank.",
                "sentence2": "Bank on it.",
                "idx": 0,
                "label": False,
                "start1": 8,
                "end1": 12,
                "start2": 0,
                "end2": 4,
            },
        ),
        [
            "Sentence 1: A river bank.\nSentence 2: Bank on it.\nQuestion: Is the word 'bank' used in the same way in "
            "the two sentences above?\nAnswer:"
        ],
        [" no", " yes"],
        0,
    ),
    "qnli": (
        (
            "qnli",
            "dev.tsv",
            {"index": 0, "question": 'Who is "Bo"?', "sentence": "Bo is a dog.", "label": "entailment"},
        ),
        ['Who is "Bo"?\nBo is a dog.\nQuestion: Does this response answer the question?\nAnswer:'],
        [" yes", " no"],
        0,
    ),
    "lambada_openai": (
        ("lambada", "lambada_openai", {"context": "She saw the", "continuation": "moon"}),
        ["She saw the"],
        [" moon"],
        0,
    ),
    "blimp_wh_island": (
        ("blimp", "wh_island", {"sentence_good": "Who saw it?", "sentence_bad": "Who it saw?", "UID": "wh_island"}),
        [""],
        [" Who saw it?", " Who it saw?"],
        0,
    ),
    "logical_deduction_three_objects": (
        (
            "logical_deduction",
            "bigbench_logical_deduction",
            {
                "query": "Of a set of three objects ... The owl is left.\nWhich?\n\nA. An owl.\nB. A cat.\nC. An owl."
                "\nD. A dog.\nAnswer: ",
                "choices": ["An owl.", "A cat.", "An owl.", "A dog."],
                "gold": 3,
            },
        ),
        ["Of a set of three objects ... The owl is left.\nWhich?\n\nA. An owl.\nB. A cat.\nC. A dog.\nAnswer:"],
        [" An owl.", " A cat.", " A dog."],
        2,
    ),
}


def requests_of(task):
    """What the harness would ask a model about the first item: pairs of context and continuation."""
    task.build_all_requests(limit=1)
    return [instance.args for instance in task.instances]


def gold_of(task):
    doc = task.eval_docs[0]
    if task.OUTPUT_TYPE == "loglikelihood":
        return 0
    right = [(0.0, False)] * len(task.doc_to_choice(doc))
    scores = [task.process_results(doc, [*right[:k], (1.0, True), *right[k + 1 :]])["acc"] for k in range(len(right))]
    assert sorted(scores)[-2:] == [0.0, 1.0]
    return scores.index(1.0)


def test_every_format_has_a_hand_checked_item():
    assert ITEMS.keys() == {*LOCAL_TASKS, "blimp_wh_island"}


@pytest.mark.parametrize("name", ITEMS)
def test_prompt_choices_and_gold_are_the_harness_s(name, tmp_path):
    (folder, file, line), contexts, continuations, gold = ITEMS[name]
    write_rows(tmp_path / folder, file, [line, line])
    [loaded] = load_tasks(expand([name], 0), tmp_path, seed=0)
    contexts = contexts * len(continuations) if len(contexts) == 1 else contexts
    assert requests_of(loaded.task) == list(zip(contexts, continuations, strict=True))
    assert gold_of(loaded.task) == gold
    assert loaded.task.VERSION is not None


def test_examples_come_from_the_training_items_where_there_are_some(benchmarks):
    for loaded in load_tasks(expand(["arc_easy", "copa", "multirc"], 2), benchmarks, seed=0):
        assert (loaded.examples_split, loaded.scored_split != "train") == ("train", True)
        train = {repr(doc) for doc in loaded.task.training_docs()}
        assert {repr(doc) for doc in loaded.task.sampler.df} == train


@pytest.mark.parametrize("name", ["hellaswag", "qnli", "lambada_openai", "logical_deduction_three_objects"])
def test_elsewhere_they_are_other_items_that_are_scored(name, benchmarks):
    [loaded] = load_tasks(expand([name], 50), benchmarks, seed=0)  # nearly all 60: the item itself would be among them
    assert loaded.examples_split == loaded.scored_split
    loaded.task.set_config("num_fewshot", 50)
    loaded.task.set_fewshot_seed(0)
    for doc in list(loaded.task.eval_docs)[:10]:
        context = loaded.task.fewshot_context(doc, 50)
        asked = context.rsplit("\n\n", 1)[-1] if "logical" not in name else doc["situation"]
        assert context.count(asked) == 1


def test_items_with_more_objects_are_left_out(tmp_path):
    line = {"query": "a set of five objects\n\nA. x\nAnswer: ", "choices": ["x"], "gold": 0}
    write_rows(tmp_path / "logical_deduction", "bigbench_logical_deduction", [line])
    with pytest.raises(UserError, match="holds no item of logical_deduction"):
        read_splits(tmp_path, "logical_deduction_three_objects")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("piqa", "{", r"validation.jsonl line 1: not JSON"),
        ("piqa", "[]", r"line 1: not an object"),
        ("piqa", '\n{"goal": "x"}', r"line 2: not an item of piqa \(no field 'label'\)"),
        ("piqa", '{"goal": "x", "sol1": "a", "sol2": "b", "label": 2}', r"label 2 is not one of 0, 1"),
        ("winogrande", '{"sentence": "x", "option1": "a", "option2": "b", "answer": "1"}', "line 1: not an item"),
        ("piqa", "", "holds no item of piqa"),
        ("piqa", "\udcff", "line 1: not UTF-8 text"),
        ("piqa", "[" * 100_000, "line 1: nested too deeply"),
        ("piqa", '{"goal": "x", "sol1": 3, "sol2": "b", "label": 1}', "line 1: not an item of piqa .sol1=3 is no text"),
        ("piqa", '{"goal": null, "sol1": "a", "sol2": "b", "label": 1}', "goal=None is no text"),
        ("piqa", " " * (16 * 2**20 + 1), r"validation\.jsonl line 1: a document of more than 16,777,216 bytes"),
    ],
)
def test_a_broken_file_is_named_with_its_line(name, text, message, tmp_path):
    (tmp_path / name).mkdir()
    (tmp_path / name / "validation.jsonl").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(UserError, match=message):
        read_splits(tmp_path, name)


@pytest.mark.parametrize("suffix", ["jsonl", "jsonl.gz"])
def test_a_byte_order_mark_is_no_text(suffix, tmp_path):
    (tmp_path / "piqa").mkdir()
    item = {"goal": "x", "sol1": "a", "sol2": "b", "label": 1}
    content = b"\xef\xbb\xbf" + json.dumps(item).encode() + b"\r\n"
    path = tmp_path / "piqa" / f"validation.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert read_splits(tmp_path, "piqa") == {"validation": [item]}


def test_a_table_may_begin_with_a_mark_and_names_what_does_not_fit(tmp_path):
    path = tmp_path / "qnli" / "dev.tsv"
    path.parent.mkdir()
    path.write_bytes(
        b'\xef\xbb\xbfindex\tquestion\tsentence\tlabel\r\n7\ta "b\t' + b"c" * 200_000 + b"\tentailment\r\n"
    )
    expected = {"question": 'a "b', "sentence": "c" * 200_000, "idx": 7, "label": 0}
    assert read_splits(tmp_path, "qnli") == {"validation": [expected]}
    path.write_bytes(path.read_bytes() + b"8\ta\n")
    with pytest.raises(UserError, match=r"dev\.tsv line 3: 2 values, but the first line names 4"):
        read_splits(tmp_path, "qnli")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"copa needs .*copa/val.jsonl \(or .jsonl.gz, .tsv\), which is not there"):
        read_splits(tmp_path, "copa")
    with pytest.raises(UserError, match="is not a folder"):
        read_splits(tmp_path / "none", "copa")


def test_a_wrong_label_of_words_is_refused(tmp_path):
    write_rows(tmp_path / "qnli", "dev.tsv", [{"index": 0, "question": "a", "sentence": "b", "label": "maybe"}])
    with pytest.raises(UserError, match="label 'maybe' is not one of 'entailment', 'not_entailment'"):
        read_splits(tmp_path, "qnli")


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real benchmarks are not beside this checkout")
def test_the_real_files_have_the_items_that_the_benchmarks_are_known_to_have():
    sizes = {name: {split: len(rows) for split, rows in read_splits(SHARED, name).items()} for name in LOCAL_TASKS}
    assert sizes["arc_easy"] == {"train": 2251, "validation": 570, "test": 2376}
    assert sizes["arc_challenge"]["test"] == 1172 and sizes["openbookqa"]["test"] == 500
    assert sizes["hellaswag"] == {"validation": 10042} and sizes["piqa"]["validation"] == 1838
    assert sizes["winogrande"]["validation"] == 1267 and sizes["copa"] == {"train": 400, "validation": 100}
    assert sizes["rte"]["validation"] == 277 and sizes["multirc"]["validation"] == 4848
    assert sizes["wic"]["validation"] == 638 and sizes["qnli"] == {"validation": 5463}
    assert sizes["lambada_openai"] == {"test": 5153} and sizes["logical_deduction_three_objects"] == {"test": 300}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real benchmarks are not beside this checkout")
def test_multirc_s_constant_answers_are_the_paper_s_scores():
    """Section 5.1's four MultiRC scores, 42.8 to 43.1 %, are what one of the two constant answers gives."""
    labels = [row["label"] for row in read_splits(SHARED, "multirc")["validation"]]
    assert sum(labels) / len(labels) == pytest.approx(0.428, abs=5e-4)
    printed = next(task.printed for task in SUITES["paper"].tasks if task.name == "multirc")
    assert all(0 <= value - 42.8 < 0.35 for value in printed.values())


def test_files_are_read_as_the_hub_would_give_them(benchmarks):
    [row, *_] = read_splits(benchmarks, "multirc")["validation"]
    assert set(row) == {"paragraph", "question", "answer", "idx", "label"}
    source = json.loads((benchmarks / "multirc" / "val.jsonl").read_text().splitlines()[0])
    assert row["paragraph"] == source["passage"]["text"] and row["idx"] == {"paragraph": 0, "question": 0, "answer": 0}


def test_the_hub_s_rows_and_the_folder_s_give_the_same_prompts(benchmarks, monkeypatch):
    some = tasks._local_task_manager()  # to list all of the harness's tasks takes ten seconds
    monkeypatch.setattr(tasks, "_task_manager", lambda **_: some)
    wanted = expand(["arc_easy", "openbookqa", "winogrande", "copa", "rte", "multirc", "wic"], 1)
    with local_hub(benchmarks):
        hub = load_tasks(wanted, None, seed=0)
    for theirs, ours in zip(hub, load_tasks(wanted, benchmarks, seed=0), strict=True):
        asked = []
        for task in (theirs.task, ours.task):
            task.set_config("num_fewshot", 1)
            task.set_fewshot_seed(0)
            task.build_all_requests()
            asked.append([(request.doc_id, request.args) for request in task.instances])
        assert asked[0] == asked[1] and len(asked[0]) >= 60
        assert definition_fingerprint(theirs.task) == definition_fingerprint(ours.task)


def test_what_has_no_mean_over_items_is_refused(benchmarks, monkeypatch):
    [loaded] = load_tasks(expand(["lambada_openai"], 0), benchmarks, seed=0)
    monkeypatch.setattr(loaded.task, "_aggregation_list", {"perplexity": max})
    with pytest.raises(UserError, match="no metric of lambada_openai is a mean"):
        tasks._check(loaded)


def test_a_metric_that_is_better_the_lower_it_is_is_left_out(benchmarks, monkeypatch):
    [loaded] = load_tasks(expand(["lambada_openai"], 0), benchmarks, seed=0)
    assert "acc" in mean_metrics(loaded.task)
    monkeypatch.setattr(loaded.task, "_higher_is_better", {"acc": False})
    assert "acc" not in mean_metrics(loaded.task)
    monkeypatch.setattr(loaded.task, "_higher_is_better", {"acc": None})
    assert "acc" in mean_metrics(loaded.task)


def test_a_task_that_two_names_stand_for_runs_once(benchmarks, monkeypatch):
    some = tasks._local_task_manager()
    monkeypatch.setattr(tasks, "_task_manager", lambda **_: some)
    with local_hub(benchmarks):
        loaded = load_tasks(expand(["ai2_arc", "arc_easy"], 0), None, seed=0)
    assert [entry.name for entry in loaded] == ["arc_challenge", "arc_easy"]


def test_the_group_of_minimal_pairs_is_what_the_folder_has(tmp_path):
    pair = {"sentence_good": "She sleeps.", "sentence_bad": "She sleep."}
    for file in ("wh_island", "causative.gz"):
        write_rows(tmp_path / "blimp", file, [pair] * 3)
    loaded = load_tasks(expand(["blimp", "blimp_causative"]), tmp_path, seed=0)
    assert [entry.name for entry in loaded] == ["blimp_causative", "blimp_wh_island"]
    assert {(entry.scored_split, len(entry.task.eval_docs)) for entry in loaded} == {("validation", 3)}


def test_minimal_pairs_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match=r"blimp needs a file for each phenomenon in .*blimp, such as wh_island.jsonl"):
        load_tasks(expand(["blimp"]), tmp_path, seed=0)
    with pytest.raises(UserError, match="no task or suite 'blimp_wh_iland' in the harness; nearest: blimp_wh_island"):
        load_tasks(expand(["blimp_wh_iland"]), tmp_path, seed=0)
    with pytest.raises(UserError, match=r"blimp_wh_island needs .*wh_island.jsonl"):
        load_tasks(expand(["blimp_wh_island"]), tmp_path, seed=0)
