import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from limelm.data.prepare import prepare
from limelm.errors import UserError
from limelm.evaluation import domains
from limelm.evaluation.domains import (
    TextRequest,
    check_text,
    choose_window,
    named_paths,
    perplexity_rows,
    score_domains,
)
from limelm.evaluation.generated import WORDS
from limelm.evaluation.loading import load_for_evaluation
from limelm.evaluation.perplexity import TextScore, score_path
from limelm.evaluation.statistics import TOO_FEW
from limelm.loading import find_checkpoints, load_checkpoint
from tests.evaluation.benchmarks import write_checkpoint

TEXTS = [" ".join(WORDS[i : i + 4 + 3 * i]) for i in range(12)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("domains")
    write_checkpoint(folder / "static", "static", max_position_embeddings=64)
    write_checkpoint(folder / "kv", "kv_gqa", max_position_embeddings=48)
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS)
    (folder / "words.jsonl").write_text(lines)
    (folder / "one.txt").write_text(TEXTS[-1])
    return folder


def run(folder, out, checkpoint="static", limit=None, **request):
    """Score a checkpoint on domains; the scores and how they were read."""
    checkpoint = str(folder / checkpoint)
    reading = check_text(TextRequest(**request), find_checkpoints([checkpoint]), limit)
    loaded = load_for_evaluation(checkpoint, "model", torch.device("cpu"))
    return score_domains(loaded, reading, out), reading


def test_domains_are_named_or_take_the_name_of_their_file():
    arguments = ["a b=x/y.txt", "x/wiki-00.jsonl.gz", "x/v1.2/", "Notes.TXT", "eq=a=b.txt"]
    assert named_paths(arguments) == {
        "a b": Path("x/y.txt"),
        "wiki-00": Path("x/wiki-00.jsonl.gz"),
        "v1.2": Path("x/v1.2"),
        "Notes": Path("Notes.TXT"),
        "eq": Path("a=b.txt"),
    }
    assert list(named_paths(["."])) == [Path.cwd().name]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a/x.txt", "b/x.jsonl"], "two domains are called 'x'"),
        (["x=a.txt", "x=b.txt"], "two domains are called 'x'"),
        (["=a.txt"], "'=a.txt' is not NAME=PATH or PATH"),
        (["x="], "'x=' is not NAME=PATH or PATH"),
        ([""], "'' is not NAME=PATH or PATH"),
        (["a\x1bb=x.txt"], r"the name a\\x1bb must be a text without control characters"),
        (["x\n.txt"], r"the name x\\x0a must be a text without control characters"),
    ],
)
def test_names_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        named_paths(arguments)


def test_the_window_is_the_smallest_context_and_the_stride_half_of_it(folder):
    checkpoints = [str(folder / name) for name in ("static", "kv")]
    found = find_checkpoints(checkpoints)
    windows = lambda **request: choose_window(TextRequest(**request), found)  # noqa: E731
    assert windows() == (48, 24)
    assert windows(window=17) == (17, 8)
    assert windows(window=2) == (2, 1)
    assert windows(stride=47) == (48, 47)
    long = str(write_checkpoint(folder / "long", "none", max_position_embeddings=4096))
    assert check_text(TextRequest(), find_checkpoints([long]), None).window == 1024
    assert check_text(TextRequest(window=4096), find_checkpoints([long]), None).window == 4096


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        ({"window": 49}, r"--window: 49 tokens, but the context of .*kv holds 48"),
        ({"window": 32, "stride": 32}, "--stride: 32 must be from 1 to 31, less than the window of 32 tokens"),
        ({"stride": 48}, "--stride: 48 must be from 1 to 47"),
        ({"paths": {"x": Path("nowhere")}}, "nowhere: no such file or folder"),
    ],
)
def test_what_cannot_be_read_is_refused_before_any_model_runs(folder, request_, message):
    with pytest.raises(UserError, match=message):
        check_text(TextRequest(**request_), find_checkpoints([str(folder / name) for name in ("static", "kv")]), None)


def test_text_that_is_none_is_refused(folder, tmp_path):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "broken.jsonl").write_text('{"text": "a"}\n{"content": "b"}\n')
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "empty.txt": "no text to score",
        "broken.jsonl": "no field 'text'",
        "latin.txt": "not UTF-8",
        "folder": "no file ending in",
    }.items():
        with pytest.raises(UserError, match=message):
            check_text(TextRequest({"x": tmp_path / name}), find_checkpoints([str(folder / "static")]), None)
    found = find_checkpoints([str(folder / "static")])
    assert check_text(TextRequest({"x": tmp_path / "broken.jsonl"}), found, 1)  # reads no further


def test_shards_must_be_those_of_every_model(folder, tmp_path):
    checkpoint = str(folder / "static")
    [domain] = check_text(TextRequest({"x": folder / "tokens"}), find_checkpoints([checkpoint]), None).domains
    assert domain.fingerprint
    prepare(tmp_path / "other", lambda: TEXTS, "words", vocab_size=300, validation_fraction=0.3)
    with pytest.raises(UserError, match=r"other: its tokens were made with another tokenizer than .*static's"):
        check_text(TextRequest({"x": tmp_path / "other"}), find_checkpoints([checkpoint]), None)
    write_checkpoint(tmp_path / "own", "none")
    shard = next((tmp_path / "tokens").glob("validation-*.bin"))
    shard.write_bytes(shard.read_bytes()[::-1])
    with pytest.raises(UserError, match="its hash is not the manifest's"):
        check_text(TextRequest({"x": tmp_path / "tokens"}), find_checkpoints([str(tmp_path / "own")]), None)


def files(out):
    return {path.name: path.read_bytes() for path in sorted((out / "items").rglob("*.json"))}


def test_records_hold_the_scores_to_the_last_digit_and_two_runs_leave_the_same_bytes(folder, tmp_path):
    paths = {"words": folder / "words.jsonl", "held/out": folder / "tokens"}
    first, reading = run(folder, tmp_path / "first", paths=paths)
    kept, _ = run(folder, tmp_path / "first", paths=paths)
    second, _ = run(folder, tmp_path / "second", paths=paths)
    assert first == kept == second and files(tmp_path / "first") == files(tmp_path / "second")
    names = list(files(tmp_path / "first"))
    assert len(names) == 2 and "words-perplexity.json" in names
    model, tokenizer = load_checkpoint(folder / "static")
    assert first["words"] == score_path(model, tokenizer, folder / "words.jsonl", reading.window, reading.stride)


def test_an_interrupted_evaluation_goes_on_with_the_next_domain(folder, tmp_path, monkeypatch):
    paths = dict.fromkeys(("a", "b", "c"), folder / "words.jsonl")
    ran = []

    def interrupted(model, tokenizer, path, *rest, description):
        if len(ran) == 2:
            ran.append("interrupted")
            raise KeyboardInterrupt
        ran.append(description)
        return score_path(model, tokenizer, path, *rest, description=description)

    monkeypatch.setattr(domains, "score_path", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(folder, tmp_path, paths=paths)
    assert list(files(tmp_path)) == ["a-perplexity.json", "b-perplexity.json"]
    run(folder, tmp_path, paths=paths)
    assert ran == ["model: a", "model: b", "interrupted", "model: c"]


@pytest.mark.parametrize("change", ["window", "stride", "limit", "weights", "text", "half a file", "nothing", "path"])
def test_what_would_change_the_scores_is_run_again(change, folder, tmp_path, monkeypatch):
    write_checkpoint(tmp_path / "model", "none")
    text = tmp_path / "text.jsonl"
    text.write_bytes((folder / "words.jsonl").read_bytes())
    options = {"checkpoint": "model", "paths": {"x": text}, "window": 16, "stride": 8, "limit": 5}
    run(tmp_path, tmp_path / "out", **options)
    if change in options:
        options[change] += 1
    elif change == "weights":
        model, _ = load_checkpoint(tmp_path / "model")
        model.model.norm.weight.data[0] += 1e-3
        model.save_pretrained(tmp_path / "model")
    elif change == "text":
        text.write_text(text.read_text().replace("apple", "onion", 1))
    elif change == "half a file":
        [path] = (tmp_path / "out" / "items").rglob("*.json")
        path.write_text(path.read_text()[:-20])
    elif change == "path":  # the same text elsewhere is the same
        options["paths"] = {"x": text.rename(tmp_path / "moved.jsonl")}
    ran = []
    monkeypatch.setattr(domains, "score_path", lambda *rest, **more: (ran.append(1), score_path(*rest, **more))[1])
    run(tmp_path, tmp_path / "out", **options)
    run(tmp_path, tmp_path / "out", **options)
    assert ran == ([] if change in ("nothing", "path") else [1])


def test_rows_by_hand(folder, tmp_path):
    paths = {"words": folder / "words.jsonl", "one": folder / "one.txt"}
    (first, reading), (second, _) = (
        run(folder, tmp_path / name, name, paths=paths, window=32) for name in ("static", "kv")
    )
    rows = perplexity_rows({"static": first, "kv": second}, reading)
    assert [(row["domain"], row["model"]) for row in rows] == [
        (domain, model) for domain in ("words", "one") for model in ("static", "kv")
    ]
    of_static, of_kv, _, alone = rows
    assert of_static["difference"] is of_static["verdict"] is None
    sizes = np.array([len(text.encode()) for text in TEXTS])
    assert of_kv["bytes"] == sizes.sum() and of_kv["documents"] == len(TEXTS)
    per_document = (np.array(second["words"].nats) - np.array(first["words"].nats)) / math.log(2)
    mean = per_document.sum() / sizes.sum()
    # The delta method: the scatter of each document's own part in the ratio.
    margin = (
        stats.t.ppf(0.975, len(sizes) - 1)
        * len(sizes) ** 0.5
        * np.std(per_document - mean * sizes, ddof=1)
        / sizes.sum()
    )
    assert (
        of_kv["difference"] == pytest.approx(mean) == pytest.approx(of_kv["bits_per_byte"] - of_static["bits_per_byte"])
    )
    assert [of_kv["difference_low"], of_kv["difference_high"]] == pytest.approx([mean - margin, mean + margin])
    assert alone["documents"] == 1 and alone["difference"] is not None
    assert [alone[key] for key in ("low", "high", "difference_low", "difference_high")] == [None] * 4
    assert alone["verdict"] == TOO_FEW


def three_models(documents):
    """Scores of models of which the second is lower in every document by nearly the same, the third now and then."""
    tokens, sizes = [10] * documents, [40] * documents
    base = np.linspace(20, 23, documents)
    small = np.resize([0.1, -0.1], documents)
    score = lambda nats: {"x": TextScore(nats.tolist(), tokens, sizes)}  # noqa: E731
    return {"a": score(base), "b": score(base - 1 + small), "c": score(base + 20 * small)}


def test_verdicts_say_which_way_and_by_how_much(folder):
    reading = check_text(TextRequest({"x": folder / "words.jsonl"}), find_checkpoints([str(folder / "static")]), None)
    _, lower, same = perplexity_rows(three_models(12), reading)
    assert lower["verdict"] == f"lower by {1 / 40 / math.log(2):.3f} bits per byte"
    assert same["verdict"] == "not distinguishable"


@pytest.mark.parametrize("documents", [1, 2, 4, 9])
def test_of_fewer_than_ten_documents_there_is_no_verdict(folder, documents):
    reading = check_text(TextRequest({"x": folder / "words.jsonl"}), find_checkpoints([str(folder / "static")]), None)
    first, lower, same = perplexity_rows(three_models(documents), reading)
    assert lower["verdict"] == same["verdict"] == TOO_FEW and first["verdict"] is None
    assert (lower["difference_low"] is None) == (documents == 1)
