import json
from dataclasses import replace

import pytest

from limelm.data.synthetic.prosqa import (
    LEXICON,
    TEXT_FORMAT,
    Lexicon,
    all_words,
    generate,
)
from limelm.data.synthetic.prosqa_files import load_problems
from limelm.data.synthetic.prosqa_text import read_prompt, verify
from limelm.data.synthetic.tokenizer import word_tokenizer
from limelm.errors import UserError
from tests.data.synthetic.checks import structure
from tests.data.synthetic.published import PROSQA, difference, needs_prosqa

GOLDEN = ("Una is a bluzzop.", ("Una is a blondle.", "Every blondle is a frondle.", "Every frondle is a bluzzop."), 962)


@pytest.fixture(scope="module")
def problems():
    return generate(3000, seed=0)


def test_every_answer_is_right_by_a_search_of_the_text(problems):
    for problem in problems:
        verify(problem)


def test_every_problem_is_what_the_task_says(problems):
    for problem in problems:
        figures = structure(problem)
        assert figures["target_out_degree"] == figures["neg_target_out_degree"] == 0
        assert figures["path_length"] >= 3
        assert figures["neg_target_distance"] >= 1
        names = {symbol for symbol in problem.graph.symbols if symbol[0].isupper()}
        below = {problem.graph.symbols[end] for _, end in problem.graph.edges}
        assert names == set(problem.graph.symbols) - below
        assert len(set(problem.graph.symbols)) == len(problem.graph.symbols)


def test_text_and_graph_agree(problems):
    for problem in problems[:300]:
        graph, told = problem.graph, read_prompt(problem.prompt)
        assert set(told.facts) == {(graph.symbols[start], graph.symbols[end]) for start, end in graph.edges}
        assert len(told.facts) == len(graph.edges)
        assert told.root == graph.symbols[graph.root]
        assert set(told.choices) == {graph.symbols[graph.target], graph.symbols[graph.neg_target]}


def test_the_answer_cannot_be_told_from_the_order(problems):
    first = sum(read_prompt(p.prompt).choices[0] == p.graph.symbols[p.graph.target] for p in problems)
    assert abs(first / len(problems) - 0.5) < 0.04
    earlier = sum(
        p.prompt.index(f" {p.graph.symbols[p.graph.target]}.")
        < p.prompt.index(f" {p.graph.symbols[p.graph.neg_target]}.")
        for p in problems
    )
    assert earlier / len(problems) < 0.6  # the negative target has more facts, so it is told of a little earlier


def test_a_pure_function_of_its_arguments_and_prefix_stable(problems):
    assert generate(50, seed=0) == problems[:50]
    assert generate(50, seed=1) != problems[:50]


def test_the_first_problem_stays_what_it_is(problems):
    """In every version of Python: results are comparable only on the same problems."""
    assert (problems[0].answer, problems[0].steps, len(problems[0].prompt)) == GOLDEN


def test_no_facts_twice_and_none_in_both_splits(problems):
    test = generate(300, seed=0, split="test")
    keys = [{problem.key for problem in side} for side in (problems, test)]
    assert [len(side) for side in keys] == [3000, 300]
    assert not keys[0] & keys[1]


def test_the_order_of_the_facts_does_not_make_a_new_problem(problems):
    problem = problems[0]
    *sentences, question = problem.prompt.split(". ")
    shuffled = replace(problem, prompt=". ".join([*reversed(sentences), question]))
    assert shuffled.key == problem.key
    assert not {p.key for p in generate(50, seed=0, exclude=[shuffled])} & {problem.key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"answer": p.answer.replace(target(p), negative(p))}, "answer .* is wrong"),
        (lambda p: {"steps": p.steps[:-1]}, "steps: "),
        (lambda p: {"steps": p.steps[1:]}, "step .* is wrong"),
        (lambda p: {"steps": (*p.steps, "so")}, "sentence 'so' cannot be read"),
        (lambda p: {"steps": (f"{name(p)} is a {target(p)}.",)}, "step .* is wrong"),
        (lambda p: {"prompt": f"{name(p)} is a {negative(p)}. {p.prompt}"}, "exactly one of the choices"),
        (lambda p: {"prompt": f"{name(p)} is a {target(p)}. {p.prompt}"}, r"steps: \d lead to .* allowed: 1"),
        (lambda p: {"prompt": f"Every {target(p)} is a {negative(p)}. {p.prompt}"}, "exactly one of the choices"),
        (lambda p: {"prompt": f"Every {target(p)} is a nothing. {p.prompt}"}, "lead on from"),
        (lambda p: {"prompt": p.prompt.replace("Is ", "Was ")}, "question .* cannot be read"),
    ],
)
def test_wrong_problems_are_found(problems, change, message):
    with pytest.raises(UserError, match=message):
        verify(replace(problems[0], **change(problems[0])))


def name(problem):
    return problem.graph.symbols[problem.graph.root]


def target(problem):
    return problem.graph.symbols[problem.graph.target]


def negative(problem):
    return problem.graph.symbols[problem.graph.neg_target]


def test_the_words_cover_every_problem(problems):
    tokenizer = word_tokenizer(all_words())
    for problem in problems[:100]:
        prompt, continuation = TEXT_FORMAT.prompt(problem), TEXT_FORMAT.continuation(problem)
        ids = tokenizer(prompt)["input_ids"] + tokenizer(continuation)["input_ids"]
        assert ids == tokenizer(prompt + continuation)["input_ids"]
        assert tokenizer.decode(ids) == prompt + continuation


@pytest.mark.parametrize(
    ("names", "concepts", "message"),
    [
        (LEXICON.names[:3], LEXICON.concepts, "names: 3 words, 3 different; allowed: 8 or more"),
        (LEXICON.names, (*LEXICON.concepts, "davvik"), "concepts: 41 words, 40 different"),
        (("ada", *LEXICON.names), LEXICON.concepts, "names: 'ada' is not allowed"),
        (LEXICON.names, ("two words", *LEXICON.concepts), "concepts: 'two words' is not allowed"),
    ],
)
def test_bad_lexicons(names, concepts, message):
    with pytest.raises(UserError, match=message):
        Lexicon(names, concepts)


def as_row(problem):
    """A problem in the published format."""
    graph = problem.graph
    return {
        "question": problem.prompt,
        "answer": problem.answer,
        "steps": list(problem.steps),
        "idx_to_symbol": list(graph.symbols),
        "edges": [list(edge) for edge in graph.edges],
        "root": graph.root,
        "target": graph.target,
        "neg_target": graph.neg_target,
    }


def test_problems_can_be_loaded(tmp_path, problems):
    path = tmp_path / "problems.json"
    path.write_text(json.dumps([as_row(problem) for problem in problems[:5]]))
    assert load_problems(path) == problems[:5]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": None}, "steps=None must be a list"),
        ({"question": 3}, "question=3 must be a string"),
        ({"edges": [[0, 99]]}, r"edges: \[0, 99\] must be a pair of indices"),
        ({"root": True}, "root=True must be an integer"),
        ({"root": 99}, "root=99 must be an index into idx_to_symbol"),
        ({"edges": [[0]]}, r"edges: \[0\] must be a pair of indices"),
        ({"edges": [[0, -1]]}, r"edges\[0\]\[1\]=-1 must be at least 0"),
        ({"extra": 1}, "unknown field 'extra'"),
        ({"idx_to_symbol": ["a", "a"]}, "idx_to_symbol must be different words"),
        ({"answer": "Nobody is a thing."}, "answer 'Nobody is a thing.' is wrong"),
        ({"edges": [[0, 1]]}, "edges: 1 that are not the question's"),
        ({"target": 0}, "root, target, neg_target: "),
    ],
)
def test_bad_rows_are_named(tmp_path, problems, change, message):
    path = tmp_path / "problems.json"
    path.write_text(json.dumps([as_row(problems[0]), {**as_row(problems[1]), **change}]))
    with pytest.raises(UserError, match=f"problems.json: row 1: {message}"):
        load_problems(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"{", "not JSON"),
        (b"\xff\xfe[", "not UTF-8"),
        (b"[]", "no problems"),
        (b"{}", "no problems"),
        (b"[3]", "row 0: must be a table of fields"),
        (b"[{}]", "row 0: no value for question, answer"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    path = tmp_path / "problems.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=f"problems.json: {message}"):
        load_problems(path)


@needs_prosqa
def test_published_problems_are_verified_and_their_words_can_be_trained_on():
    published = load_problems(PROSQA)
    assert len(published) == 300
    lexicon = Lexicon.of(published)
    assert (len(lexicon.names), len(lexicon.concepts)) == (17, 38)
    tokenizer = word_tokenizer(all_words(lexicon))
    for problem in [*published, *generate(50, seed=0, lexicon=lexicon, exclude=published)]:
        text = TEXT_FORMAT.prompt(problem) + TEXT_FORMAT.continuation(problem)
        assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@needs_prosqa
def test_like_the_published_problems(problems):
    """Every figure has the published distribution, and a mean within a tenth (a quarter where it is small)."""
    one = [structure(problem) for problem in load_problems(PROSQA)]
    other = [structure(problem) for problem in problems]
    for figure in one[0]:
        published, generated = ([figures[figure] for figures in side] for side in (one, other))
        assert difference(published, generated) < 5, figure
        mean = sum(published) / len(published)
        assert sum(generated) / len(generated) == pytest.approx(mean, rel=0.25 if mean < 2 else 0.1), figure


@needs_prosqa
def test_the_comparison_sees_a_difference(problems):
    published = load_problems(PROSQA)
    assert difference([len(problem.steps) for problem in published], [4] * 3000) > 20
    three_more = [len(problem.graph.edges) + 3 for problem in problems]
    assert difference([len(problem.graph.edges) for problem in published], three_more) > 5
