"""`routing_sources`: a layer reads the first few and the latest few representations, and no others."""

import pytest
import torch
from transformers import DynamicCache, StaticCache

from limelm import LimeConfig, LimeForCausalLM
from limelm.routing import History
from limelm.routing.sources import source_ids
from tests.models.naive import NaiveLime, rms_norm, softmax
from tests.models.variants import TINY, assert_same_gradients, gradients, tiny_config, tiny_model, token_ids

VARIANTS = ["static_gqa", "static_bias", "static_top_p", "dynamic", "dynamic_gqa", "kv", "kv_gqa"]
variants = pytest.mark.parametrize("variant", VARIANTS)
LAYERS = 6
BOUNDS = [(0, 1), (1, 1), (0, 2), (1, 2), (2, 3), (3, 1), (4, 4)]
bounds = pytest.mark.parametrize(("first", "last"), BOUNDS)


def bounded(variant: str, first: int, last: int, **changes):
    options = {"num_hidden_layers": LAYERS, "routing_sources": {"first": first, "last": last}}
    return tiny_model(variant, **(options | changes))


class NaiveBoundedLime(NaiveLime):
    """The formulas, with the sums over the sources that the bounds leave."""

    def read_by(self, i: int) -> list[int]:
        first, last = self.config.routing_sources["first"], self.config.routing_sources["last"]
        return [j for j in range(i + 1) if j in range(first) or i - j < last]

    def mixed_input(self, i, h, X):
        N = [rms_norm(X_j, self.eps) * self.weight(i, "routing_layernorm.weight") for X_j in X]
        rows = []
        for t in range(len(X[0])):
            A = self.routing_weights(i, h, N[i][t])
            rows.append(sum(A[column] * N[j][t] for column, j in enumerate(self.read_by(i))))
        return torch.stack(rows)

    def routing_weights(self, i, h, current):
        if self.config.routing != "dynamic":
            return super().routing_weights(i, h, current)
        P, n = self.weight(i, "self_attn.router.proj.weight"), len(self.read_by(i))
        return list(softmax(torch.stack([current @ P[h * n + column] for column in range(n)])))

    def mixed_heads(self, R, own):
        return super().mixed_heads(R, [own[j] for j in self.read_by(len(own) - 1)])


def naive_bounded(model) -> NaiveBoundedLime:
    weights = {name: p.detach().double().clone().requires_grad_() for name, p in model.named_parameters()}
    return NaiveBoundedLime(model.config, weights)


@pytest.mark.parametrize(
    ("layer_idx", "first", "last", "expected"),
    [
        (0, 1, 2, (0,)),
        (1, 1, 2, (0, 1)),
        (5, 1, 2, (0, 4, 5)),
        (5, 0, 1, (5,)),
        (5, 3, 3, (0, 1, 2, 3, 4, 5)),
        (5, 2, 5, (0, 1, 2, 3, 4, 5)),
        (5, 9, 1, (0, 1, 2, 3, 4, 5)),
        (2, 9, 9, (0, 1, 2)),
    ],
)
def test_sources_of_a_layer(layer_idx, first, last, expected):
    assert source_ids(layer_idx, {"first": first, "last": last}) == expected
    assert source_ids(layer_idx, None) == tuple(range(layer_idx + 1))


@pytest.mark.parametrize(
    ("layer_idx", "every", "last", "expected"),
    [
        (0, 2, 1, (0,)),
        (5, 2, 1, (0, 2, 4, 5)),
        (5, 2, 3, (0, 2, 3, 4, 5)),
        (6, 3, 2, (0, 3, 5, 6)),
        (5, 1, 1, (0, 1, 2, 3, 4, 5)),
        (5, 9, 1, (0, 5)),
    ],
)
def test_every_so_many_layers_are_sources(layer_idx, every, last, expected):
    assert source_ids(layer_idx, {"every": every, "last": last}) == expected


@variants
@bounds
def test_logits_and_all_gradients_equal_the_naive_version(variant, first, last):
    model = bounded(variant, first, last).double().train()
    naive = naive_bounded(model)
    input_ids = token_ids(batch=1, tokens=4)
    logits, expected = model(input_ids).logits, naive.logits(input_ids)
    torch.testing.assert_close(logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    probe = torch.randn(logits.shape, dtype=torch.float64)
    (logits * probe).sum().backward()
    (expected * probe).sum().backward()
    # Of a single source the softmax is 1, whatever its logit: its weights have no gradient.
    naive_gradients = {name: torch.zeros_like(w) if w.grad is None else w.grad for name, w in naive.weights.items()}
    actual = gradients(model)
    for name in [name for name, gradient in naive_gradients.items() if gradient.abs().max() < 1e-12]:
        assert actual.pop(name).abs().max() < 1e-6, name
        naive_gradients.pop(name)
    assert_same_gradients(actual, naive_gradients, tolerance=1e-5)


@variants
@bounds
def test_evaluation_equals_training_and_the_naive_version(variant, first, last):
    model = bounded(variant, first, last)
    input_ids = token_ids(batch=2, tokens=5)
    with torch.no_grad():
        logits, expected = model(input_ids).logits, naive_bounded(model).logits(input_ids)
        torch.testing.assert_close(logits.double(), expected, atol=1e-4 * expected.abs().max().item(), rtol=0)
        torch.testing.assert_close(model.train()(input_ids).logits, logits, atol=1e-5, rtol=1e-5)


@variants
@bounds
def test_reference_equals_chunked_with_gradients(variant, first, last):
    results = []
    for backend in ("chunked", "reference"):
        model = bounded(variant, first, last, routing_backend=backend).train()
        loss = model(token_ids(), labels=token_ids()).loss
        loss.backward()
        results.append(({"loss": loss.detach()}, gradients(model)))
    (loss, actual), (expected_loss, expected) = results
    assert_same_gradients(loss, expected_loss, tolerance=1e-5)
    for name in [name for name, gradient in expected.items() if gradient.abs().max() < 1e-7]:  # of single sources
        assert actual.pop(name).abs().max() < 1e-6, name
        expected.pop(name)
    assert_same_gradients(actual, expected, tolerance=5e-5)


@variants
@pytest.mark.parametrize("covering", [(LAYERS, 1), (0, LAYERS), (3, 3), (20, 20)])
def test_bounds_that_cover_everything_change_nothing(variant, covering):
    covered, plain = bounded(variant, *covering), tiny_model(variant, num_hidden_layers=LAYERS)
    assert {k: v.shape for k, v in covered.state_dict().items()} == {k: v.shape for k, v in plain.state_dict().items()}
    torch.testing.assert_close(covered(token_ids()).logits, plain(token_ids()).logits, atol=1e-6, rtol=1e-6)
    for model in (covered, plain):
        model.train()(token_ids(), labels=token_ids()).loss.backward()
    assert_same_gradients(gradients(covered), gradients(plain), tolerance=1e-6)


@variants
@torch.no_grad()
def test_bounds_that_do_not_cover_everything_change_the_output(variant):
    shapes_differ = bounded(variant, 1, 2).state_dict()
    plain = tiny_model(variant, num_hidden_layers=LAYERS)
    own = {k: v for k, v in plain.state_dict().items() if shapes_differ[k].shape == v.shape}
    changed = bounded(variant, 1, 2)
    changed.load_state_dict(own, strict=False)
    assert (changed(token_ids()).logits - plain(token_ids()).logits).abs().max() > 1e-3


@variants
@bounds
def test_state_dict_shapes(variant, first, last):
    model = bounded(variant, first, last)
    G, D = model.config.num_key_value_heads, model.config.hidden_size
    state = model.state_dict()
    for i in range(1, LAYERS):
        n = len([j for j in range(i + 1) if j < first or j > i - last])
        prefix = f"model.layers.{i}.self_attn.router"
        if variant.startswith("dynamic"):
            assert state[f"{prefix}.proj.weight"].shape == (G * n, D)
        else:
            assert state[f"{prefix}.weight"].shape == ((G, n * G) if variant.startswith("kv") else (G, n))
    assert not [name for name in state if "layers.0" in name and "router" in name]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({}, "not understood"),
        ({"first": 1}, "not understood"),
        ({"last": 1}, "not understood"),
        ({"first": 1, "last": 2, "middle": 3}, "not understood"),
        ({"every": 1}, "not understood"),
        ({"first": 1, "every": 1, "last": 2}, "not understood"),
        ({"every": 0, "last": 2}, r"\['every'\]=0 is not an integer of at least 1"),
        ({"every": 2, "last": 0}, r"\['last'\]=0"),
        ({"every": True, "last": 1}, r"\['every'\]=True"),
        ({"first": -1, "last": 2}, r"\['first'\]=-1"),
        ({"first": 1, "last": 0}, r"\['last'\]=0"),
        ({"first": 1, "last": -2}, r"\['last'\]=-2"),
        ({"first": True, "last": 2}, r"\['first'\]=True"),
        ({"first": 1, "last": True}, r"\['last'\]=True"),
        ({"first": 1.0, "last": 2}, r"\['first'\]=1.0"),
        ({"first": "1", "last": 2}, r"\['first'\]='1'"),
        ({"first": None, "last": 2}, r"\['first'\]=None"),
    ],
)
def test_bad_bounds_are_refused(value, message):
    with pytest.raises(ValueError, match=message):
        LimeConfig(**TINY, routing="static", routing_sources=value)


@pytest.mark.parametrize("value", [(1, 2), [1, 2], 3, "all", True])
def test_bounds_of_another_type_are_refused(value):
    with pytest.raises(
        ValueError, match=r'routing_sources=.* is not understood; allowed: None \(all\), or {"first": m'
    ):
        LimeConfig(**TINY, routing="static", routing_sources=value)


def test_bounds_need_a_routing():
    with pytest.raises(ValueError, match="needs routing='static' or 'dynamic' or 'kv' or 'depth_attention', not"):
        LimeConfig(**TINY, routing="none", routing_sources={"first": 1, "last": 2})


@variants
@pytest.mark.parametrize("cache", [DynamicCache, StaticCache])
@torch.no_grad()
def test_cached_logits_equal_the_full_forward(variant, cache):
    model = bounded(variant, 1, 2)
    input_ids = token_ids(tokens=11)
    expected = model(input_ids, use_cache=False).logits
    options = {"max_cache_len": 16} if cache is StaticCache else {}
    cache = cache(config=model.config, **options)
    chunks = input_ids.split([4, 1, 3, 2, 1], dim=1)
    logits = [model(chunk, past_key_values=cache, use_cache=True).logits for chunk in chunks]
    torch.testing.assert_close(torch.cat(logits, dim=1), expected, atol=2e-5, rtol=1e-4)


@variants
@pytest.mark.parametrize("use_reentrant", [False, True], ids=["plain", "reentrant"])
def test_gradient_checkpointing_changes_nothing(variant, use_reentrant):
    model = bounded(variant, 1, 2).train()
    model(token_ids(), labels=token_ids()).loss.backward()
    expected = gradients(model)
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": use_reentrant})
    model(token_ids(), labels=token_ids()).loss.backward()
    assert_same_gradients(gradients(model), expected, tolerance=1e-6)


@variants
@bounds
@pytest.mark.parametrize("backend", ["chunked", "reference"])
@torch.no_grad()
def test_inference_lets_go_of_what_no_layer_will_read(variant, first, last, backend, monkeypatch):
    """At most first + last sources are held, none of them as a slice of something larger."""
    held = []
    opened, closed = History.open, History.close

    def counted_open(history, layer_idx, *args):
        normalized, carrier, *sources = opened(history, layer_idx, *args)
        assert len(sources) <= first + last
        held.append(len(history.sources))
        return normalized, carrier, *sources

    def counted_close(history, layer_idx, *left):
        closed(history, layer_idx, *left)
        storages = {source.data_ptr(): source.untyped_storage().nbytes() for source in history.sources.values()}
        assert sum(storages.values()) == sum(source.nbytes for source in history.sources.values())
        held.append(len(history.sources))

    monkeypatch.setattr(History, "open", counted_open)
    monkeypatch.setattr(History, "close", counted_close)
    model = bounded(variant, first, last, routing_backend=backend)
    model(token_ids(), use_cache=False)
    assert len(held) == 2 * LAYERS
    assert max(held) <= first + last
    assert held[-1] == 0


@variants
def test_config_and_weights_survive_saving(variant, tmp_path):
    model = bounded(variant, 1, 2)
    model.save_pretrained(tmp_path)
    loaded = LimeForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.routing_sources == {"first": 1, "last": 2}
    assert loaded.config.to_dict()["routing_sources"] == {"first": 1, "last": 2}
    assert torch.equal(loaded(token_ids()).logits, model(token_ids()).logits)
    assert LimeConfig.from_dict(model.config.to_dict()).routing_sources == {"first": 1, "last": 2}


def test_a_router_costs_the_same_at_every_depth():
    model = LimeForCausalLM(tiny_config("kv", num_hidden_layers=8, routing_sources={"first": 1, "last": 2}))
    sizes = [sum(p.numel() for p in layer.self_attn.router.parameters()) for layer in model.model.layers]
    assert sizes[3:] == [sizes[3]] * 5
