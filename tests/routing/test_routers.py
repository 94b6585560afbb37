"""The routers alone: what they learn, what they hand on, and how they use a history."""

import pytest
import torch
from torch import nn

from limelm.routing import ROUTERS, HeadwiseLinear, RouterSpec, ValueResidualRouter

B, T, G, D, HEAD_DIM = 2, 5, 2, 8, 4
QUERY = torch.randn(B, T, 2 * G * HEAD_DIM, generator=torch.Generator().manual_seed(0))
routings = pytest.mark.parametrize("routing", ROUTERS)


def make_router(routing: str, layer_idx: int, **options):
    router = ROUTERS[routing](RouterSpec(layer_idx=layer_idx, hidden_size=D, num_heads=G, **options))
    for parameter in router.parameters():
        nn.init.normal_(parameter)
    return router


def projections(headwise: bool) -> list[nn.Module]:
    if headwise:
        return [HeadwiseLinear(D, G, HEAD_DIM) for _ in range(2)]
    return [nn.Linear(D, G * HEAD_DIM, bias=False) for _ in range(2)]


def test_the_registry():
    assert list(ROUTERS) == ["none", "static", "dynamic", "kv", "value_residual", "depth_attention"]


def sources_for(router, dtype=torch.float32) -> list[torch.Tensor]:
    """What a history gives: normalized representations `[1, B T D]`, or what earlier layers left."""
    if router.mixes_representations:
        return [torch.randn(1, B * T * D, dtype=dtype) for _ in router.reads]
    if not router.has_fast_path:
        width = HEAD_DIM if isinstance(router, ValueResidualRouter) else 2 * HEAD_DIM
        return [torch.randn(B, T, G, width, dtype=dtype) for _ in router.reads]
    return [torch.randn(G, B * T * 2 * HEAD_DIM, dtype=dtype) for _ in router.reads[:-1]]


@routings
@torch.no_grad()
def test_layer_zero_is_llama(routing):
    router = make_router(routing, 0)
    router.init_weights()
    assert list(router.parameters()) == []
    k_proj, v_proj = projections(headwise=False)
    attention_input = torch.randn(B, T, D)
    K, V, carrier, source = router.eval()(attention_input, None, k_proj, v_proj)
    torch.testing.assert_close(K.reshape(B, T, -1), k_proj(attention_input))
    torch.testing.assert_close(V.reshape(B, T, -1), v_proj(attention_input))
    assert carrier is None
    assert (source is None) == (routing in ("none", "static", "dynamic"))


@routings
@pytest.mark.parametrize("layer_idx", [1, 3])
def test_shapes(routing, layer_idx):
    router = make_router(routing, layer_idx)
    k_proj, v_proj = projections(headwise=router.mixes_representations)
    X = torch.randn(B, T, D)
    with torch.no_grad():
        K, V, _, source = router(X, torch.ones(D), k_proj, v_proj, None, sources_for(router), QUERY)
    assert K.numel() == V.numel() == B * T * G * HEAD_DIM
    assert K.shape[:2] == V.shape[:2] == (B, T)
    left = {"kv": (G, B * T * 2 * HEAD_DIM), "depth_attention": (B, T, G, 2 * HEAD_DIM)}.get(routing)
    assert (source is None) if left is None else (source.shape == left)


def test_heads_that_need_gradients_need_a_carrier():
    router = make_router("kv", 1)
    k_proj, v_proj = projections(headwise=False)
    with pytest.raises(ValueError, match="no carrier"):
        router(torch.randn(B, T, D), None, k_proj, v_proj, None, sources_for(router))


@pytest.mark.parametrize("backend", ["reference", "chunked"])
@torch.no_grad()
def test_heads_are_handed_on_as_they_are_before_the_mix(backend):
    router = make_router("kv", 2, backend=backend)
    k_proj, v_proj = projections(headwise=False)
    X = torch.randn(B, T, D)
    source = router(X, None, k_proj, v_proj, None, sources_for(router))[3].view(G, 2, B, T, HEAD_DIM)
    for part, projection in enumerate((k_proj, v_proj)):
        expected = projection(X).unflatten(-1, (G, HEAD_DIM)).permute(2, 0, 1, 3)
        torch.testing.assert_close(source[:, part], expected)


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_a_projection_that_is_not_its_own_is_refused(routing):
    """Its weight would be read and whatever it adds passed over."""
    router = make_router(routing, 1)
    k_proj, v_proj = projections(headwise=True)
    with pytest.raises(TypeError, match=r"Sequential.*routing_backend='reference'"):
        router(torch.randn(B, T, D), torch.ones(D), nn.Sequential(k_proj), v_proj, None, sources_for(router))


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_routing_weights_are_distributions_over_the_sources(routing):
    router = make_router(routing, 3)
    A = router.routing_weights(torch.randn(B, T, D))
    assert A.shape == ((G, 4) if routing == "static" else (B, T, G, 4))
    assert A.dtype == torch.float32
    assert (A > 0).all()
    torch.testing.assert_close(A.sum(dim=-1), torch.ones(A.shape[:-1]))


def test_dynamic_weights_depend_on_the_token_alone():
    router = make_router("dynamic", 2)
    current = torch.randn(B, T, D)
    changed = current.clone()
    changed[0, 3] += 1
    differs = (router.routing_weights(current) != router.routing_weights(changed)).flatten(2).any(dim=-1)
    assert differs.nonzero().tolist() == [[0, 3]]


@pytest.mark.parametrize("layer_idx", [1, 4])
@pytest.mark.parametrize("init", ["paper", "identity"])
def test_kv_init(layer_idx, init):
    router = make_router("kv", layer_idx, init=init)
    router.init_weights()
    older, own = router.weight.detach().split([layer_idx * G, G], dim=1)
    assert torch.equal(own, torch.eye(G))
    bound = (3 / ((layer_idx + 1) * G)) ** 0.5
    assert older.abs().max() <= bound
    assert older.any() == (init == "paper")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@routings
@torch.no_grad()
def test_dtype_is_the_inputs(routing, dtype):
    router = make_router(routing, 1).to(dtype)
    k_proj, v_proj = (projection.to(dtype) for projection in projections(headwise=router.mixes_representations))
    X = torch.randn(B, T, D, dtype=dtype)
    K, V, *_ = router(X, torch.ones(D, dtype=dtype), k_proj, v_proj, None, sources_for(router, dtype), QUERY.to(dtype))
    assert K.dtype == V.dtype == dtype
