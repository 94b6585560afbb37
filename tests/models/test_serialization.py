"""Models on disk: exact, found by the Auto classes, and usable without an import of the library."""

import copy
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

import limelm
from tests.models.variants import all_variants, tiny_model, token_ids


def assert_same_model(actual, expected) -> None:
    actual_state, expected_state = actual.state_dict(), expected.state_dict()
    assert actual_state.keys() == expected_state.keys()
    for name, value in expected_state.items():
        assert actual_state[name].dtype == value.dtype, name
        assert torch.equal(actual_state[name], value), name
    with torch.no_grad():
        assert torch.equal(actual(token_ids()).logits, expected(token_ids()).logits)


@all_variants
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_saving_and_loading_is_exact(variant, dtype, tmp_path):
    original = tiny_model(variant)
    original.save_pretrained(tmp_path / "fp32")
    model = type(original).from_pretrained(tmp_path / "fp32", dtype=dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    model.save_pretrained(tmp_path / "again")
    loaded = type(model).from_pretrained(tmp_path / "again")
    assert not loaded.training
    assert_same_model(loaded, model)
    if dtype == torch.float32:
        assert_same_model(loaded, original)


@all_variants
def test_untied_heads_are_saved(variant, tmp_path):
    model = tiny_model(variant, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    assert_same_model(type(model).from_pretrained(tmp_path), model)


@all_variants
def test_sharded_checkpoints(variant, tmp_path):
    model = tiny_model(variant)
    model.save_pretrained(tmp_path, max_shard_size="30KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    assert_same_model(type(model).from_pretrained(tmp_path), model)


@all_variants
def test_auto_classes(variant, tmp_path):
    model = tiny_model(variant)
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is type(model.config)
    assert_same_model(AutoModelForCausalLM.from_pretrained(tmp_path), model)
    decoder = AutoModel.from_pretrained(tmp_path)
    assert type(decoder) is type(model.model)
    with torch.no_grad():
        expected = model.model(token_ids()).last_hidden_state
        assert torch.equal(decoder(token_ids()).last_hidden_state, expected)
    assert type(AutoModelForCausalLM.from_config(model.config)) is type(model)
    assert type(AutoModel.from_config(model.config)) is type(model.model)


@all_variants
def test_a_decoder_saved_alone(variant, tmp_path):
    model = tiny_model(variant)
    model.model.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    assert_same_model(loaded, model)


@all_variants
def test_no_parameter_is_missing_or_unexpected(variant, tmp_path):
    model = tiny_model(variant)
    model.save_pretrained(tmp_path)
    _, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))


@all_variants
def test_copies(variant):
    model = tiny_model(variant)
    assert_same_model(copy.deepcopy(model), model)
    assert_same_model(pickle.loads(pickle.dumps(model)), model)


@all_variants
def test_a_state_dict_needs_no_unpickling(variant, tmp_path):
    model = tiny_model(variant)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    fresh = type(model)(model.config).eval()
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    assert_same_model(fresh, model)


# Every Auto class gets a process of its own that has not imported the library; forking pays transformers' import once.
REMOTE_CODE_SCRIPT = """
import os, sys, traceback, warnings
import torch
from pathlib import Path
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, GenerationMixin, LlamaForCausalLM

torch.set_num_threads(1)
checkpoints = Path(sys.argv[1])
ids = torch.load(checkpoints / "ids.pt", weights_only=True)

def use(auto_class, folder):
    assert "limelm" not in sys.modules
    loaded = auto_class.from_pretrained(folder, trust_remote_code=True)
    assert type(loaded).__module__.startswith("limelm."), type(loaded)
    again = folder / ("again_" + auto_class.__name__)
    loaded.save_pretrained(again)
    if auto_class is not AutoConfig:
        torch.save(loaded(ids)[0].detach(), again / "output.pt")

for folder in sorted(path for path in checkpoints.iterdir() if path.is_dir()):
    for auto_class in (AutoConfig, AutoModel, AutoModelForCausalLM):
        child = os.fork()
        if child == 0:
            try:
                use(auto_class, folder)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        if os.waitpid(child, 0)[1] != 0:
            sys.exit(f"{auto_class.__name__} failed on {folder.name}")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the script forks")
def test_remote_code_without_importing_the_library(tmp_path):
    checkpoints = tmp_path / "checkpoints"
    models = {variant: tiny_model(variant) for variant in ("static", "hc_dynamic")}
    for variant, model in models.items():
        model.save_pretrained(checkpoints / variant)
    torch.save(token_ids(), checkpoints / "ids.pt")
    library = str(Path(limelm.__file__).parents[1])
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONPATH": library}
    script = [sys.executable, "-c", REMOTE_CODE_SCRIPT, str(checkpoints)]
    subprocess.run(script, env=environment, cwd=tmp_path, check=True)

    for variant, model in models.items():
        folder = checkpoints / variant
        saved_config = json.loads((folder / "config.json").read_text())
        for name in ("AutoConfig", "AutoModel", "AutoModelForCausalLM"):
            again = folder / f"again_{name}"
            code = [path.name for path in again.rglob("*.py")]
            assert code == ["modeling_limelm.py"]  # no copies of the library's source
            assert (again / code[0]).read_text() == (folder / code[0]).read_text()
            assert json.loads((again / "config.json").read_text())["auto_map"] == saved_config["auto_map"]
        assert_same_model(type(model).from_pretrained(folder / "again_AutoModelForCausalLM"), model)
        assert_same_model(type(model).from_pretrained(folder / "again_AutoModel"), model)
        for name, expected in (
            ("AutoModel", model.model(token_ids())[0]),
            ("AutoModelForCausalLM", model(token_ids())[0]),
        ):
            output = torch.load(folder / f"again_{name}" / "output.pt", weights_only=True)
            assert torch.equal(output, expected)


def test_registering_for_an_auto_class_copies_no_source(tmp_path):
    model = tiny_model("static")
    type(model.config).register_for_auto_class()
    type(model).register_for_auto_class("AutoModelForCausalLM")
    model.save_pretrained(tmp_path)
    assert [path.name for path in tmp_path.glob("*.py")] == ["modeling_limelm.py"]


def test_the_saved_module_only_imports_the_library_and_registers_it(tmp_path):
    tiny_model("static").save_pretrained(tmp_path)
    lines = (tmp_path / "modeling_limelm.py").read_text().splitlines()
    statements = [line.split("  #")[0] for line in lines if line and not line.startswith(('"""', "#"))]
    assert statements == [
        "from limelm import LimeConfig, LimeForCausalLM, LimeModel",
        "from limelm.models.serving import register",
        "register()",
    ]


@all_variants
def test_a_card_is_saved_beside_the_model_and_never_replaced(variant, tmp_path):
    model = tiny_model(variant)
    model.save_pretrained(tmp_path)
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    assert card.data.tags[:2] == ["limelm", model.config.model_type.replace("_", "-")]
    assert f"{model.config.num_hidden_layers} layers" in card.text
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
