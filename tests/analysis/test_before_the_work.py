"""What `limelm analyze` refuses, it refuses before any model is read, whichever of the models is to blame."""

import json
import shutil
import sys

import pytest
import torch

from limelm.analysis import ANALYSES, Settings, analyze, checkpoints
from limelm.errors import UserError
from tests.analysis.models_on_text import write_study

CPU = torch.device("cpu")
SMALL = {"tokens": 320, "sequence_length": 16, "occurrences": 12}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = write_study(tmp_path_factory.mktemp("analysis"))
    (folder / "short.txt").write_text("so it goes")
    shutil.copytree(folder / "kv", folder / "short context")
    config = json.loads((folder / "short context" / "config.json").read_text())
    (folder / "short context" / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 12}))
    shutil.copytree(folder / "kv", folder / "other")
    tokenizer = json.loads((folder / "other" / "tokenizer.json").read_text())
    merge = tokenizer["model"]["merges"].pop()
    del tokenizer["model"]["vocab"]["".join(merge)]
    (folder / "other" / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copytree(folder / "kv", folder / "no tokenizer", ignore=shutil.ignore_patterns("tokenizer*"))
    shutil.copytree(folder / "kv", folder / "no config", ignore=shutil.ignore_patterns("config.json"))
    shutil.copytree(folder / "kv", folder / "lora")
    (folder / "lora" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": str(folder / "kv"), "peft_type": "LORA"})
    )
    return folder


@pytest.fixture
def no_model(monkeypatch):
    def read(device, checkpoint):
        raise AssertionError(f"{checkpoint} was read")

    monkeypatch.setattr(checkpoints, "load_on", read)


def run(folder, names, data="tokens", **settings):
    chosen = Settings(**{**SMALL, **settings})
    return next(analyze([str(folder / name) for name in names], [folder / data], chosen, CPU))


@pytest.mark.parametrize(
    ("bad", "data", "settings", "message"),
    [
        ("short context", "tokens", {}, "context of 12 tokens is shorter than --sequence-length 16"),
        ("other", "tokens", {}, "tokens: its tokens were made with another tokenizer than .*other's"),
        ("no tokenizer", "tokens", {}, "no tokenizer: no readable tokenizer"),
        ("no config", "tokens", {}, "no config: not a checkpoint"),
        ("nowhere", "tokens", {}, "nowhere: no such folder"),
        ("static", "tokens", {"words": ("is", "zebra")}, "--words: 'zebra' is [0-9]+ tokens"),
        ("static", "nowhere", {}, "nowhere: no such file or folder"),
        ("static", "short.txt", {}, "fewer tokens than one sequence of 16"),
        ("static", "tokens", {"sequence_length": 33}, "context of 32 tokens is shorter"),
        ("static", "tokens", {"analyses": ("circuits",)}, "--only circuits: .* has no dynamic routers"),
        ("kv", "tokens", {}, "kv: named twice"),
    ],
)
def test_whichever_model_is_to_blame(folder, no_model, bad, data, settings, message):
    for names in (["kv", bad], [bad, "kv"]):
        with pytest.raises(UserError, match=message):
            run(folder, names, data, **settings)


def test_the_length_suits_all_models_unless_it_is_given(folder):
    for names in (["kv", "short context"], ["short context", "kv"]):
        found = run(folder, names, sequence_length=None, analyses=("cka",))
        assert found.facts["sequence_length"] == 12


@pytest.mark.parametrize(
    "settings",
    [{"analyses": ("tsne",)}, {"analyses": ("entropy", "separability")}, {"words": ("is", "was")}],
)
def test_what_needs_scikit_learn_and_was_named_is_refused(folder, no_model, monkeypatch, settings):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UserError, match=r"^--(only (tsne|separability)|words): scikit-learn is not installed; .*"):
        run(folder, ["kv"], **settings)


def test_without_scikit_learn_the_others_are_made_and_the_report_says_what_is_missing(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    found = run(folder, ["static"])
    assert not {"separability", "tsne"} & set(found.records)
    assert {"entropy", "effective_rank", "cosine", "cka", "logit_lens", "weights"} <= set(found.records)
    notes = {note["analysis"]: note["reason"] for note in found.notes}
    reason = notes["separability, tsne"]
    assert "pip install 'limelm[analysis]'" in reason and "pip install -e '.[analysis]'" in reason
    others = tuple(name for name in ANALYSES if name not in ("separability", "tsne", "circuits"))
    assert found.records.keys() == run(folder, ["static"], analyses=others).records.keys()


def test_a_lora_without_peft(folder, no_model, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match="peft is not installed; install it with: pip install 'limelm"):
        run(folder, ["kv", "lora"])


@pytest.mark.parametrize("occurrences", [1, 9])
def test_fewer_occurrences_than_folds_need(occurrences):
    with pytest.raises(UserError, match=f"--occurrences: {occurrences} must be at least 10"):
        Settings(occurrences=occurrences)


@pytest.mark.parametrize("name", ["static", "top-p", "dynamic", "kv"])
def test_routers_that_are_broken_are_refused_where_only_they_are_looked_at(folder, monkeypatch, name):
    load = checkpoints.load_on

    def broken(device, checkpoint):
        model, tokenizer = load(device, checkpoint)
        with torch.no_grad():
            next(p for n, p in model.named_parameters() if "layers.2.self_attn.router" in n).view(-1)[0] = torch.nan
        return model.train().eval(), tokenizer

    monkeypatch.setattr(checkpoints, "load_on", broken)
    with pytest.raises(UserError, match=f"^{name}: NaN or infinity in the "):
        run(folder, [name], analyses=("retrieval",))


def test_no_path_of_the_machine_is_published(folder):
    found = run(folder, ["kv", "static"], analyses=("retrieval",))
    said = json.dumps([found.models, found.facts])
    assert str(folder.parent) not in said and found.models[0]["checkpoint"] == "kv"
    assert found.facts["data"] == "tokens"


def test_fewer_tokens_than_one_sequence_are_refused(folder, no_model):
    with pytest.raises(UserError, match=r"--tokens: 3 must be at least one sequence of \d+ tokens"):
        run(folder, ["kv"], tokens=3)
