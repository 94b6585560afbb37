"""What vLLM and SGLang ask of a model, and do to it, restated; docs/serving.md says from which of their sources."""

import ast
import importlib
import inspect
import os
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig
from transformers.distributed.configuration_utils import DistributedConfig

import limelm
from limelm.models import serving
from limelm.registration import CLASSES
from tests.models.engine import LENGTHS, attention_instances, attention_modules, flattened, serve
from tests.models.variants import VARIANTS, all_variants, main_variants, smallest_variants, tiny_model, token_ids

BOUNDED = {"routing_sources": {"first": 1, "last": 2}}
#: Every kind of model, and bounded routing: variant and changes to its config.
CASES = {variant: (variant, {}) for variant in VARIANTS}
CASES |= {f"{variant}_bounded": (variant, BOUNDED) for variant in ("static_top_p_gqa", "dynamic_gqa", "kv_gqa")}
CASES |= {f"{variant}_untied": (variant, {"tie_word_embeddings": False}) for variant in ("static", "hc_dynamic")}
PYPROJECT = Path(limelm.__file__).parents[1] / "pyproject.toml"


# What they ask


@pytest.mark.parametrize("attached", [False, True], ids=["passed", "attached"])
@pytest.mark.parametrize("norms", [False, True], ids=["", "norms"])
@pytest.mark.parametrize("case", CASES)
@torch.no_grad()
def test_a_flattened_batch_is_every_sequence_alone(case, norms, attached, tmp_path, monkeypatch):
    variant, changes = CASES[case]
    original = tiny_model(variant, **changes)
    original.save_pretrained(tmp_path)
    decoder = serve(tmp_path, monkeypatch, norms)
    instances, given = attention_instances(decoder.config), {}
    if attached:
        for module in attention_modules(decoder):
            module.attn = instances[module.layer_idx]
    else:
        given["attention_instances"] = instances
    sequences, batch = flattened()
    hidden_states = decoder(**batch, **given, return_dict=False)[0]
    logits = original.lm_head(hidden_states)[0].split(LENGTHS)
    for actual, ids in zip(logits, sequences, strict=True):
        torch.testing.assert_close(actual, original(ids).logits[0], atol=1e-5, rtol=1e-5)
    assert [instance.calls for instance in instances.values()] == [1] * len(instances)


@main_variants
@torch.no_grad()
def test_the_causal_lm_hands_everything_through(variant):
    model = tiny_model(variant)
    sequences, batch = flattened()
    expected = torch.cat([model(ids).logits for ids in sequences], 1)
    model.set_attn_implementation("engine")
    instances = attention_instances(model.config)
    torch.testing.assert_close(model(**batch, attention_instances=instances).logits, expected, atol=1e-5, rtol=1e-5)


@all_variants
def test_what_is_read_off_classes_and_configs(variant, tmp_path):
    model = tiny_model(variant)
    model.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert config.architectures == [type(model).__name__]
    assert list(config.auto_map)[:2] == ["AutoConfig", "AutoModel"]
    assert config.auto_map["AutoModel"] == f"modeling_limelm.{type(model.model).__name__}"
    assert config.get_text_config() is config
    assert config.head_dim * config.num_attention_heads == config.hidden_size
    assert type(model).is_backend_compatible()
    assert type(model.model).is_backend_compatible()
    assert model.model.get_decoder() is model.model  # what vLLM compiles, by these arguments
    assert {"input_ids", "inputs_embeds", "position_ids"} <= inspect.signature(
        type(model.model).forward
    ).parameters.keys()
    modules = attention_modules(model)
    assert [module.layer_idx for module in modules] == list(range(config.num_hidden_layers))
    assert all(module.is_causal and module.config is model.config for module in modules)
    assert not any(hasattr(module, "attn") for module in modules)  # the place where vLLM puts its own


@main_variants
def test_the_attention_is_found_in_the_source(variant):
    """vLLM wants one call of what `get_interface` gave, in `forward` itself, and its scale as `self.something`."""
    module = attention_modules(tiny_model(variant))[1]
    tree = ast.parse(textwrap.dedent(inspect.getsource(type(module).forward)))
    names = {
        assignment.targets[0].id
        for assignment in ast.walk(tree)
        if isinstance(assignment, ast.Assign)
        and "ALL_ATTENTION_FUNCTIONS.get_interface(" in ast.unparse(assignment.value)
    }
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    (call,) = (node for node in nodes if node.func.id in names)
    (scaling,) = (keyword.value for keyword in call.keywords if keyword.arg == "scaling")
    assert ast.unparse(scaling) == "self.scaling"
    assert isinstance(module.scaling, float)


@pytest.mark.parametrize(
    "case", ["none", "static_gqa", "static_top_p", "dynamic_gqa_bounded", "kv_gqa", "hc_dynamic", "mhc_gqa"]
)
@torch.no_grad()
def test_one_graph_serves_any_number_of_tokens(case):
    """vLLM compiles once, with the number of tokens unknown, and drops the compiler's guards."""
    torch._dynamo.utils.counters.clear()
    variant, changes = CASES[case]
    decoder = tiny_model(variant, num_hidden_layers=3, **changes).model
    compiled = torch.compile(decoder, fullgraph=True, backend="eager")
    for tokens in (8, 13, 300):
        ids, positions = token_ids(1, tokens), torch.arange(tokens)[None]
        if tokens == 8:
            torch._dynamo.mark_dynamic(ids, 1)
            torch._dynamo.mark_dynamic(positions, 1)
        arguments = {"input_ids": ids, "position_ids": positions, "use_cache": False, "return_dict": False}
        torch.testing.assert_close(compiled(**arguments)[0], decoder(**arguments)[0], atol=1e-5, rtol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


# How they find a model


@pytest.fixture
def entry_point(monkeypatch):
    """What the entry points name; what it sets is gone afterwards."""
    for name in (name for _, *classes in CLASSES.values() for name in classes):
        monkeypatch.setattr(type(transformers), name, None, raising=False)
    groups = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["project"]["entry-points"]
    assert groups.keys() == {"vllm.general_plugins", "sglang.srt.plugins"}
    (value,) = {group["limelm"] for group in groups.values()}
    module, name = value.split(":")
    return getattr(importlib.import_module(module), name)


def test_the_entry_points_register_every_architecture(entry_point):
    assert entry_point is serving.register
    entry_point()
    entry_point()
    for variant in smallest_variants().values():
        model = tiny_model(variant)
        for part in (model, model.model):
            for module in (transformers, sys.modules["transformers"]):  # not the same, in some orders of import
                assert getattr(module, type(part).__name__) is type(part)


def printed_in_a_fresh_process(script: str, folder: Path) -> list[str]:
    """The words that a script prints about three checkpoints, in a process that has not imported limelm."""
    variants = ("static", "hc_dynamic", "dense_former")
    for variant in variants:
        tiny_model(variant).save_pretrained(folder / variant)
    folders = [str(folder / variant) for variant in variants]
    environment = os.environ | {"PYTHONPATH": str(PYPROJECT.parent), "HF_MODULES_CACHE": str(folder / "modules")}
    command = [sys.executable, "-c", script, *folders]
    done = subprocess.run(command, env=environment, cwd=folder, check=True, capture_output=True, text=True)
    return done.stdout.split()


FRESH_PROCESS = """
import sys
import transformers
from transformers import AutoConfig, AutoModel

assert "limelm" not in sys.modules
from limelm.models.serving import register

register()
for folder in sys.argv[1:]:
    config = AutoConfig.from_pretrained(folder)
    assert getattr(transformers, config.architectures[0]).is_backend_compatible()
    print(type(AutoModel.from_config(config)).__name__)
"""


def test_a_server_needs_neither_an_import_nor_remote_code(tmp_path):
    assert printed_in_a_fresh_process(FRESH_PROCESS, tmp_path) == [
        "LimeModel",
        "HyperConnectionModel",
        "DenseFormerModel",
    ]


# What is refused


@all_variants
def test_no_plan_is_offered(variant):
    """SGLang, and vLLM for long, refuse a model without plans; SGLang looks in all of these places."""
    model = tiny_model(variant)
    for part in (model, model.model):
        assert not part.tp_plan
        assert not part.pp_plan
        assert not part.supports_tp_plan
        assert not part.supports_pp_plan
    for owner in (model.config, *(getattr(child, "config", None) for child in model.model.children())):
        assert not getattr(owner, "base_model_tp_plan", None)
        assert not getattr(owner, "base_model_pp_plan", None)


@main_variants
@pytest.mark.parametrize("attached", [False, True], ids=["passed", "attached"])
@torch.no_grad()
def test_an_attention_with_a_share_of_the_heads_is_refused(variant, attached):
    """Later vLLM shards what it can of a model that has no plan, so the model itself must notice."""
    model = tiny_model(variant)
    model.set_attn_implementation("engine")
    _, batch = flattened()
    instances = attention_instances(model.config)
    for instance in instances.values():
        instance.num_heads //= 2
    for module in attention_modules(model) if attached else ():
        module.attn = instances[module.layer_idx]
    given = {} if attached else {"attention_instances": instances}
    with pytest.raises(ValueError, match=r"tensor parallelism .* layer 0 has 2 of the model's 4 heads"):
        model.model(**batch, **given)
    assert not any(instance.calls for instance in instances.values())


@main_variants
@pytest.mark.parametrize("missing", [slice(0, 2), slice(2, None)], ids=["first", "last"])
@torch.no_grad()
def test_a_model_without_some_of_its_layers_is_refused(variant, missing):
    class MissingLayer(nn.Identity):  # as vLLM's, SGLang's and HF's
        def forward(self, *args, **kwargs):
            return args[0]

    decoder = tiny_model(variant).model
    for index in range(*missing.indices(len(decoder.layers))):
        decoder.layers[index] = MissingLayer()
    with pytest.raises(ValueError, match="pipeline parallelism is not supported"):
        decoder(token_ids())


@pytest.mark.parametrize("variant", ["none", "static", "hc_static"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tp_plan": "auto"}, r"tp_plan='auto': tensor parallelism is not supported by"),
        ({"distributed_config": DistributedConfig(tp_size=2)}, r"tp_size=2: tensor parallelism"),
        ({"distributed_config": {"tp_size": 2}}, r"tp_size=2: tensor parallelism"),
        ({"distributed_config": DistributedConfig(pp_size=2)}, r"pp_size=2: pipeline parallelism"),
    ],
    ids=["tp_plan", "tp_size", "dict", "pp_size"],
)
@pytest.mark.filterwarnings("ignore:Passing `tp_plan`:FutureWarning")
def test_hugging_faces_model_parallelism_is_refused(variant, arguments, message, tmp_path, monkeypatch):
    """Before a process group is made, so one process that believes to be one of two shows it."""
    for name, value in {
        "RANK": 0,
        "LOCAL_RANK": 0,
        "WORLD_SIZE": 2,
        "MASTER_ADDR": "localhost",
        "MASTER_PORT": 1,
    }.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(
        torch.distributed, "init_process_group", lambda *_, **__: pytest.fail("a process group is made")
    )
    model = tiny_model(variant)
    model.save_pretrained(tmp_path)
    for loaded in (model, model.model):
        with pytest.raises(ValueError, match=message + f".* {type(loaded).__name__}"):
            type(loaded).from_pretrained(tmp_path, **arguments)


def test_fsdp_is_not_refused():
    prepared = limelm.LimeModel.prepare_distribute_model(DistributedConfig(fsdp_size=1))
    assert prepared[0].fsdp_size == 1
    assert limelm.LimeModel.prepare_distribute_model(None) == (None, None, None)


# What `transformers serve` does


TRUSTING_PROCESS = """
import sys
import transformers
from transformers import AutoConfig

assert "limelm" not in sys.modules
for folder in sys.argv[1:]:
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    print(type(getattr(transformers, config.architectures[0]).from_pretrained(folder)).__module__)
"""


def test_the_code_of_a_checkpoint_is_enough_for_a_server_that_trusts_it(tmp_path):
    modules = printed_in_a_fresh_process(TRUSTING_PROCESS, tmp_path)
    names = ("lime.modeling_lime", "hyper_connection.modeling_hyper_connection", "dense_former")
    assert modules == [f"limelm.models.{name}" for name in names]
