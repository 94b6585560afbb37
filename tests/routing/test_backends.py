"""`routing_backend`: what runs is what was asked for, or a refusal with the reason; and it compiles as one graph."""

import importlib.util
import logging

import pytest
import torch
from torch import nn
from transformers import StaticCache

from limelm import LimeForCausalLM
from limelm.errors import UserError
from limelm.routing import BACKENDS, ROUTERS, HeadwiseLinear, history, resolve_backend
from limelm.routing.ops import backends
from tests.models.variants import assert_same_gradients, gradients, tiny_config, tiny_model, token_ids

CPU = torch.device("cpu")
BOUNDED = {"routing_sources": {"first": 1, "last": 2}}
ROUTED = ["static_gqa", "static_bias", "static_top_p", "dynamic", "kv", "kv_gqa"]
MAIN = ["static_gqa", "dynamic", "kv_gqa"]
routed = pytest.mark.parametrize("variant", ROUTED)
main = pytest.mark.parametrize("variant", MAIN)


@pytest.fixture(autouse=True)
def _fresh():
    """What is cached per process must not outlive a test that changes the environment."""

    def forget():
        backends.why_not_triton.cache_clear()
        backends._announce.cache_clear()

    forget()
    yield
    forget()


def step(model, ids=None, module=None) -> dict[str, torch.Tensor]:
    """Gradients of a training step, through `module` (a compiled `model`) where given."""
    ids = token_ids() if ids is None else ids
    (model if module is None else module)(ids, labels=ids, use_cache=False).loss.backward()
    return gradients(model)


def distance(actual: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """Norm of all differences, relative to the norm of what is expected."""
    difference = torch.cat([(actual[name] - expected[name]).flatten().float() for name in expected])
    return (difference.norm() / torch.cat([value.flatten().float() for value in expected.values()]).norm()).item()


def compiled(model, backend="aot_eager", **options):
    return torch.compile(model, fullgraph=True, backend=backend, **options)


# Which one runs


def test_the_backends():
    assert BACKENDS == ("auto", "reference", "chunked", "triton")


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_config_takes_every_backend(backend, tmp_path):
    config = tiny_config("static", routing_backend=backend)
    config.save_pretrained(tmp_path)
    assert type(config).from_pretrained(tmp_path).routing_backend == backend


@pytest.mark.parametrize("backend", ["", "Chunked", "cuda", "pytorch", "triton "])
def test_an_unknown_backend_is_refused(backend):
    """With the config, before any work; and again where it is resolved."""
    with pytest.raises(ValueError, match=r"routing_backend=.*allowed: auto, reference, chunked, triton"):
        tiny_config("static", routing_backend=backend)
    with pytest.raises(ValueError, match=r"routing_backend=.*allowed: auto, reference, chunked, triton"):
        resolve_backend(backend, CPU)


def test_what_a_name_means():
    assert [resolve_backend(name, CPU) for name in ("auto", "chunked", "reference")] == [
        "chunked",
        "chunked",
        "reference",
    ]


@pytest.mark.parametrize("variant", ["static", "dynamic", "kv"])
@pytest.mark.parametrize("interpret", [None, "0"])
def test_triton_on_a_cpu_is_refused_with_the_reason(variant, interpret, monkeypatch):
    """Nothing else runs in its place."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if interpret is not None:
        monkeypatch.setenv("TRITON_INTERPRET", interpret)
    is_installed = importlib.util.find_spec("triton") is not None
    reason = "on cpu, not cuda" if is_installed else r"limelm\[triton\]"
    model = tiny_model(variant, routing_backend="triton")
    with pytest.raises(UserError, match=f"routing_backend='triton' cannot run: .*{reason}"):
        model(token_ids())
    with pytest.raises(UserError, match=reason), torch.no_grad():
        model.generate(token_ids(), max_new_tokens=2)


def test_triton_without_triton_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"limelm\[triton\]"):
        resolve_backend("triton", torch.device("cuda"))


def test_the_choice_is_logged_once(caplog):
    with caplog.at_level(logging.INFO, logger="limelm.routing.ops.backends"):
        model = tiny_model("static", routing_backend="auto")
        for _ in range(2):
            model(token_ids())
        assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
            ("INFO", "routing_backend=auto on cpu: chunked")
        ]
        caplog.clear()
        tiny_model("kv", routing_backend="reference")(token_ids())
        assert [record.getMessage() for record in caplog.records] == ["routing_backend=reference on cpu: reference"]


@pytest.mark.parametrize("variant", ["static", "dynamic"])
def test_the_reference_makes_no_use_of_the_fast_operations(variant, monkeypatch):
    from limelm.routing.ops import chunked

    def refuse(*_):
        raise AssertionError("the fast path ran")

    monkeypatch.setattr(chunked, "mix_project", refuse)
    tiny_model(variant, routing_backend="reference")(token_ids())
    with pytest.raises(AssertionError, match="the fast path ran"):
        tiny_model(variant, routing_backend="auto")(token_ids())


# Shapes and types at the edges

ODD_SHAPES = {
    "head_dim_6": {"hidden_size": 30, "num_attention_heads": 5, "num_key_value_heads": 5},
    "head_dim_10_of_heads_3": {"hidden_size": 18, "num_attention_heads": 3, "num_key_value_heads": 3, "head_dim": 10},
    "one_kv_head": {"num_key_value_heads": 1},
    "two_layers": {"num_hidden_layers": 2},
    "one_layer": {"num_hidden_layers": 1},
}


@pytest.mark.parametrize("variant", ["static", "static_top_p", "dynamic", "kv"])
@pytest.mark.parametrize("shape", ODD_SHAPES.values(), ids=ODD_SHAPES)
@pytest.mark.parametrize("tokens", [1, 7])
def test_odd_shapes_equal_the_reference(variant, shape, tokens):
    ids = token_ids(batch=3, tokens=tokens)
    results = []
    for backend in ("chunked", "reference"):
        model = tiny_model(variant, routing_backend=backend, **shape).double().train()
        logits = model(ids).logits
        logits.tanh().sum().backward()
        results.append(({"logits": logits.detach()}, gradients(model)))
    for actual, expected in zip(*results, strict=True):
        for name in [
            name for name, value in expected.items() if value.abs().max() < 1e-4
        ]:  # one token's attention is 1
            assert actual.pop(name).abs().max() < 2e-4, name
            expected.pop(name)
        assert_same_gradients(actual, expected, tolerance=5e-5)


@routed
@pytest.mark.parametrize("options", [{}, BOUNDED], ids=["all", "bounded"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_autocast_is_near_the_reference(variant, options, training):
    results = []
    for backend in ("chunked", "reference"):
        model = tiny_model(variant, routing_backend=backend, **options).train(training)
        with torch.autocast("cpu", torch.bfloat16), torch.set_grad_enabled(training):
            outputs = model(token_ids(), labels=token_ids())
        results.append([{"logits": outputs.logits.detach()}])
        if training:
            outputs.loss.backward()
            results[-1].append(gradients(model))
    for actual, expected in zip(*results, strict=True):
        assert distance(actual, expected) < 0.06


# Modules around the projections


class LowRank(nn.Module):
    """An adapter as PEFT would put it: the base projection, wrapped."""

    def __init__(self, base: HeadwiseLinear, rank: int = 2):
        super().__init__()
        self.base = base
        self.down = nn.Parameter(torch.randn(rank, base.in_features) * 0.1)
        self.up = nn.Parameter(torch.randn(base.out_features // base.num_heads, rank) * 0.1)

    @property
    def bias(self):
        return self.base.bias

    @property
    def weight(self):
        return self.base.weight

    def forward(self, mixed):
        return self.base(mixed) + mixed @ self.down.T @ self.up.T


@pytest.mark.parametrize("variant", ["static_gqa", "dynamic"])
@pytest.mark.parametrize("name", ["k_proj", "v_proj"])
def test_a_wrapped_projection_is_refused_or_used(variant, name):
    """The fast path reads weights itself and must not pass over an adapter."""
    for backend in ("chunked", "reference"):
        model = tiny_model(variant, routing_backend=backend)
        expected = model(token_ids()).logits
        attention = model.model.layers[2].self_attn
        setattr(attention, name, LowRank(getattr(attention, name)))
        if backend == "chunked":
            with pytest.raises(TypeError, match=r"LowRank.*routing_backend='reference'"):
                model(token_ids())
            continue
        logits = model(token_ids()).logits
        assert (logits - expected).abs().max() > 1e-3
        logits.sum().backward()
        assert getattr(attention, name).up.grad.any()


@pytest.mark.parametrize("variant", ["static_gqa", "dynamic", "kv"])
@pytest.mark.parametrize(
    "hook",
    [
        "register_forward_hook",
        "register_forward_pre_hook",
        "register_full_backward_hook",
        "register_full_backward_pre_hook",
        "forward",
    ],
)
def test_a_hook_on_a_projection_is_called_or_refused(variant, hook):
    """As an adapter, it must not be passed over in silence; nor a `forward` set on the module, as accelerate does."""
    names = ["k_proj", "v_proj"] + ["router.proj"] * (variant == "dynamic")
    for name in names:
        for backend in ("chunked", "reference"):
            model = tiny_model(variant, routing_backend=backend)
            projection = model.model.layers[2].self_attn.get_submodule(name)
            calls = []
            if hook == "forward":
                own = projection.forward
                projection.forward = lambda *args, own=own, calls=calls: calls.append(1) or own(*args)
            else:
                getattr(projection, hook)(lambda *_, calls=calls: calls.append(1))
            if backend == "chunked" and ROUTERS[model.config.routing].mixes_representations:
                with pytest.raises(TypeError, match=r"build the model with routing_backend='reference'"):
                    model(token_ids())
            else:
                model(token_ids()).logits.sum().backward()
                assert calls


@routed
@pytest.mark.parametrize("options", [{}, BOUNDED], ids=["all", "bounded"])
@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_a_layers_inputs_may_be_copied_on_their_way(variant, options, training, monkeypatch):
    """As hooks do that move them to another device or cast them."""
    empty_rows = history.empty_rows
    monkeypatch.setattr(history, "empty_rows", lambda *args: empty_rows(*args).fill_(torch.nan))

    def copied(_, args, kwargs):
        return tuple(arg.clone() if isinstance(arg, torch.Tensor) else arg for arg in args), kwargs

    model = tiny_model(variant, **options).train(training)
    with torch.set_grad_enabled(training):
        expected = model(token_ids()).logits
        expected_gradients = step(model) if training else {}
        for layer in model.model.layers:
            layer.register_forward_pre_hook(copied, with_kwargs=True)
        torch.testing.assert_close(model(token_ids()).logits, expected)
    if training:
        assert_same_gradients(step(model), expected_gradients, tolerance=1e-6)


# Compilers


@pytest.mark.parametrize("variant", ["static", "dynamic", "kv"])
def test_one_graph_with_a_single_key_value_head(variant):
    model = tiny_model(variant, num_hidden_layers=2, num_key_value_heads=1).train()
    expected = step(model)
    # The router's gradient is a small difference of large numbers here: 1.5e-8 of float32 rounding is 3e-5 of it.
    assert_same_gradients(step(model, module=compiled(model)), expected, tolerance=1e-4)


@main
def test_one_graph_under_autocast(variant):
    model = tiny_model(variant, num_hidden_layers=3).train()
    module = compiled(model)
    with torch.autocast("cpu", torch.bfloat16):
        expected, actual = step(model), step(model, module=module)
    flat_actual, flat_expected = (
        torch.cat([found[name].flatten() for name in expected]) for found in (actual, expected)
    )
    assert (flat_actual - flat_expected).norm() < 0.06 * flat_expected.norm()


@pytest.mark.parametrize("variant", ["dynamic", "kv_gqa"])
def test_one_graph_for_all_shapes(variant):
    model = tiny_model(variant, num_hidden_layers=2).train()
    module = compiled(model, dynamic=True)
    step(model, token_ids(2, 9), module)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for batch, tokens in ((3, 9), (2, 14), (4, 5)):
            ids = token_ids(batch, tokens)
            expected = step(model, ids)
            assert_same_gradients(step(model, ids, module), expected, tolerance=2e-5)


@main
@torch.no_grad()
def test_compiled_decoding_with_a_static_cache(variant):
    model = tiny_model(variant, num_hidden_layers=3)
    step_of = compiled(model, backend="eager")
    input_ids = token_ids(tokens=8)
    caches = [StaticCache(config=model.config, max_cache_len=16) for _ in range(2)]
    for chunk in input_ids.split([5, 1, 1, 1], dim=1):
        logits, expected = (
            module(chunk, past_key_values=cache, use_cache=True).logits
            for module, cache in zip((step_of, model), caches, strict=True)
        )
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(expected, model(input_ids).logits[:, -1:], atol=2e-5, rtol=1e-4)


def operator_calls(G: int = 2, n: int = 3, d: int = 4, D: int = 10, N: int = 6) -> dict[str, tuple]:
    """Arguments for every registered operator: for readers of all sources or of some, with and without a buffer."""
    gain, W, R = torch.rand(D), torch.randn(2, G * d, D), torch.randn(G, n * G)
    sources, grad_KV = [torch.randn(1, N * D) for _ in range(n)], torch.randn(2, G, N, d)
    heads, grads = [torch.randn(G, 2 * N * d) for _ in range(n)], torch.randn(2, G, N * d)
    calls: dict[str, tuple] = {
        "mix_heads": (heads, R, "chunked"),
        "mix_heads_backward": (torch.randn(n * G, 2 * N * d), True, [0, 1, 2], *grads, heads, R, "chunked"),
        "mix_heads_backward:keys_only": (
            torch.rand(n * G, 2 * N * d),
            False,
            [0, 1, 2],
            grads[0],
            None,
            heads,
            R,
            "chunked",
        ),
        "mix_heads_backward:some": (torch.zeros(5 * G, 2 * N * d + 3), True, [0, 3, 4], *grads, heads, R, "chunked"),
        "mix_heads_backward:no_buffer": (None, True, [0, 1, 2], *grads, heads, R, "chunked"),
    }
    for kind, weights in (("static", torch.rand(G, n)), ("dynamic", torch.randn(G * n, D))):
        rest = (sources, weights, gain, *W, kind == "dynamic", "chunked")
        name = "mix_project_backward:" + kind
        calls |= {
            f"mix_project:{kind}": rest,
            name: (torch.randn(n, N * D), True, [0, 1, 2], *grad_KV, *rest),
            f"{name}_last_reader": (torch.randn(n, N * D), False, [0, 1, 2], *grad_KV, *rest),
            f"{name}_some": (torch.zeros(5, N * D + 3), True, [0, 3, 4], *grad_KV, *rest),
            f"{name}_no_buffer": (None, True, [0, 1, 2], *grad_KV, *rest),
        }
    return calls


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("call", operator_calls())
def test_the_registered_operators_keep_their_promises(call, heads):
    """Schema, shapes without data, and nothing written to or shared but the buffer."""
    operator = getattr(torch.ops.limelm, call.split(":")[0]).default
    torch.library.opcheck(operator, operator_calls(G=heads)[call])


def test_loading_with_another_backend(tmp_path):
    """A checkpoint is not bound to the backend that it was trained with."""
    model = tiny_model("static", routing_backend="reference")
    model.save_pretrained(tmp_path)
    loaded = LimeForCausalLM.from_pretrained(tmp_path, routing_backend="chunked").eval()
    torch.testing.assert_close(loaded(token_ids()).logits, model(token_ids()).logits, atol=1e-5, rtol=1e-5)
    assert loaded.config.routing_backend == "chunked"
