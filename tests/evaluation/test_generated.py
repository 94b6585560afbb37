from collections import Counter

import pytest

from limelm.evaluation.generated import GENERATED, ITEMS, PAIRS, WORDS, induction_items, key_value_items
from limelm.evaluation.statistics import chance_level, constant_rate
from limelm.evaluation.suites import expand
from limelm.evaluation.tasks import load_tasks


def test_key_value_items_are_answered_by_the_line_that_has_the_key():
    for item in key_value_items("test", seed=1):
        *lines, query = item["text"].split("\n")
        pairs = dict(line.split(": ") for line in lines)
        assert len(pairs) == PAIRS and item["choices"] == list(pairs.values())
        assert item["choices"][item["gold"]] == pairs[query.removesuffix(":")]
        assert len({*pairs, *pairs.values()}) == 2 * PAIRS  # no word twice


def test_induction_items_go_on_as_the_list_did():
    for item in induction_items("test", seed=1):
        words = item["text"].split()
        listed, again = words[:PAIRS], words[PAIRS:]
        assert again and again == listed[: len(again)] and len(set(listed)) == PAIRS
        assert item["choices"][item["gold"]] == listed[len(again)]
        assert sorted(item["choices"]) == sorted(listed)


@pytest.mark.parametrize("make", GENERATED.values())
def test_positions_are_uniform_and_seeds_decide(make):
    items = make("test", 1)
    assert len(items) == ITEMS["test"] and items == make("test", 1) != make("test", 2)
    golds = [item["gold"] for item in items]
    assert chance_level([len(item["choices"]) for item in items]) == 1 / PAIRS
    assert len(Counter(golds)) == PAIRS and constant_rate(golds) < 0.18
    assert not {item["text"] for item in items} & {item["text"] for item in make("train", 1)}


def test_words_are_different_and_none_begins_another():
    assert len(set(WORDS)) == len(WORDS)
    assert not [(word, other) for word in WORDS for other in WORDS if word != other and other.startswith(word)]


def test_the_harness_asks_for_the_value(tmp_path):
    [loaded] = load_tasks(expand(["key_value_retrieval"], 0), None, seed=7)
    loaded.task.build_all_requests(limit=1)
    [item, *_] = key_value_items("test", 7)
    assert [request.args for request in loaded.task.instances] == [
        (item["text"], f" {word}") for word in item["choices"]
    ]
    assert len(loaded.task.eval_docs) == ITEMS["test"] and loaded.examples_split == "train"
