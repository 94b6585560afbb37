"""What `limelm convert` writes is read by everything else, and what it refuses leaves nothing behind."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from peft import LoraConfig
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PreTrainedModel

from limelm import HyperConnectionConfig, HyperConnectionForCausalLM, LimeForCausalLM, attach, save_adapter
from limelm.adapters.routers import AttachedKeyValueRouter
from limelm.cli import main
from limelm.cli.main import COMMANDS
from limelm.data.dataset import load_prepared_tokenizer
from limelm.loading import load_model
from tests.cli.test_cli import fails
from tests.families import GROUPED, router_parameters, tokens, train_routers
from tests.recipes import prepared

GENERATION = {"eos_token_id": [0, 1], "temperature": 0.6, "do_sample": True}
BRIEF = ["--steps", "2", "--sequence-length", "32", "--batch-size", "2", "--micro-batch-size", "2"]


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A Llama with its tokenizer, and adapters for it."""
    folder = tmp_path_factory.mktemp("convert")
    tokenizer = load_prepared_tokenizer(prepared(folder / "tokens"))
    tokenizer.chat_template = "{{ messages }}"
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(LlamaConfig(**{**GROUPED, "vocab_size": len(tokenizer)}))
    for dtype in ("float32", "bfloat16"):
        base.to(getattr(torch, dtype)).save_pretrained(folder / dtype)
        tokenizer.save_pretrained(folder / dtype)
        (folder / dtype / "generation_config.json").write_text(json.dumps(GENERATION))
    for routing in ("kv", "static"):
        save_adapter(trained(folder / "float32", routing), folder / routing)
    save_adapter(trained(folder / "bfloat16"), folder / "brief")
    model = trained(folder / "float32")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight.mul_(1.5)  # a weight that was trained beside the routers
    model.add_adapter(LoraConfig(r=2, target_modules=["k_proj"], init_lora_weights=False))
    save_adapter(model, folder / "lora")
    hyper = HyperConnectionForCausalLM(HyperConnectionConfig(**{**GROUPED, "vocab_size": len(tokenizer)}))
    for thing in (hyper, tokenizer):
        thing.save_pretrained(folder / "hc")
    return folder


def trained(base: Path, routing: str = "kv", **options):
    model = train_routers(attach(load_model(base), routing, **options))
    with torch.no_grad():
        for name, parameter in router_parameters(model).items():
            if name.endswith("gate"):
                parameter.fill_(0.4)
            elif base.name == "bfloat16":
                parameter.mul_(0.01)  # so that what they do is less than bfloat16 can tell
    return model


def converted(source: Path, out: Path) -> Path:
    assert main(["convert", str(source), "--out", str(out)]) == 0
    return out


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    return load_model(folder)(tokens()).logits


@pytest.mark.parametrize("adapter", ["kv", "static", "lora"])
def test_there_and_back(made, adapter, tmp_path, capsys):
    native = converted(made / adapter, tmp_path / "deep" / "native")
    kind = "static" if adapter == "static" else "kv"
    out = capsys.readouterr().out
    assert f"{native}: native, routing='{kind}'; the largest difference between logits is" in out
    back = converted(native, tmp_path / "back")
    assert "a Llama in base/ and its adapter; the largest difference" in capsys.readouterr().out
    assert isinstance(load_model(native), LimeForCausalLM)
    for folder in (native, back):
        torch.testing.assert_close(logits(folder), logits(made / adapter), atol=2e-6, rtol=1e-5)
    moved = back.rename(tmp_path / "moved")  # an adapter finds the base that lies in it, wherever that is
    torch.testing.assert_close(logits(moved), logits(native), atol=2e-6, rtol=1e-5)
    assert sorted(path.name for path in tmp_path.rglob(".*")) == []


def test_cards_say_where_models_come_from(made, tmp_path):
    native = converted(made / "kv", tmp_path / "native")
    back = converted(native, tmp_path / "back")
    cards = {folder: ModelCard.load(folder / "README.md") for folder in (native, back, back / "base")}
    assert "made it of a model with an adapter" in cards[native].text and "2502.09245" in cards[native].text
    assert "was not trained to be used without it" in cards[back / "base"].text
    assert cards[back].data.library_name == "limelm" and cards[native].data.tags == ["limelm", "lime", "kv"]
    assert not any(str(tmp_path) in str(card) or str(made) in str(card) for card in cards.values())


def test_what_was_made_as_json(made, tmp_path, capsys):
    assert main(["convert", str(made / "kv"), "--out", str(tmp_path / "native"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == set(COMMANDS["convert"].KEYS)
    assert facts["made"] == "checkpoint" and 0 <= facts["largest_difference"] < 1e-4 * facts["largest_logit"]


def test_tokenizer_and_generation_config_come_along(made, tmp_path):
    native = converted(made / "kv", tmp_path / "native")
    back = converted(native, tmp_path / "back")
    for folder in (native, back / "base"):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert tokenizer.chat_template == "{{ messages }}"
        assert tokenizer("def main").input_ids == AutoTokenizer.from_pretrained(made / "float32")("def main").input_ids
        generation = AutoModelForCausalLM.from_pretrained(folder).generation_config
        assert {key: getattr(generation, key) for key in GENERATION} == GENERATION


def test_what_is_written_is_a_checkpoint_like_any_other(made, tmp_path, capsys):
    native = converted(made / "kv", tmp_path / "native")
    back = converted(native, tmp_path / "back")
    for folder in (native, back):
        assert main(["generate", str(folder), "Document", "--max-new-tokens", "2"]) == 0
    induction = ["--tasks", "induction", "--limit", "4", "--out", str(tmp_path / "scores")]
    assert main(["eval", str(native), str(back), *induction]) == 0
    scores = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"]
    assert len(scores) == 2 and scores[0]["accuracy"] == scores[1]["accuracy"]


def test_a_trained_adapter_is_converted(made, tmp_path):
    source = ["--from", str(made / "float32"), "--data", str(made / "tokens")]
    assert main(["train", "attach", "--model", "kv", *source, *BRIEF, "--out", str(tmp_path / "run")]) == 0
    native = converted(tmp_path / "run", tmp_path / "native")
    torch.testing.assert_close(logits(native), logits(tmp_path / "run"), atol=2e-6, rtol=1e-5)


def test_bfloat16_stays(made, tmp_path, capsys):
    native = converted(made / "brief", tmp_path / "native")
    assert {parameter.dtype for parameter in load_model(native).parameters()} == {torch.bfloat16}
    difference = float(capsys.readouterr().out.split("logits is ")[1].split()[0])
    assert 0 < difference < 1e-3
    assert load_model(converted(native, tmp_path / "back")).dtype == torch.bfloat16


@pytest.mark.parametrize("adapter", ["kv", "brief"])
def test_a_conversion_that_is_not_equal_is_refused(made, adapter, tmp_path, capsys, monkeypatch):
    """Even where the routers do less than the rounding of the weights."""
    native_state = AttachedKeyValueRouter.native_state

    def without_weights(router):
        empty = copy.deepcopy(router)
        with torch.no_grad():
            empty.weight.zero_()
        return native_state(empty)

    monkeypatch.setattr(AttachedKeyValueRouter, "native_state", without_weights)
    line = fails(capsys, "convert", made / adapter, "--out", tmp_path / "out")
    assert "the logits would differ by" in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt, 130), (OSError(28, "No space left"), 2)])
@pytest.mark.parametrize("adapter", ["kv", "native"])
def test_nothing_is_half_written(made, adapter, error, code, tmp_path, capsys, monkeypatch):
    source = converted(made / "kv", tmp_path / "native") if adapter == "native" else made / adapter
    before = sorted(tmp_path.iterdir())

    def stopped(*arguments, **options):
        raise error

    # A base is written after its adapter.
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", stopped)
    capsys.readouterr()
    fails(capsys, "convert", source, "--out", tmp_path / "out", code=code)
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_is_no_bug(made, tmp_path, capsys, monkeypatch):
    def full(*arguments, **options):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    assert "No space left" in fails(capsys, "convert", made / "kv", "--out", tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_be_there_already(made, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    converted(made / "kv", tmp_path / "link")
    assert (tmp_path / "empty" / "config.json").is_file() and (tmp_path / "link").is_symlink()


def test_bad_input_is_one_line_and_leaves_nothing(made, tmp_path, capsys, monkeypatch):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for source, out, message in (
        ("float32", tmp_path / "out", "neither an adapter nor a native LIMe checkpoint (model_type='llama')"),
        ("hc", tmp_path / "out", "neither an adapter nor a native LIMe checkpoint (model_type='hyper_connection')"),
        ("nowhere", tmp_path / "out", "nowhere: "),
        ("kv", tmp_path / "full", "already holds other files (file)"),
        ("kv", ".", "--out: . is the folder that you are in"),
        ("kv", made / "kv" / "converted", "which is read; name another folder"),
    ):
        assert message in fails(capsys, "convert", made / source, "--out", out)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "here"]


@pytest.mark.parametrize("source", ["hc", "float32", "nowhere", "no tokenizer"])
def test_what_can_be_known_is_refused_before_weights_are_read(made, tmp_path, capsys, monkeypatch, source):
    if source == "no tokenizer" and not (made / source).exists():
        ignored = shutil.ignore_patterns("tokenizer*")
        shutil.copytree(made / "hc", made / source, ignore=ignored)
    monkeypatch.setattr(PreTrainedModel, "from_pretrained", lambda *_, **__: pytest.fail("weights were read"))
    line = fails(capsys, "convert", made / source, "--out", tmp_path / "out")
    assert source in line and not (tmp_path / "out").exists()
