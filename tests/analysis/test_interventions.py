"""Routes that are cut, scaled or set to a mean, on every kind of model, against weights that are set by hand."""

import pytest
import torch

import limelm
from limelm.analysis.interventions import routes, source_means
from limelm.routing import StaticRouter
from tests.analysis.routed import ROUTED, routed_model
from tests.models.variants import tiny_model, token_ids
from tests.routing.test_front_door import OPTIONS, B, D, Stack, T


def logits_of(model):
    with torch.no_grad():
        return model(token_ids()).logits


@pytest.mark.parametrize("variant", ROUTED)
def test_all_that_is_done_to_routes_is_undone(variant):
    model = routed_model(variant)
    own = logits_of(model)
    with routes(model).scale(1):
        torch.testing.assert_close(logits_of(model), own, rtol=1e-4, atol=1e-5)  # by other operations
    with pytest.raises(KeyboardInterrupt), routes(model).cut():
        assert not torch.allclose(logits_of(model), own, atol=1e-3)
        raise KeyboardInterrupt
    assert torch.equal(logits_of(model), own)
    with routes(model).set_to_mean(source_means(model, [token_ids()])):
        assert not torch.allclose(logits_of(model), own, atol=1e-3)
    assert torch.equal(logits_of(model), own)


@pytest.mark.parametrize("variant", ROUTED)
def test_changes_add_up_chained_or_nested(variant):
    model = routed_model(variant)
    (first, *_, last) = routes(model).readers
    of_first, of_last = first.source_ids[0], last.source_ids[-1]
    with routes(model).cut(first.place, source=of_first).scale(0.5, last.place, source=of_last):
        both = logits_of(model)
    with routes(model).cut(first.place, source=of_first):
        one = logits_of(model)
        with routes(model).scale(0.5, last.place, source=of_last):
            assert torch.equal(logits_of(model), both)
        assert torch.equal(logits_of(model), one) and not torch.allclose(one, both, atol=1e-4)
    with routes(model).scale(0.5).scale(2):
        torch.testing.assert_close(logits_of(model), logits_of(routed_model(variant)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", ROUTED)
def test_a_constant_source_is_its_mean(variant):
    """One token over and over gives positions the same sources, in layers that cannot tell positions apart."""
    model = routed_model(variant)
    ids = torch.full((2, 7), 5)
    with torch.no_grad():
        own = model(ids).logits
        with routes(model).set_to_mean(source_means(model, [ids])):
            torch.testing.assert_close(model(ids).logits, own, rtol=1e-3, atol=1e-4)


def by_hand(variant, name, change):
    model = tiny_model(variant)
    with torch.no_grad():
        change(model.get_parameter(name))
    return logits_of(model)


@pytest.mark.parametrize(
    "variant, cut, name, entries",
    [
        # R of layer 2 is [G, 3 G]; head 1, representation 0
        ("kv_gqa", (2, 1, 0), "model.layers.2.self_attn.router.weight", (1, slice(0, 2))),
        ("kv_gqa", (3, 0, -1), "model.layers.3.self_attn.router.weight", (0, slice(6, 8))),
        # place 4 has the weights of outputs 0, 2 and 4
        ("dense_former", (4, 0, 2), "model.layers.3.connection.weight", (1,)),
        ("residual_scalars", (2, None, 0), "model.layers.2.connection.embedding_scale", (0,)),
        ("residual_scalars", (2, None, -1), "model.layers.2.connection.residual_scale", (0,)),
        ("value_residual_gqa", (1, None, 0), "model.layers.1.self_attn.router.weight", (0,)),
    ],
)
def test_a_cut_is_a_weight_of_zero(variant, cut, name, entries):
    layer, head, source = cut
    model = tiny_model(variant)
    with routes(model).cut(layer, head, source):
        found = logits_of(model)
    expected = by_hand(variant, name, lambda weight: weight.__setitem__(entries, 0))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, logits_of(model), atol=1e-4)


@pytest.mark.parametrize("variant", ["static_gqa", "static_top_p_gqa", "dynamic_gqa", "static_apart_gqa"])
def test_a_cut_leaves_the_other_weights_of_a_softmax_as_they_are(variant, monkeypatch):
    model = tiny_model(variant)
    with routes(model).cut(layer=2, head=1, source=0):
        found = logits_of(model)
    router = model.model.layers[2].self_attn.router
    own = router.routing_weights

    def without(current=None):
        A = own(current).clone()
        A[..., [1] if router.spec.share_kv else [1, 3], 0] = 0
        return A

    monkeypatch.setattr(router, "routing_weights", without)
    for each in model.model.layers:
        object.__setattr__(each.self_attn.router.spec, "backend", "reference")
    model.model.plan.backend = "reference"
    model.train() if isinstance(router, StaticRouter) else None  # top-p is not frozen then
    with torch.no_grad():
        torch.testing.assert_close(found, model(token_ids()).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("which, column", [("keys", 0), ("values", 1)])
def test_keys_and_values_with_weights_of_their_own_are_cut_apart(which, column):
    found = {}
    for name in (which, None):
        model = routed_model("apart kv")
        with routes(model).cut(2, 0, 1, weight_set=name):
            found[name] = logits_of(model)
    model = routed_model("apart kv")
    with torch.no_grad():
        model.model.layers[2].self_attn.router.weight[column, 0, 2:4] = 0
    torch.testing.assert_close(found[which], logits_of(model), rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found[which], found[None], atol=1e-5)


@pytest.mark.parametrize("variant", ["static_gqa", "kv_gqa", "dense_former", "attached dynamic", "attached attnres"])
def test_routes_are_cut_inside_generate(variant):
    model, ids = routed_model(variant), token_ids()
    options = {"max_new_tokens": 5, "do_sample": False}
    own = model.generate(ids, **options)
    (*_, last) = routes(model).readers
    with limelm.routes(model).cut(last.place, source=-1).cut(source=0):
        cut = model.generate(ids, **options)
        for length in range(ids.shape[1], cut.shape[1]):
            with torch.no_grad():
                following = model(cut[:, :length], use_cache=False).logits[:, -1].argmax(dim=-1)
            assert torch.equal(cut[:, length], following)
    assert not torch.equal(cut, own) and torch.equal(model.generate(ids, **options), own)


def test_compiled_models_are_cut_too():
    model, ids = tiny_model("static_gqa"), token_ids()
    compiled = torch.compile(model, backend="eager")
    with torch.no_grad():
        own = compiled(ids).logits
        with routes(model).cut(3):
            assert not torch.allclose(compiled(ids).logits, own, atol=1e-3)
        assert torch.equal(compiled(ids).logits, own)


@pytest.mark.parametrize(
    "route, message",
    [
        ({"layer": 9}, "layer=9: no route there; allowed: 1, 2, 3"),
        ({"layer": 0}, "layer=0: no route there"),
        ({"head": 7}, r"no such route: .*head=7.*there are heads 0 to 1, sources 0 to 3"),
        ({"layer": 1, "source": 3}, r"no such route: layer=1.*sources 0 to 1"),
        ({"weight_set": "queries"}, "no such route"),
        ({"layer": [1, 5]}, "layer=5"),
        ({"head": [0, 99]}, r"no such route: .*head=\[0, 99\].*there are heads 0 to 1"),
        ({"source": [0, 4]}, r"no such route: .*source=\[0, 4\].*sources 0 to 3"),
        ({"layer": 2, "source": [-1, -4]}, "no such route: layer=2.*sources 0 to 2"),
    ],
)
def test_routes_that_are_not_there_are_refused(route, message):
    model = tiny_model("static_gqa")
    with pytest.raises(ValueError, match=message):
        routes(model).cut(**route)


@pytest.mark.parametrize("variant", ["none", "hc_dynamic", "mhc_gqa"])
def test_models_without_routes_are_refused(variant):
    with pytest.raises(ValueError, match="no routers, and nothing else that weighs earlier layers"):
        routes(tiny_model(variant))


ROUTING = [options for options in OPTIONS if options["routing"] != "none"]


@pytest.mark.parametrize("options", ROUTING, ids=lambda each: "-".join(map(str, each.values())))
def test_routes_of_a_model_of_ones_own_are_cut(options):
    model, x = Stack(options, "chunked"), torch.randn(B, T, D)
    with torch.no_grad():
        own = model(x)
        with routes(model).scale(1):
            torch.testing.assert_close(model(x), own, rtol=1e-4, atol=1e-5)
        with routes(model).cut(layer=2, source=-1):
            assert not torch.allclose(model(x), own, atol=1e-4)
        assert torch.equal(model(x), own)


@pytest.mark.parametrize("is_nested", [False, True])
def test_routes_of_a_layer_are_set_to_the_means_of_one_text(is_nested):
    model = tiny_model("static_gqa")
    first, second = (source_means(model, [token_ids()]) for _ in range(2))
    with pytest.raises(ValueError, match="their means over one text at a time"):
        if is_nested:
            with routes(model).set_to_mean(first, head=0), routes(model).set_to_mean(second, head=1):
                pass
        else:
            routes(model).set_to_mean(first, head=0).set_to_mean(second, head=1)
    with routes(model).set_to_mean(first, head=0).set_to_mean(first, head=1):
        chained = model(token_ids()).logits
    with routes(model).set_to_mean(first):
        torch.testing.assert_close(chained, model(token_ids()).logits)
