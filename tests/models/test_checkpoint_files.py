"""Checkpoints of strangers: whatever is wrong with one ends in one line that names it, and none of its code is run."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from limelm import LimeConfig, LimeForCausalLM, attach, save_adapter
from limelm.data.tokenization import train_tokenizer
from limelm.errors import UserError
from limelm.loading import load_checkpoint, load_config, load_model, load_tokenizer
from limelm.models.checkpoint_files import ConfigFields, read_known
from limelm.text import has_control_characters
from tests.families import GROUPED
from tests.recipes import corpus

ROWS = 300


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A checkpoint, a native one, and an adapter and a LoRA upon the first."""
    from peft import LoraConfig

    folder = tmp_path_factory.mktemp("checkpoints")
    tokenizer = train_tokenizer(corpus(), ROWS)
    for name, model in (
        ("llama", LlamaForCausalLM(LlamaConfig(**{**GROUPED, "vocab_size": ROWS}))),
        ("native", LimeForCausalLM(LimeConfig(**{**GROUPED, "vocab_size": ROWS}, routing="kv"))),
    ):
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    save_adapter(attach(load_model(folder / "llama")), folder / "adapter")
    model = load_model(folder / "llama")
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"]))
    model.save_pretrained(folder / "lora")
    for name in ("adapter", "lora"):
        change(folder / name, "base_model" if name == "adapter" else "base_model_name_or_path", "../llama")
    return folder


@pytest.fixture
def folder(whole, tmp_path, monkeypatch):
    copied = shutil.copytree(whole, tmp_path / "all")
    monkeypatch.chdir(copied / "llama")  # PEFT's base is named as from here
    return copied


def json_file(folder):
    return next(
        folder / name
        for name in ("lime_adapter.json", "adapter_config.json", "config.json")
        if (folder / name).exists()
    )


def change(folder, field, value, file=None):
    path = folder / file if file else json_file(folder)
    path.write_text(json.dumps({**json.loads(path.read_text()), field: value}))


def refused(path, load=load_model) -> str:
    """The one line that a checkpoint is refused with."""
    with pytest.raises(UserError) as raised:
        load(path)
    line = str(raised.value)
    assert path.name in line
    assert not has_control_characters(line)
    assert not any(bad in line for bad in ("weights_only=False", "above report", "trust_remote_code"))
    return line


def test_what_is_whole_is_read(folder):
    for name in ("llama", "native", "adapter", "lora"):
        load_model(folder / name)
    load_checkpoint(folder / "llama")


FIELDS = [
    ("hidden_size", 0), ("hidden_size", 2**62), ("hidden_size", "32"), ("hidden_size", 1.5), ("hidden_size", -4),
    ("num_hidden_layers", 10**9), ("num_attention_heads", 0), ("num_key_value_heads", -1), ("head_dim", 0),
    ("vocab_size", 0), ("vocab_size", True), ("intermediate_size", "x"), ("rms_norm_eps", math.inf),
    ("rms_norm_eps", math.nan), ("attention_dropout", 2), ("initializer_range", -1), ("hidden_act", 5),
    ("hidden_act", "nope"), ("hidden_act", None), ("dtype", "float17"), ("dtype", 3), ("rope_parameters", "x"),
    ("rope_parameters", {"rope_type": "nope", "rope_theta": 1e4}), ("rope_parameters", {"rope_type": []}),
    ("quantization_config", {"quant_method": "nope"}), ("quantization_config", {"quant_method": "gptq", "bits": 4}),
    ("quantization_config", "x"), ("architectures", 4), ("model_type", 5), ("model_type", None),
    ("model_type", "\x1b]0;owned\x07gpt"), ("model_type", "unheard-of"), ("attn_implementation", "someone/kernel"),
    ("tie_word_embeddings", "yes"), ("attached_routing", 5), ("attached_routing", {"routing": "nope"}),
    ("attached_routing", {"routing": "kv", "more": 1}),
]  # fmt: skip


@pytest.mark.parametrize("name", ["llama", "native"])
@pytest.mark.parametrize(("field", "value"), FIELDS, ids=str)
def test_a_field_that_cannot_be_is_named(folder, name, field, value):
    change(folder / name, field, value)
    line = refused(folder / name)
    assert field in line or "gptq" in line.lower()  # a package is missing


def test_what_other_families_say_by_default_is_not_refused(tmp_path):
    found = []
    for name in sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        try:
            CONFIG_MAPPING[name]().save_pretrained(tmp_path / name)
        except Exception:  # some have no default, or need a package
            continue
        read_known(tmp_path / name / "config.json", ConfigFields)
        found.append(name)
    assert len(found) > 100


@pytest.mark.parametrize("content", ["{", "[]", "null", "3", '"x"', "[" * 100_000, '{"a": ' * 100_000, "\0", ""])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llama", "config.json"),
        ("llama", "generation_config.json"),
        ("llama", "model.safetensors.index.json"),
        ("adapter", "lime_adapter.json"),
        ("lora", "adapter_config.json"),
    ],
)
def test_what_is_no_table_is_named_with_its_file(folder, name, file, content):
    (folder / name / file).write_text(content)
    assert file in refused(folder / name)


@pytest.mark.parametrize(
    ("field", "value"),
    [("eos_token_id", "x"), ("temperature", -1), ("top_p", 7), ("top_k", 1.5), ("num_beams", 0), ("do_sample", 3)],
)
def test_a_field_of_the_generation_is_named(folder, field, value):
    change(folder / "llama", field, value, "generation_config.json")
    assert f"generation_config.json: {field}=" in refused(folder / "llama")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("replaces", 5), ("replaces", None), ("replaces", [["x"]]), ("replaces", ["\x1b[2J"]), ("base_model", 5),
        ("base_model", "\x1b]0;x\x07"), ("base_model", "x" * 5000), ("base_model", "../../../../etc"), ("base", []),
        ("base", {"model_type": "llama", "parameters": -1, "sha256": "0" * 64}), ("routing", []), ("lora", "no"),
        ("routing_sources", {"first": 1}), ("routing_sources", [1]), ("format_version", 2), ("format_version", None),
        ("unheard_of", 1), ("resized", 3), ("resized", {"base": 1}),
    ],
    ids=str,
)  # fmt: skip
def test_a_field_of_an_adapter_is_named(folder, field, value):
    change(folder / "adapter", field, value)
    line = refused(folder / "adapter")
    assert "lime_adapter.json" in line
    assert field in line or field == "base_model"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("base_model_name_or_path", 5), ("base_model_name_or_path", None), ("peft_type", "NOPE"), ("peft_type", 5),
        ("r", 0), ("r", "x"), ("target_modules", ["unheard_of"]), ("target_modules", 5), ("modules_to_save", "x"),
        ("lora_alpha", "x"), ("megatron_config", {"a": 1}), ("unheard_of", 1), ("base_model_name_or_path", "\x1b[2J"),
    ],
    ids=str,
)  # fmt: skip
def test_a_lora_that_cannot_be_is_refused(folder, field, value):
    change(folder / "lora", field, value)
    if field != "unheard_of":  # PEFT itself ignores what a newer version wrote
        refused(folder / "lora")


def test_adapters_that_name_each_other_are_refused(folder):
    shutil.copytree(folder / "adapter", folder / "other")
    change(folder / "adapter", "base_model", "../other")
    change(folder / "other", "base_model", "../adapter")
    for load in (load_model, load_config, load_tokenizer):
        assert "an adapter that has this one for its base" in refused(folder / "adapter", load)
    change(folder / "other", "base_model", str(folder / "lora"))
    change(folder / "lora", "base_model_name_or_path", str(folder / "adapter"))
    assert "an adapter that has this one for its base" in refused(folder / "lora")


def test_code_is_refused_and_nobody_is_asked(folder, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    path = folder / "llama"
    (path / "theirs.py").write_text(f"open({str(folder / 'was-run')!r}, 'w')\n")
    change(path, "auto_map", {"AutoConfig": "theirs.Config", "AutoModelForCausalLM": "theirs.Model"})
    load_model(path)  # of a known type: the class is transformers'
    change(path, "model_type", "vit")  # known, but no language model
    with pytest.raises(ValueError, match="Unrecognized configuration class"):
        AutoModelForCausalLM.from_config(load_config(path))
    refused(path)
    change(path, "model_type", "theirs")
    assert "needs Python code of its own, which limelm does not run" in refused(path)
    change(folder / "native", "model_type", "lime-2")
    assert "this limelm has no such model; another version may have. It has lime, " in refused(folder / "native")
    assert not (folder / "was-run").exists()


class _Runs:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


def replace_weights(path, content: bytes, name: str = "pytorch_model.bin"):
    (path / "model.safetensors").unlink()
    (path / name).write_bytes(content)


def test_a_pickle_is_not_run(folder):
    path = folder / "llama"
    (path / "model.safetensors").unlink()
    torch.save({"model.norm.weight": _Runs(folder / "was-run")}, path / "pytorch_model.bin")
    assert "a pickle that holds more than tensors" in refused(path)
    assert not (folder / "was-run").exists()


HUGE = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [2**60], "data_offsets": [0, 2**62]}}).encode()


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 7, b"\xff" * 100, len(HUGE).to_bytes(8, "little") + HUGE, (2**40).to_bytes(8, "little"), None],
    ids=["empty", "short", "noise", "huge shape", "huge header", "cut off"],
)
def test_broken_weights_are_named_with_their_file(folder, content):
    path = folder / "llama" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert "model.safetensors" in refused(folder / "llama")


@pytest.mark.parametrize("content", [b"", b"x" * 100, b"PK\x03\x04" + b"0" * 50, b"\x80\x04."])
def test_weights_that_are_no_pickle_are_refused(folder, content):
    replace_weights(folder / "llama", content)
    refused(folder / "llama")


def test_a_shard_lies_in_the_folder_itself(folder):
    index = {"metadata": {}, "weight_map": {"model.norm.weight": "../native/model.safetensors"}}
    (folder / "llama" / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "weight_map.model.norm.weight='../native/model.safetensors' must be the name" in refused(folder / "llama")


def edit_weights(path, edit, name="model.safetensors"):
    tensors = load_file(path / name)
    edit(tensors)
    save_file(tensors, path / name, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.update({"model.norm.weight": torch.ones(3)}), r"model.norm.weight is (3,), not (32,)"),
        (lambda t: t.pop("model.norm.weight"), "missing keys: model.norm.weight"),
        (lambda t: t.update({"model.x": torch.ones(3)}), "unexpected keys: model.x"),
    ],
)
def test_weights_of_another_shape_are_named(folder, edit, message):
    edit_weights(folder / "llama", edit)
    assert message in refused(folder / "llama")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("llama", "model.safetensors"),
        ("native", "model.safetensors"),
        ("adapter", "lime_adapter.safetensors"),
        ("lora", "adapter_model.safetensors"),
    ],
)
def test_weights_that_are_not_finite_are_refused(folder, name, file, dtype, value):
    found = []

    def spoil(tensors):
        key = sorted(tensors)[-1]
        found.append(key)
        tensors[key] = tensors[key].to(dtype)
        tensors[key].view(-1)[-1] = value

    edit_weights(folder / name, spoil, file)
    line = refused(folder / name)
    assert "holds NaN or infinite values" in line
    assert name == "lora" or found[0] in line  # PEFT names its weights otherwise


def test_a_tokenizer_larger_than_the_vocabulary_is_refused(folder):
    load_checkpoint(folder / "native")
    LlamaForCausalLM(LlamaConfig(**{**GROUPED, "vocab_size": ROWS - 1})).save_pretrained(folder / "llama")
    line = refused(folder / "llama", load_checkpoint)
    assert f"token ids up to {ROWS - 1}, but its model has vocab_size={ROWS - 1}" in line
    LlamaForCausalLM(LlamaConfig(**{**GROUPED, "vocab_size": ROWS + 20})).save_pretrained(folder / "llama")
    load_checkpoint(folder / "llama")  # rows of padding


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\x1b[2J", "", "a/b/c/d"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(UserError) as raised:
        load_model(name)
    assert not has_control_characters(str(raised.value))
