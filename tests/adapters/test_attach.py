"""Routers in models that were trained without them: harmless at first, alive, and gone without a trace."""

import copy
import threading

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from limelm import LimeConfig, LimeForCausalLM
from limelm.adapters import attach, detach
from limelm.adapters.parameters import router_parameters as adapter_parameters
from limelm.errors import UserError
from tests.adapters.checks import assert_recomputation_changes_no_gradient, assert_token_by_token_is_all_at_once
from tests.families import ATTACHABLE, MULTI_HEAD, family_model, router_parameters, tokens, train_routers

families = pytest.mark.parametrize("family", ATTACHABLE)
routings = pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
OPTIONS = [{}, {"share_kv": False}, {"routing_sources": {"first": 1, "last": 1}}]


@routings
def test_a_norm_may_leave_its_epsilon_to_pytorch(routing):
    model = family_model("llama")
    for layer in model.model.layers:
        layer.input_layernorm = torch.nn.RMSNorm(model.config.hidden_size)
    before = model(tokens()).logits
    assert torch.equal(attach(model, routing)(tokens()).logits, before)


@families
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@routings
@pytest.mark.parametrize("options", OPTIONS)
def test_a_model_computes_what_it_did(family, dtype, routing, options):
    model = family_model(family).to(dtype)
    before = model(tokens()).logits
    assert attach(model, routing, **options) is model
    assert torch.equal(model(tokens()).logits, before)
    with torch.no_grad():
        assert torch.equal(model(tokens()).logits, before)


@families
@routings
@pytest.mark.parametrize("options", OPTIONS)
def test_without_gradients_it_computes_the_same(family, routing, options):
    model = train_routers(attach(family_model(family), routing, **options))
    with torch.no_grad():
        without = model(tokens()).logits
    torch.testing.assert_close(without, model(tokens()).logits, atol=1e-5, rtol=1e-5)


@families
@pytest.mark.parametrize("options", OPTIONS)
def test_gradients_reach_every_entry(family, options):
    model = attach(family_model(family).train(), **options)
    model(tokens(), labels=tokens()).loss.backward()
    routers = router_parameters(model)
    assert len(routers) == 2  # of three layers the first has nothing to choose from
    assert all((parameter.grad != 0).all() for parameter in routers.values())


@families
@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_behind_a_closed_gate_gradients_are_alive_from_the_second_step_on(family, routing):
    model = attach(family_model(family).train(), routing)
    routers = router_parameters(model)
    optimizer = torch.optim.SGD(routers.values(), lr=0.1)
    model(tokens(), labels=tokens()).loss.backward()
    for name, parameter in routers.items():
        assert (parameter.grad != 0).all() if name.endswith("gate") else (parameter.grad == 0).all()
    optimizer.step()
    model(tokens(), labels=tokens()).loss.backward()
    assert all((parameter.grad != 0).all() for parameter in routers.values())


@families
@routings
def test_detach_gives_the_original_back(family, routing):
    model = family_model(family)
    before, names, hooks = model(tokens()).logits, list(model.state_dict()), count_hooks(model)
    train_routers(attach(model, routing))
    assert not torch.equal(model(tokens()).logits, before)
    assert detach(model) is model
    assert torch.equal(model(tokens()).logits, before)
    assert list(model.state_dict()) == names and count_hooks(model) == hooks


def count_hooks(model):
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


@families
@routings
def test_token_by_token_is_all_at_once(family, routing):
    model = train_routers(attach(family_model(family), routing))
    assert_token_by_token_is_all_at_once(model, atol=2e-6, rtol=1e-5)


@families
@routings
def test_recomputed_layers_find_their_history(family, routing):
    model = train_routers(attach(family_model(family).train(), routing))
    assert_recomputation_changes_no_gradient(model)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("sources", [None, {"first": 1, "last": 2}])
def test_an_attached_llama_is_the_native_model(heads, sources):
    """R is the identity of the own block plus the attached router's weight."""
    model, native = attached_and_native("kv", heads, sources)
    for layer, attached in zip(native.model.layers[1:], model.model.layers[1:], strict=True):
        R = attached.self_attn.router.weight.detach()[0].clone()
        R[:, -heads:] += torch.eye(heads)
        layer.self_attn.router.weight.data = R
    torch.testing.assert_close(model(tokens()).logits, native(tokens()).logits, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("heads", [4, 2])
@pytest.mark.parametrize("sources", [None, {"first": 1, "last": 2}])
def test_an_attached_static_llama_is_the_native_model(heads, sources):
    """A gate between 0 and 1 makes another convex combination: (1 - gate) of the own input, gate of the mix."""
    model, native = attached_and_native("static", heads, sources)
    for layer, attached in zip(native.model.layers[1:], model.model.layers[1:], strict=True):
        router = attached.self_attn.router
        gate = torch.linspace(0.2, 0.9, heads)
        router.gate.data = gate[None]
        A = gate[:, None] * router.weight.detach()[0].softmax(dim=-1)
        A[:, -1] += 1 - gate
        layer.self_attn.router.weight.data = A.log()
        layer.routing_layernorm.weight.data = attached.input_layernorm.weight.data
    torch.testing.assert_close(model(tokens()).logits, native(tokens()).logits, atol=2e-6, rtol=1e-5)


def test_an_attached_dynamic_llama_with_open_gates_is_the_native_model():
    model, native = attached_and_native("dynamic", 2, None)
    for layer, attached in zip(native.model.layers[1:], model.model.layers[1:], strict=True):
        attached.self_attn.router.gate.data.fill_(1)
        layer.self_attn.router.proj.weight.data = attached.self_attn.router.weight.detach()[0]
        layer.routing_layernorm.weight.data = attached.input_layernorm.weight.data
    torch.testing.assert_close(model(tokens()).logits, native(tokens()).logits, atol=2e-6, rtol=1e-5)


def attached_and_native(routing, heads, sources):
    """A Llama with trained routers attached, and a native model with its other weights."""
    shape = {**MULTI_HEAD, "num_key_value_heads": heads, "num_hidden_layers": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    for layer in model.model.layers:
        layer.input_layernorm.weight.data.uniform_(0.5, 1.5)
    native = LimeForCausalLM(LimeConfig(**shape, routing=routing, routing_sources=sources)).eval()
    native.load_state_dict(model.state_dict(), strict=False)
    return train_routers(attach(model, routing, routing_sources=sources)), native


@routings
def test_keys_and_values_have_routers_of_their_own_where_they_are_not_shared(routing):
    shared, apart = (attach(family_model("llama"), routing, share_kv=share) for share in (True, False))
    train_routers(shared)
    for one, two in zip(router_parameters(shared).values(), router_parameters(apart).values(), strict=True):
        assert two.shape == (2, *one.shape[1:])
        two.data = torch.cat([one.data, one.data])
    assert torch.equal(shared(tokens()).logits, apart(tokens()).logits)
    for parameter in router_parameters(apart).values():
        parameter.data[1] = 0
    assert not torch.equal(shared(tokens()).logits, apart(tokens()).logits)


@routings
def test_forwards_may_be_interleaved(routing):
    model = train_routers(attach(family_model("llama").train(), routing))
    first, second = tokens(2, 11), tokens(3, 7)
    wanted = []
    for batch in (first, second):
        model.zero_grad()
        model(batch, labels=batch).loss.backward()
        wanted.append({name: parameter.grad.clone() for name, parameter in router_parameters(model).items()})
    model.zero_grad()
    losses = [model(batch, labels=batch).loss for batch in (first, second)]
    with torch.no_grad():
        model(tokens(1, 5))
    losses[0].backward()
    losses[1].backward()
    for name, parameter in router_parameters(model).items():
        torch.testing.assert_close(parameter.grad, wanted[0][name] + wanted[1][name])


@routings
def test_models_and_threads_do_not_disturb_each_other(routing):
    models = [train_routers(attach(family_model("llama", n), routing, share_kv=bool(n)), n) for n in range(2)]
    copied = copy.deepcopy(models[0])
    wanted = [model(tokens()).logits for model in models]
    assert torch.equal(copied(tokens()).logits, wanted[0])
    for parameter in router_parameters(copied).values():
        parameter.data.zero_()
    assert torch.equal(models[0](tokens()).logits, wanted[0])
    assert not torch.equal(copied(tokens()).logits, wanted[0])
    equal = []
    with torch.no_grad():  # computed otherwise, and not to the bit alike
        wanted = [model(tokens()).logits for model in models]

    def run(model, logits):
        with torch.no_grad():
            equal.append(all(torch.equal(model(tokens()).logits, logits) for _ in range(20)))

    threads = [threading.Thread(target=run, args=pair) for pair in [*zip(models, wanted, strict=True)] * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert equal == [True] * 4


@pytest.mark.parametrize("family", ["llama", "qwen3", "phi3", "gpt2"])
@routings
def test_generation(family, routing):
    model = train_routers(attach(family_model(family), routing))
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    prompt = tokens(2, 5)
    mask = torch.ones_like(prompt)
    cached = model.generate(prompt, attention_mask=mask, **options)
    assert torch.equal(cached, model.generate(prompt, attention_mask=mask, use_cache=False, **options))
    beams = model.generate(prompt, attention_mask=mask, num_beams=3, **options)
    assert torch.equal(beams, model.generate(prompt, attention_mask=mask, num_beams=3, use_cache=False, **options))


@routings
def test_it_compiles_in_one_graph(routing):
    model = train_routers(attach(family_model("llama"), routing))
    wanted = model(tokens(), use_cache=False).logits
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(tokens(), use_cache=False).logits, wanted, atol=2e-6, rtol=1e-5)


@torch.no_grad()
def test_compiled_code_of_the_base_is_not_taken_for_that_with_routers():
    """Both run the same functions; what is between them is hooks alone."""
    base = family_model("llama")
    torch._dynamo.config.skip_nnmodule_hook_guards = True  # PyTorch's default, before anything is attached
    torch._dynamo.reset()
    without = torch.compile(base, backend="eager")
    before = without(tokens(), use_cache=False).logits
    model = train_routers(attach(copy.deepcopy(base), "kv"))
    wanted = model(tokens(), use_cache=False).logits
    assert (wanted - before).abs().max() > 1e-3
    compiled = torch.compile(model, backend="eager")
    for _ in range(2):
        torch.testing.assert_close(compiled(tokens(), use_cache=False).logits, wanted, atol=2e-6, rtol=1e-5)
        torch.testing.assert_close(without(tokens(), use_cache=False).logits, before, atol=2e-6, rtol=1e-5)
    detach(model)
    torch.testing.assert_close(compiled(tokens(), use_cache=False).logits, before, atol=2e-6, rtol=1e-5)


@routings
def test_autocast(routing):
    model = train_routers(attach(family_model("llama").train(), routing))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(tokens(), labels=tokens()).loss
    loss.backward()
    torch.testing.assert_close(loss, model(tokens(), labels=tokens()).loss, atol=0.02, rtol=0)
    assert all(parameter.grad.dtype == torch.float32 for parameter in router_parameters(model).values())


def test_router_parameters_are_float32_whatever_the_model_is():
    model = attach(family_model("llama").to(torch.bfloat16))
    assert {parameter.dtype for parameter in router_parameters(model).values()} == {torch.float32}


def test_bad_input():
    with pytest.raises(UserError, match="routing='mean' is unknown; allowed: kv, static, dynamic"):
        attach(family_model("llama"), routing="mean")
    with pytest.raises(ValueError, match="routing_sources"):
        attach(family_model("llama"), routing_sources={"last": 1})
    with pytest.raises(UserError, match="has routers already; detach them first"):
        attach(attach(family_model("llama")))
    with pytest.raises(UserError, match="has no attached routers"):
        detach(family_model("llama"))
    with pytest.raises(UserError, match="share_kv='no' must be true or false"):
        attach(family_model("llama"), share_kv="no")
    with pytest.raises(UserError, match="Linear: not a Hugging Face model"):
        attach(torch.nn.Linear(3, 3))
    with pytest.raises(UserError, match="BloomForCausalLM: its layers do not hand keywords on to attention"):
        attach(BloomForCausalLM(BloomConfig(vocab_size=61, hidden_size=32, n_layer=2, n_head=4)))
    falcon = FalconConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4)
    with pytest.raises(UserError, match="FalconAttention of model_type 'falcon': no keys and values found"):
        attach(FalconForCausalLM(falcon))
    opt = OPTConfig(vocab_size=61, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=32)
    with pytest.raises(UserError, match="OPTDecoderLayer: no norm before attention found; looked for input_layernorm"):
        attach(OPTForCausalLM(opt), "static")


@families
@pytest.mark.parametrize("routing", ["static", "dynamic"])
@pytest.mark.parametrize("share_kv", [True, False])
def test_behind_an_open_gate_the_own_input_alone_changes_nothing(family, routing, share_kv):
    """Where the norm before attention were taken for another than it is, it would."""
    model = family_model(family)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(0.2 * torch.randn_like(parameter))
    before = model(tokens()).logits
    attach(model, routing, share_kv=share_kv, routing_sources={"first": 0, "last": 1})
    with torch.no_grad():
        for name, parameter in router_parameters(model).items():
            if name.endswith("gate"):
                parameter.fill_(1)
    torch.testing.assert_close(model(tokens()).logits, before, atol=1e-5, rtol=1e-5)


def test_a_norm_that_is_not_known_is_refused_where_it_would_be_needed():
    model = family_model("llama")
    for layer in model.model.layers:
        layer.input_layernorm = torch.nn.Identity()
    attach(model)
    with pytest.raises(UserError, match="Identity: not an RMSNorm or LayerNorm"):
        attach(detach(model), "static")


@pytest.mark.parametrize("routing", ["kv", "static", "dynamic"])
def test_reentrant_checkpointing_is_refused(routing):
    """It runs the layers without gradients first, and what they leave would have none."""
    model = train_routers(attach(family_model("llama"), routing)).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    with pytest.raises(RuntimeError, match="reentrant gradient checkpointing cuts the gradients"):
        model(tokens(), labels=tokens(), use_cache=False)
    with torch.no_grad():
        model(tokens(), use_cache=False)


def test_a_router_of_experts_is_not_ours():
    model = family_model("llama")
    model.model.layers[0].mlp.router = torch.nn.Linear(32, 4)
    attach(model)
    assert all("self_attn.router" in name for name in adapter_parameters(model))
    detach(model)


def test_a_native_model_is_refused():
    shape = {**MULTI_HEAD, "num_key_value_heads": 2}
    with pytest.raises(
        UserError, match="LimeForCausalLM: a native LIMe model; its routing is a field of its configuration"
    ):
        attach(LimeForCausalLM(LimeConfig(**shape, routing="kv")))


def test_a_layer_alone_has_no_history():
    model = attach(family_model("llama"))
    hidden = torch.randn(1, 3, 32)
    embeddings = model.model.rotary_emb(hidden, torch.arange(3)[None])
    with pytest.raises(RuntimeError, match="run the whole decoder"):
        model.model.layers[1](hidden, position_embeddings=embeddings)
