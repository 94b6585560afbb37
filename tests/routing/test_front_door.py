"""Routing in a model of one's own: plain sizes, ordinary projections, two lines; and what is refused there."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from limelm.routing import ROUTERS, History, HyperConnection, depth_mix, make_routers
from limelm.routing.ops.backends import why_not_triton

B, T, D, G, HEAD_DIM, L = 2, 5, 24, 3, 4, 5
BOUNDED = {"first": 1, "last": 2}
OPTIONS = [
    *({"routing": routing} for routing in ROUTERS),
    *({"routing": routing, "sources": BOUNDED} for routing in ROUTERS if "routing_sources" in ROUTERS[routing].options),
    {"routing": "static", "top_p": 0.7},
    {"routing": "static", "sources": {"every": 2, "last": 1}},
    {"routing": "kv", "init": "identity"},
]
options = pytest.mark.parametrize("options", OPTIONS, ids=lambda each: "-".join(map(str, each.values())))
needs_triton = pytest.mark.skipif(why_not_triton("cpu") is not None, reason=str(why_not_triton("cpu")))


class Stack(nn.Module):
    """Layers that do nothing but make keys and values, and add what comes of them to the stream."""

    def __init__(self, options: dict, backend: str, biases: str = "", norm: type[nn.Module] = nn.RMSNorm):
        super().__init__()
        torch.manual_seed(0)
        if not ROUTERS[options["routing"]].has_fast_path:
            backend = "auto"  # there is one
        self.routers = make_routers(
            **options, num_layers=L, hidden_size=D, num_heads=G, head_dim=HEAD_DIM, backend=backend
        )
        self.norms = nn.ModuleList(norm(D, eps=1e-6) for _ in range(L))
        self.k_projs, self.v_projs = (
            nn.ModuleList(nn.Linear(D, G * HEAD_DIM, which in biases) for _ in range(L)) for which in "kv"
        )
        self.q_projs = nn.ModuleList(nn.Linear(D, 2 * G * HEAD_DIM, "q" in biases) for _ in range(L))
        self.out_projs = nn.ModuleList(nn.Linear(G * HEAD_DIM, D) for _ in range(L))

    def add(self, i: int, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        assert k.shape == v.shape == (B, T, G, HEAD_DIM)
        return x + self.out_projs[i]((k.sigmoid() * v).flatten(2))

    def forward(self, x: Tensor) -> Tensor:
        history = History(self.routers.plan)
        for i in range(L):
            x = self.add(i, x, *self.keys_values(i, history, x))
        return x

    def keys_values(self, i: int, history: History, x: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.norms[i]
        query = self.q_projs[i](norm(x))
        return self.routers[i].keys_values(history, x, norm, self.k_projs[i], self.v_projs[i], query)

    def forward_checkpointed(self, x: Tensor) -> Tensor:
        """The same with each layer made again in the backward, and the history outside of that."""
        history = History(self.routers.plan)
        for i in range(L):
            read = history.open(i, x, 1e-6)
            x, *left = checkpoint(self.layer, i, x, *read, use_reentrant=False)
            history.close(i, *left)
        return x

    def layer(self, i: int, x: Tensor, normalized: Tensor | None, carrier: Tensor | None, *sources: Tensor):
        gain = self.norms[i].weight if normalized is not None else None
        attention_input = self.norms[i](x) if normalized is None else gain * normalized
        k, v, carrier, source = self.routers[i](
            attention_input, gain, self.k_projs[i], self.v_projs[i], carrier, sources, self.q_projs[i](attention_input)
        )
        return self.add(i, x, *(states.reshape(B, T, G, HEAD_DIM) for states in (k, v))), carrier, source


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(B, T, D, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()


def outcome(model: nn.Module, forward) -> list[Tensor]:
    """The output and every gradient."""
    x = inputs()
    y = forward(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(parameter.grad for parameter in model.parameters())]


def assert_near(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-5) -> None:
    for one, other in zip(actual, expected, strict=True):
        if other is None or one is None:
            assert one is other
            continue
        torch.testing.assert_close(one, other, atol=tolerance * (1 + other.abs().max().item()), rtol=tolerance)


@options
@pytest.mark.parametrize("biases", ["", "qkv", "k", "v"])
@pytest.mark.parametrize("backend", ["auto", pytest.param("triton", marks=needs_triton)])
def test_every_backend_equals_the_formulas(options, biases, backend):
    expected, model = Stack(options, "reference", biases), Stack(options, backend, biases)
    assert_near(outcome(model, model), outcome(expected, expected))


@options
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_layers_may_be_checkpointed_between_open_and_close(options, backend):
    model, plain = Stack(options, backend), Stack(options, backend)
    assert_near(outcome(model, model.forward_checkpointed), outcome(plain, plain))


@options
@torch.no_grad()
def test_inference_equals_training(options):
    model = Stack(options, "chunked")
    with torch.enable_grad():
        expected = model(inputs()).detach()
    torch.testing.assert_close(model.eval()(inputs()), expected, atol=1e-5, rtol=1e-5)


def test_kv_takes_any_norm_and_begins_as_a_model_without_routing():
    routed = Stack({"routing": "kv", "init": "identity"}, "auto", norm=nn.LayerNorm)
    plain = Stack({"routing": "none"}, "auto", norm=nn.LayerNorm)
    torch.testing.assert_close(routed(inputs()), plain(inputs()), atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_a_norm_that_is_no_rms_norm_is_refused_where_representations_are_mixed(routing):
    with pytest.raises(TypeError, match=r"norm=LayerNorm.*RMSNorm.*routing='kv'"):
        Stack({"routing": routing}, "auto", norm=nn.LayerNorm)(inputs())


@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_a_projection_with_something_around_it_is_refused(backend):
    model = Stack({"routing": "static"}, backend)
    model.k_projs[2] = nn.Sequential(model.k_projs[2])
    with pytest.raises(TypeError, match="Sequential"):
        model(inputs())


def test_a_layer_that_runs_out_of_turn_is_refused():
    model = Stack({"routing": "kv"}, "auto")
    history = History(model.routers.plan)
    arguments = (inputs(), model.norms[0], model.k_projs[0], model.v_projs[0])
    model.routers[0].keys_values(history, *arguments)
    with pytest.raises(RuntimeError, match=r"layer 0 begins, but it is layer 1's turn"):
        model.routers[0].keys_values(history, *arguments)
    with pytest.raises(RuntimeError, match=r"layer 2 begins"):
        model.routers[2].keys_values(history, *arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"routing": "other"}, "routing='other' is unknown; allowed: none, static, dynamic, kv, value_residual,"),
        ({"routing": "kv", "top_p": 0.5}, "routing_top_p=0.5 needs routing='static', not 'kv'"),
        ({"routing": "static", "top_p": 1.5}, "routing_top_p=1.5 must be in"),
        ({"routing": "static", "init": "identity"}, "routing_init='identity' needs routing='kv' or 'value_residual'"),
        ({"routing": "kv", "init": "zero"}, "routing_init='zero' is unknown"),
        ({"routing": "kv", "sources": {"first": 1}}, "routing_sources={'first': 1} is not understood"),
        ({"routing": "value_residual", "sources": BOUNDED}, "routing_sources={'first': 1, 'last': 2} needs routing="),
        ({"routing": "kv", "backend": "fast"}, "routing_backend='fast' is unknown"),
        ({"routing": "kv", "hidden_size": 23}, "hidden_size=23 is not a multiple of num_heads=3; give head_dim"),
    ],
    ids=str,
)
def test_sizes_and_options_that_cannot_be_are_refused(change, message):
    with pytest.raises(ValueError) as error:
        make_routers(**{"num_layers": 3, "hidden_size": 24, "num_heads": 3} | change)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("shape", "terms"), [((4,), "n,nbtd->btd"), ((G, 4), "gn,nbtd->btgd"), ((B, T, G, 4), "btgn,nbtd->btgd")]
)
def test_the_mix_of_a_list_of_tensors(shape, terms):
    sources = [torch.randn(B, T, D, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    weights = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    mixed, expected = depth_mix(sources, weights), torch.einsum(terms, weights, torch.stack(sources))
    torch.testing.assert_close(mixed, expected)
    probe = torch.randn_like(expected)
    for actual, wanted in zip(
        *(torch.autograd.grad(out, [weights, *sources], probe) for out in (mixed, expected)), strict=True
    ):
        torch.testing.assert_close(actual, wanted)


@pytest.mark.parametrize("dynamic", [True, False])
def test_hyper_connections_from_plain_sizes_begin_as_residual_connections(dynamic):
    n, sublayer = 3, nn.Linear(D, D)
    connections = [HyperConnection(D, n, layer_idx, dynamic) for layer_idx in range(4)]
    x = inputs().detach()
    streams, plain = x.unsqueeze(-2).repeat(1, 1, n, 1), x
    for connection in connections:
        read, carried, beta = connection(streams)
        streams = connection.write(sublayer(read), carried, beta)
        plain = plain + sublayer(nn.functional.layer_norm(plain, (D,), eps=1e-5))
    torch.testing.assert_close(streams.sum(dim=-2), n * plain)


class GemmaRMSNorm(nn.Module):
    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.zeros(size)), eps

    def forward(self, x):
        return nn.functional.rms_norm(x, x.shape[-1:], None, self.eps) * (1 + self.weight)


class HiddenEps(nn.RMSNorm):
    def forward(self, x):
        return nn.functional.rms_norm(x, x.shape[-1:], self.weight, 1e-3)


class Mine(nn.Module):
    """An RMSNorm under another name."""

    def __init__(self, size, eps):
        super().__init__()
        self.weight, self.epsilon = nn.Parameter(torch.full((size,), 0.5)), eps

    def forward(self, x):
        return self.weight * x / (x.pow(2).mean(-1, keepdim=True) + self.epsilon).sqrt()


@pytest.mark.parametrize("norm", [GemmaRMSNorm, HiddenEps, nn.LayerNorm, nn.Identity])
def test_a_norm_that_is_no_rms_norm_is_refused_whatever_its_name(norm):
    with pytest.raises(TypeError, match=rf"^norm={norm.__name__}: .*RMSNorm"):
        Stack({"routing": "static"}, "auto", norm=norm)(inputs())


def test_a_norm_with_a_hook_is_refused():
    model = Stack({"routing": "static"}, "auto")
    model.norms[1].register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(TypeError, match="norm=RMSNorm"):
        model(inputs())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("norm", [lambda size, eps: nn.RMSNorm(size), Mine])
@torch.no_grad()
def test_an_rms_norm_is_known_by_what_it_does(norm, dtype):
    """PyTorch's default epsilon is that of float32 in half precision too: small inputs show it."""
    model = Stack({"routing": "static"}, "auto", norm=norm).to(dtype)
    x = 0.01 * inputs(dtype).detach()
    k, _ = model.routers[0].keys_values(History(model.routers), x, model.norms[0], model.k_projs[0], model.v_projs[0])
    expected = model.k_projs[0](model.norms[0](x)).unflatten(-1, (G, HEAD_DIM))
    torch.testing.assert_close(k, expected, atol=2e-2 if dtype != torch.float32 else 1e-5, rtol=2e-2)


@options
def test_first_layers_may_run_without_gradients(options):
    def half_frozen(model):
        def forward(x):
            history = History(model.routers)
            for i in range(L):
                with torch.set_grad_enabled(i >= 2):
                    x = model.add(i, x, *model.keys_values(i, history, x))
            return x

        return forward

    model, expected = Stack(options, "chunked"), Stack(options, "reference")
    assert_near(outcome(model, half_frozen(model)), outcome(expected, half_frozen(expected)))


@pytest.mark.parametrize("routing", ["kv", "static"])
def test_projections_of_other_sizes_are_refused_with_the_sizes(routing):
    routers = make_routers(routing, 2, D, 6)
    with pytest.raises(ValueError, match=r"must make 24 features, for num_heads=6 .* head_dim=4, not 12"):
        routers[0].keys_values(History(routers), inputs(), nn.RMSNorm(D), nn.Linear(D, 12), nn.Linear(D, 12))


def test_forgotten_queries_are_missed_by_name():
    model = Stack({"routing": "depth_attention"}, "auto")
    history, x = History(model.routers), inputs()
    model.keys_values(0, history, x)
    with pytest.raises(TypeError, match=r"routing='depth_attention' .*: give query"):
        model.routers[1].keys_values(history, x, model.norms[1], model.k_projs[1], model.v_projs[1])


def test_a_forgotten_history_is_missed_by_name():
    model = Stack({"routing": "kv"}, "auto")
    with pytest.raises(TypeError, match="history=NoneType"):
        model.routers[0].keys_values(None, inputs(), model.norms[0], model.k_projs[0], model.v_projs[0])


@torch.no_grad()
def test_under_autocast_all_layers_make_keys_of_one_type():
    model = Stack({"routing": "static"}, "auto", "qkv")
    history, x = History(model.routers), inputs()
    with torch.autocast("cpu", torch.bfloat16):
        for i, router in enumerate(model.routers):
            k, v = router.keys_values(history, x, model.norms[i], model.k_projs[i], model.v_projs[i])
            assert k.dtype == v.dtype == torch.bfloat16


@pytest.mark.parametrize("shape", [(1, 5, 3), (4,), (3, 2), (2, 3), (5, 2, 3, 3)])
def test_a_mix_of_other_shapes_is_refused(shape):
    with pytest.raises(ValueError, match=r"weights .* take \[n\]"):
        depth_mix([torch.zeros(1, 5, 8)] * 3, torch.zeros(shape if shape != (2, 3) else (2, 4)))


def test_sizes_below_one_are_refused():
    for sizes in ((0, 8, 2), (2, 0, 2), (2, 8, 0)):
        with pytest.raises(ValueError, match=r"must be at least 1"):
            make_routers("kv", *sizes)
    with pytest.raises(ValueError, match=r"streams must be \[B, T, 2, D\]"):
        HyperConnection(D, 2, 0)(inputs())


@torch.no_grad()
def test_kv_takes_the_parts_of_a_fused_projection():
    """Whatever can be called: for kv routing projections are called, not read."""
    model = Stack({"routing": "kv"}, "auto")
    expected, x = model(inputs()), inputs()
    history = History(model.routers)
    for i, router in enumerate(model.routers):
        fused = torch.cat((model.k_projs[i].weight, model.v_projs[i].weight))
        k, v = (model.norms[i](x) @ fused.T).chunk(2, dim=-1)
        x = model.add(i, x, *router.keys_values(history, x, model.norms[i], lambda _, k=k: k, lambda _, v=v: v))
    torch.testing.assert_close(x, expected, atol=1e-5, rtol=1e-5)
