"""examples/nanolime.py: it trains, and its model is `LimeForCausalLM` where the weights are the same."""

import functools
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from limelm import LimeConfig, LimeForCausalLM

PATH = Path(__file__).parents[2] / "examples" / "nanolime.py"
SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_layers": 4, "num_heads": 4}
#: Where a block of nanolime keeps what a decoder layer of Hugging Face's keeps.
NAMES = {
    "attentions.{i}.norm": "input_layernorm",
    "attentions.{i}.source_norm": "routing_layernorm",
    "attentions.{i}.router": "self_attn.router",
    "mlps.{i}.norm": "post_attention_layernorm",
    **{f"attentions.{{i}}.{name}_proj": f"self_attn.{name}_proj" for name in "qkvo"},
    **{f"mlps.{{i}}.{name}_proj": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
routings = pytest.mark.parametrize("routing", ["none", "static", "dynamic", "kv"])


@pytest.fixture(scope="module")
def nanolime():
    spec = importlib.util.spec_from_file_location("nanolime", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["nanolime"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["nanolime"]


@routings
def test_it_trains_and_samples(nanolime, routing, capsys, monkeypatch):
    sizes = {**SIZES, "vocab_size": 256, "context": 32}
    monkeypatch.setattr(nanolime, "Config", functools.partial(nanolime.Config, **sizes))
    loss = nanolime.main(["--routing", routing, "--steps", "3"])
    printed = capsys.readouterr().out
    assert 0 < loss < 7 and "step     3   loss" in printed and "\ndef " in printed


def their_name(name: str) -> str:
    index = name.split(".")[1]
    for ours, theirs in NAMES.items():
        prefix = ours.format(i=index)
        if name.startswith(f"{prefix}."):
            return f"model.layers.{index}.{theirs}{name.removeprefix(prefix)}"
    return {"embedding.weight": "model.embed_tokens.weight", "norm.weight": "model.norm.weight"}[name]


@routings
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_its_logits_and_gradients_are_those_of_the_hugging_face_model(nanolime, routing, backend):
    torch.manual_seed(0)
    config = nanolime.Config(routing=routing, **SIZES)
    model = nanolime.GPT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, mean=float(parameter.ndim == 1), std=0.3)
    theirs = LimeForCausalLM(
        LimeConfig(
            vocab_size=97,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=4,
            tie_word_embeddings=True,
            routing=routing,
            routing_backend=backend,
        )
    )
    state = {their_name(name): parameter for name, parameter in model.named_parameters()}
    loaded = theirs.load_state_dict(state, strict=False)
    assert loaded.unexpected_keys == [] and set(loaded.missing_keys) <= {"lm_head.weight"}
    tokens = torch.randint(97, (2, 9))
    logits, expected = model(tokens), theirs(tokens).logits
    torch.testing.assert_close(logits, expected, atol=1e-4 * expected.abs().max().item(), rtol=1e-4)
    for outputs in (logits, expected):
        F.cross_entropy(outputs[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        wanted = theirs.get_parameter(their_name(name)).grad
        torch.testing.assert_close(parameter.grad, wanted, atol=1e-4 * float(wanted.abs().max()), rtol=1e-3, msg=name)
