import json
import subprocess
import sys

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from limelm.analysis import ANALYSES, ActivationReader, Settings, analyze, cka, matrix_entropy
from limelm.analysis.sequences import Sequences
from limelm.data.dataset import TokenDataset
from limelm.errors import UserError
from limelm.loading import load_checkpoint, model_labels
from tests.analysis.models_on_text import CHECKPOINTS, write_study, write_text

CPU = torch.device("cpu")
SMALL = {"tokens": 320, "sequence_length": 16, "occurrences": 12}
RETRIEVAL = {
    "mean_retrieval",
    "self_retrieval",
    "self_retrieval_by_layer",
    "expected_source",
    "layer_mass",
    "weights",
}
EFFECTS = {"cell_effects", "route_effects", "weight_and_effect", "effect_estimates", "effects_by_token"}
PER_LAYER = {"entropy", "effective_rank", "separability", "tsne", "cosine", "cka", "logit_lens", "gradients"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_study(tmp_path_factory.mktemp("analysis"))


def last(*arguments, **settings):
    *_, analysis = analyze(*arguments, Settings(**{**SMALL, **settings}), CPU)
    return analysis


@pytest.fixture(scope="module")
def everything(folder):
    return last([str(folder / name) for name in CHECKPOINTS], [folder / "tokens"])


def test_every_measure_of_every_model(everything):
    of_some = {"circuits", "pruned_weights", "retrieval_under_top_p"}
    assert set(everything.records) == RETRIEVAL | EFFECTS | PER_LAYER | of_some
    for name in PER_LAYER:
        assert list(dict.fromkeys(row["model"] for row in everything.records[name])) == list(CHECKPOINTS), name
    for name in RETRIEVAL:
        weighing = {row["model"] for row in everything.records[name]}
        assert weighing == {"static", "top-p", "dynamic", "kv", "dense", "blocks (sublayers)"}, name
    for name in EFFECTS:
        weighing = {row["model"] for row in everything.records[name]}
        assert weighing == {"static", "top-p", "dynamic", "kv", "dense", "blocks"}, name
    assert {row["model"] for row in everything.records["circuits"]} == {"dynamic"}
    assert {row["model"] for row in everything.records["pruned_weights"]} == {"top-p"}
    own = {row["model"] for row in everything.records["entropy"] if row["states"] == "values before routing"}
    assert own == {"static", "top-p", "dynamic", "kv"}
    assert json.dumps(everything.records["circuits"])  # numbers, not tensors
    assert {(note["model"], note["analysis"]) for note in everything.notes} == {
        *(("llama-like", name) for name in ("retrieval, effects", "circuits")),
        *(("hc", name) for name in ("retrieval, effects", "circuits")),
        *((name, "circuits") for name in ("static", "top-p", "kv", "dense", "blocks")),
    }


def test_facts(everything):
    assert everything.facts["sequences"] == 20 and everything.facts["tokens"] == 320
    routings = [None, None, "static", "static", "dynamic", "kv", None, None]
    assert [model["routing"] for model in everything.models] == routings
    assert all(model["num_layers"] == 4 and model["hidden_size"] == 32 for model in everything.models)
    assert not any("tokenizers" in caution for caution in everything.cautions)


def test_measures_are_those_of_the_functions_on_the_same_sample(everything, folder):
    model, tokenizer = load_checkpoint(folder / "kv")
    sequences = Sequences([folder / "tokens"], tokenizer, 16)
    held_out = TokenDataset(folder / "tokens", "validation", 16)
    sample = torch.stack([ids for ids, _ in zip(sequences.sample(), range(20), strict=False)])
    everything_held_out = {tuple(held_out[i]["input_ids"].tolist()) for i in range(len(held_out))}
    assert all(tuple(ids.tolist()) in everything_held_out for ids in sample)
    seen = ActivationReader(model, "kv")(sample)
    Z = seen.values[2].double()
    flat = Z.flatten(0, 1)
    expected = matrix_entropy((Z - flat.mean(0)) / flat.std(0, unbiased=False)).mean()
    rows = {
        (row["states"], row["layer"]): row["entropy"] for row in everything.records["entropy"] if row["model"] == "kv"
    }
    assert rows["values", 2] == pytest.approx(float(expected), abs=1e-5)
    X, Y = (seen.hidden[i].flatten(0, 1) for i in (1, 3))
    chosen = torch.linspace(0, 319, 256).round().long()
    alignments = {(row["layer"], row["other"]): row["cka"] for row in everything.records["cka"] if row["model"] == "kv"}
    assert alignments[1, 3] == pytest.approx(cka(X[chosen], Y[chosen]), abs=1e-6)


def test_one_model_alone_gives_the_same_and_one_analysis_only_itself(everything, folder):
    alone = last([str(folder / "kv")], [folder / "tokens"], analyses=("cka", "retrieval"))
    assert set(alone.records) == RETRIEVAL | {"cka"}
    assert alone.records["cka"] == [row for row in everything.records["cka"] if row["model"] == "kv"]


@pytest.mark.parametrize("name", ["effects", "separability", "tsne"])
def test_the_text_that_was_read_is_told_whatever_was_asked_for_and_whichever_model_is_last(folder, name):
    names = ["kv", "llama-like"] if name == "effects" else ["kv"]
    facts = last([str(folder / each) for each in names], [folder / "tokens"], analyses=(name,)).facts
    assert facts["tokens"] == 16 * facts["sequences"] > 0
    assert name != "effects" or facts["sequences"] == 20


def test_weights_that_do_not_depend_on_tokens_are_read_without_text(folder):
    assert last([str(folder / "kv")], [folder / "tokens"], analyses=("retrieval",)).facts["tokens"] == 0


@pytest.mark.parametrize("name", ANALYSES)
def test_each_analysis_by_itself(folder, name):
    names = {"collapse": {"effective_rank", "cosine"}, "logit-lens": {"logit_lens"}, "retrieval": RETRIEVAL}
    names["effects"] = EFFECTS
    analysis = last([str(folder / "dynamic")], [folder / "tokens"], analyses=(name,))
    assert set(analysis.records) == names.get(name, {name})


def test_text_instead_of_shards_and_another_family(folder):
    _, tokenizer = load_checkpoint(folder / "kv")
    model = GPT2LMHeadModel(GPT2Config(vocab_size=400, n_embd=32, n_layer=2, n_head=2, n_positions=32))
    model.save_pretrained(folder / "gpt2")
    tokenizer.save_pretrained(folder / "gpt2")
    analysis = last([str(folder / "gpt2"), str(folder / "kv")], [folder / "text.txt"])
    assert {row["model"] for row in analysis.records["entropy"]} == {"gpt2", "kv"}
    text = (folder / "text.txt").read_text()
    ids = [0, *tokenizer(text, add_special_tokens=False).input_ids, 1]
    first = next(Sequences([folder / "text.txt"], tokenizer, 16).sample())
    assert first.tolist() == ids[:16]
    pieces = list(Sequences([folder / "text.txt"], tokenizer, 16).everything())
    assert torch.cat(pieces).tolist() == ids[: len(ids) // 16 * 16]


def test_default_words_that_are_missing_are_noted_and_the_rest_is_made(folder, tmp_path):
    (tmp_path / "text.txt").write_text("so it goes on " * 300)
    analysis = last([str(folder / "kv")], [tmp_path / "text.txt"])
    assert "separability" not in analysis.records and "entropy" in analysis.records
    (note,) = [note for note in analysis.notes if "tsne" in note["analysis"]]
    assert "no occurrences of 'is'" in note["reason"]


def test_labels_that_agree_are_told_apart_by_their_paths(folder, tmp_path):
    (tmp_path / "kv").symlink_to(folder / "static")
    analysis = last([str(folder / "kv"), str(tmp_path / "kv")], [folder / "tokens"], analyses=("retrieval",))
    assert [model["label"] for model in analysis.models] == [f"kv ({folder.name})", f"kv ({tmp_path.name})"]


@pytest.mark.parametrize(
    ("names", "labels"),
    [
        (["a", "b"], ["a", "b"]),
        (["a/m", "b/m"], ["m (a)", "m (b)"]),
        (["a/x/m", "b/x/m"], ["m (a/x)", "m (b/x)"]),
        (["trained/one", "trained/two"], ["LIMe KV (one)", "LIMe KV (two)"]),
        (["trained/one", "a/trained/one"], ["LIMe KV (HERE/trained/one)", "LIMe KV (a/trained/one)"]),
    ],
)
def test_labels_hold_no_more_of_the_paths_than_tells_them_apart(tmp_path, monkeypatch, names, labels):
    monkeypatch.chdir(tmp_path)
    for path in (tmp_path / name for name in names if "trained" in name):
        path.mkdir(parents=True)
        (path / "result.json").write_text('{"label": "LIMe KV", "steps": 3}')
    for checkpoints in (names, [str(tmp_path / name) for name in names]):
        assert model_labels(checkpoints) == [label.replace("HERE", tmp_path.name) for label in labels]


@pytest.mark.parametrize(
    ("checkpoints", "data", "settings", "message"),
    [
        (["llama-like"], "tokens", {"analyses": ("retrieval",)}, "--only retrieval: no routers in .*llama-like"),
        (["static"], "tokens", {"analyses": ("circuits",)}, "--only circuits: .*static has no dynamic routers"),
        (["kv"], "tokens", {"words": ("is", "zebra")}, "--words: 'zebra' is [0-9]+ tokens"),
        (["kv"], "short.txt", {}, "short.txt: fewer tokens than one sequence of 16"),
        (["kv"], "tokens", {"sequence_length": 64}, "its context of 32 tokens is shorter than --sequence-length 64"),
        (["nowhere"], "tokens", {}, "nowhere: no such folder, and no readable model of the Hugging Face hub"),
        (["kv", "kv"], "tokens", {}, "kv: named twice"),
        (["other"], "tokens", {}, "tokens: its tokens were made with another tokenizer than .*other's"),
        (["nan"], "tokens", {}, "nan: model.layers.0.mlp.down_proj.weight holds NaN or infinite values"),
    ],
)
def test_bad_input(folder, checkpoints, data, settings, message):
    (folder / "short.txt").write_text("so it goes")
    if checkpoints == ["other"]:
        other = write_study(folder / "elsewhere") / "kv"
        tokenizer = json.loads((other / "tokenizer.json").read_text())
        tokenizer["model"]["merges"].pop()
        tokenizer["model"]["vocab"].pop(max(tokenizer["model"]["vocab"], key=tokenizer["model"]["vocab"].get))
        (other / "tokenizer.json").write_text(json.dumps(tokenizer))
        other.rename(folder / "other")
    if checkpoints == ["nan"]:
        model, tokenizer = load_checkpoint(folder / "kv")
        model.model.layers[0].mlp.down_proj.weight.data.fill_(torch.nan)
        model.save_pretrained(folder / "nan")
        tokenizer.save_pretrained(folder / "nan")
    with pytest.raises(UserError, match=message):
        last([str(folder / name) for name in checkpoints], [folder / data], **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"analyses": ("entropie",)}, "--only: 'entropie' is not one of retrieval, entropy"),
        ({"alpha": -1.0}, "--alpha: -1.0 must be a positive number"),
        ({"alpha": float("nan")}, "--alpha: nan must be"),
        ({"sequence_length": 2}, "--sequence-length: 2 must be at least 8"),
        ({"words": ("is",)}, "--words: is is one word; give two or more"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(UserError, match=message):
        Settings(**settings)


MEASURE = """
import resource, sys, torch
from pathlib import Path
from types import SimpleNamespace
from limelm.analysis import Settings, analyze
torch.set_num_threads(1)
peaks = []
for tokens in (4_096, 131_072):
    settings = Settings(tokens=tokens, sequence_length=32, occurrences=20, analyses=tuple(sys.argv[3:]))
    for analysis in analyze([sys.argv[1]], [Path(sys.argv[2])], settings, torch.device("cpu")):
        assert analysis.facts["tokens"] == tokens
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] - peaks[0])
"""


def test_memory_does_not_grow_with_the_data(folder, tmp_path):
    """The activations of the longer sample would be 13 x 131,072 x 32 x 4 bytes, 208 MiB."""
    text = write_text(tmp_path / "long.txt", 40_000)
    names = [name for name in ANALYSES if name not in ("tsne", "separability")]
    arguments = [sys.executable, "-c", MEASURE, str(folder / "dynamic"), str(text), *names]
    grown = int(subprocess.run(arguments, capture_output=True, text=True, check=True).stdout)
    assert grown / 1024 < 40, f"{grown / 1024:.0f} MiB"
