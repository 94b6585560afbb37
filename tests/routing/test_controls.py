"""What claims about heads have to be held against: one distribution for all, routes that are not learned, temperatures,
and keys and values that are routed apart.
"""

import pytest
import torch

import limelm
from limelm import LimeConfig, LimeForCausalLM
from limelm.analysis import retrieval_weights
from limelm.optimization import checkpoint_activations
from limelm.routing import make_routers, routers_in
from tests.models.naive_copy import naive_copy
from tests.models.variants import TINY, assert_same_gradients, gradients, randomize, token_ids

APART, SHARED = {"routing_share_kv": False}, {"routing_share_heads": True}
#: A routing, its options, and how many rows of weights a router of G = 2 heads and n sources then has.
CONTROLS = {
    "static-apart": ("static", APART, lambda n: 4),
    "static-shared": ("static", SHARED, lambda n: 1),
    "static-apart-shared-top-p": ("static", APART | SHARED | {"routing_top_p": 0.7}, lambda n: 2),
    "static-apart-top-p": ("static", APART | {"routing_top_p": 0.6}, lambda n: 4),
    "static-hot": ("static", {"routing_temperature": 3.0}, lambda n: 2),
    "dynamic-apart": ("dynamic", APART, lambda n: 4 * n),
    "dynamic-shared": ("dynamic", SHARED, lambda n: n),
    "dynamic-apart-shared-hot": ("dynamic", APART | SHARED | {"routing_temperature": 3.0}, lambda n: 2 * n),
    "kv-apart": ("kv", APART, lambda n: 4),
}
controls = pytest.mark.parametrize("control", CONTROLS)
ROUTINGS = ("static", "dynamic", "kv", "value_residual")


def config_of(control: str, **changes) -> LimeConfig:
    routing, options, _ = CONTROLS[control]
    sizes = TINY | {"num_hidden_layers": 3, "num_key_value_heads": 2}
    return LimeConfig(**sizes | {"routing": routing} | options | changes)


def model_of(control: str, **changes) -> LimeForCausalLM:
    return randomize(LimeForCausalLM(config_of(control, **changes))).eval()


def outcome(model, probe) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = model(token_ids(tokens=6)).logits
    (logits * probe).sum().backward()
    return logits.detach(), gradients(model)


@controls
@pytest.mark.parametrize("backend", ["reference", "chunked"])
def test_logits_and_all_gradients_equal_the_naive_version(control, backend):
    model = model_of(control, routing_backend=backend).double().train()
    naive = naive_copy(model)
    expected = naive.logits(token_ids(tokens=6))
    probe = torch.randn_like(expected)
    logits, actual = outcome(model, probe)
    torch.testing.assert_close(logits, expected, atol=1e-5 * expected.abs().max().item(), rtol=0)
    (expected * probe).sum().backward()
    assert_same_gradients(actual, {name: weight.grad for name, weight in naive.weights.items()})


@controls
@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
def test_evaluation_equals_the_formulas(control, bias):
    """Of many tokens, and of few from a cache, which go another way."""
    reference = model_of(control, routing_backend="reference", attention_bias=bias)
    model = model_of(control, attention_bias=bias)
    ids = token_ids(tokens=40)
    with torch.no_grad():
        expected = reference(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=1e-5)
        past = model(ids[:, :37], use_cache=True).past_key_values
        steps = [model(ids[:, t : t + 1], past_key_values=past, use_cache=True).logits for t in range(37, 40)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected[:, 37:], atol=1e-5, rtol=1e-5)


@controls
def test_checkpointing_changes_nothing(control):
    probe = torch.randn(2, 6, TINY["vocab_size"])
    expected = outcome(model_of(control).train(), probe)
    model = model_of(control).train()
    checkpoint_activations(model)
    actual = outcome(model, probe)
    torch.testing.assert_close(actual[0], expected[0])
    assert_same_gradients(actual[1], expected[1], tolerance=1e-6)


@controls
def test_rows_of_weights(control, tmp_path):
    model = model_of(control)
    routing, _, rows = CONTROLS[control]
    name = "router.proj.weight" if routing == "dynamic" else "router.weight"
    for i in (1, 2):
        n = i + 1
        columns = {"static": n, "dynamic": 32, "kv": 2 * n}[routing]
        assert model.state_dict()[f"model.layers.{i}.self_attn.{name}"].shape == (rows(n), columns)
    model.save_pretrained(tmp_path)
    loaded = LimeForCausalLM.from_pretrained(tmp_path).eval()
    assert loaded.config.to_dict() | {"_name_or_path": ""} == model.config.to_dict() | {"_name_or_path": ""}
    assert torch.equal(loaded(token_ids()).logits, model(token_ids()).logits)


@controls
@torch.no_grad()
def test_what_analysis_shows(control):
    model = model_of(control)
    weights = retrieval_weights(model, "m", [token_ids()])
    apart, shared = not model.config.routing_share_kv, model.config.routing_share_heads
    rows = torch.tensor(weights.layers[2])
    assert rows.shape == (4 if apart else 2, 3)
    assert weights.sets == (("keys", "values") if apart else ())
    assert (rows[0] == rows[1]).all() == shared
    assert not apart or not torch.equal(rows[0], rows[2])
    torch.testing.assert_close(rows.sum(-1), torch.ones(len(rows)).double(), atol=1e-6, rtol=0)
    if model.config.routing == "dynamic":
        router = model.model.layers[2].self_attn.router
        norm, P = router.directions(model.model.layers[2])
        assert len(P) == len(rows) * 3
        X = torch.randn(1, 5, 32)
        logits = (norm(X) @ P.T).unflatten(-1, (-1, 3))
        torch.testing.assert_close(logits.softmax(-1), router.routing_weights(norm(X)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("routing", ["static", "dynamic"])
@torch.no_grad()
def test_equal_sets_are_one_set(routing):
    """And a distribution for all heads is the same one for each."""
    plain = randomize(LimeForCausalLM(LimeConfig(**TINY, routing=routing)))
    apart, shared = (
        LimeForCausalLM(LimeConfig(**TINY, routing=routing, **options)).eval() for options in (APART, SHARED)
    )
    state, names = plain.state_dict(), [name for name, _ in plain.named_parameters() if ".router." in name]
    first = {name: state[name].unflatten(0, (4, -1))[0] for name in names}  # of the first head
    first = {name: rows if routing == "dynamic" else rows.view(1, -1) for name, rows in first.items()}
    shared.load_state_dict(state | first)
    plain.load_state_dict(state | {name: rows.repeat(4, 1) for name, rows in first.items()})
    expected = plain.eval()(token_ids()).logits
    torch.testing.assert_close(shared(token_ids()).logits, expected, atol=1e-5, rtol=1e-5)
    apart.load_state_dict(state | {name: rows.repeat(8, 1) for name, rows in first.items()})
    torch.testing.assert_close(apart(token_ids()).logits, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("routing", ["static", "dynamic"])
def test_random_routes_are_spread_and_ordinary_ones_near_the_mean(routing):
    """Logits of N(0, 1), of whatever a token is; softmax of 16 such keeps about 2.3 nats, of equal ones 2.77."""
    entropies = {}
    for init in ("random", "paper"):
        torch.manual_seed(0)
        routers = make_routers(routing, num_layers=16, hidden_size=256, num_heads=16, init=init)
        current = torch.nn.functional.rms_norm(torch.randn(1, 40, 256), (256,))
        A = routers[15].routing_weights(current).detach().double()
        entropies[init] = -(A * A.log()).sum(-1).mean().item()
        if init == "random":
            assert A.log().std(dim=-1).mean() == pytest.approx(1, abs=0.2)
    assert 2.1 < entropies["random"] < 2.5
    assert entropies["paper"] > 2.7


@pytest.mark.parametrize("routing", ROUTINGS)
def test_frozen_routes_start_as_trained_ones_and_stay(routing):
    models = []
    for trainable in (True, False):
        torch.manual_seed(0)
        config = LimeConfig(**TINY, routing=routing, routing_trainable=trainable)
        models.append(LimeForCausalLM(config).train())
    trained, frozen = models
    assert all(torch.equal(value, frozen.state_dict()[name]) for name, value in trained.state_dict().items())
    before = {name: value.clone() for name, value in frozen.state_dict().items()}
    names = {name for name in before if ".router." in name}
    groups = limelm.parameter_groups(frozen)
    assert {group["name"] for group in groups} == {"matrices", "norms_and_biases"}
    assert {id(p) for group in groups for p in group["params"]} == {
        id(p) for p in frozen.parameters() if p.requires_grad
    }
    optimizer = torch.optim.AdamW(groups)
    frozen(token_ids(), labels=token_ids()).loss.backward()
    optimizer.step()
    assert {name for name, value in frozen.state_dict().items() if torch.equal(value, before[name])} == names
    assert {name for name, p in frozen.named_parameters() if p.grad is None} == names


@pytest.mark.parametrize("routing", ROUTINGS)
def test_frozen_routes_stay_frozen_where_they_go(routing, tmp_path):
    """Loading makes new parameters, which would be trained."""
    torch.manual_seed(0)
    init = "random" if routing in ("static", "dynamic") else "paper"
    model = LimeForCausalLM(LimeConfig(**TINY, routing=routing, routing_trainable=False, routing_init=init))
    model.save_pretrained(tmp_path)
    with torch.device("meta"):
        on_meta = LimeForCausalLM(model.config)
    on_meta.load_state_dict(model.state_dict(), assign=True)
    loaded = LimeForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(loaded(token_ids()).logits, model(token_ids()).logits)
    frozen = {name for name, _ in model.named_parameters() if ".router." in name}
    for each in (model, model.train(), loaded, limelm.load_model(tmp_path), on_meta, loaded.to(torch.float64)):
        assert {name for name, parameter in each.named_parameters() if not parameter.requires_grad} == frozen


@pytest.mark.parametrize("routing", ["static", "dynamic", "kv"])
def test_gradients_beside_frozen_routes_are_those_beside_trained_ones(routing):
    found = []
    for trainable in (True, False):
        config = LimeConfig(**TINY, routing=routing, routing_trainable=trainable)
        model = randomize(LimeForCausalLM(config)).train()
        model(token_ids(), labels=token_ids()).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if ".router." not in name})
    assert_same_gradients(found[1], found[0], tolerance=1e-6)


REFUSED = [
    ({"routing": "kv", "share_heads": True}, "routing_share_heads=True needs routing='static' or 'dynamic', not 'kv'"),
    ({"routing": "kv", "temperature": 2.0}, "routing_temperature=2.0 needs routing='static' or 'dynamic', not 'kv'"),
    ({"routing": "none", "trainable": False}, "routing_trainable=False needs routing='static' or 'dynamic' or 'kv' or"),
    ({"routing": "depth_attention", "trainable": False}, "routing_trainable=False needs"),
    ({"routing": "value_residual", "share_kv": False}, "routing_share_kv=False needs routing='static' or 'dynamic' or"),
    ({"routing": "kv", "init": "random"}, "routing_init='random' needs routing='static' or 'dynamic', not 'kv'"),
    ({"routing": "static", "temperature": 0}, "routing_temperature=0 must be finite and at least 1e-06"),
    ({"routing": "static", "temperature": -1.0}, "routing_temperature=-1.0 must be finite and at least 1e-06"),
    ({"routing": "dynamic", "temperature": float("inf")}, "routing_temperature=inf must be finite and at least 1e-06"),
    ({"routing": "dynamic", "temperature": float("nan")}, "routing_temperature=nan must be finite and at least 1e-06"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=str)
def test_options_are_refused_where_they_mean_nothing(options, message):
    with pytest.raises(ValueError) as error:
        make_routers(**options, num_layers=3, hidden_size=24, num_heads=3)
    assert message in str(error.value) and "\n" not in str(error.value)
    named = {name if name == "routing" else f"routing_{name}": value for name, value in options.items()}
    with pytest.raises(ValueError) as error:
        LimeConfig(**TINY, **named)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_options_of_another_kind_are_refused():
    with pytest.raises(ValueError, match="routing_share_kv=1 must be bool"):
        LimeConfig(**TINY, routing="kv", routing_share_kv=1)
    with pytest.raises(ValueError, match="routing_share_kv=1 must be True or False"):
        make_routers("kv", 3, 24, 3, share_kv=1)
    with pytest.raises(ValueError, match="head_dim=5 is odd; share_kv=False"):
        make_routers("static", 3, 15, 3, share_kv=False)


def test_routers_in_a_model_of_ones_own():
    routers = make_routers("static", 3, 24, 3, share_kv=False, share_heads=True, init="random", trainable=False)
    assert routers[2].weight.shape == (2, 3) and not any(p.requires_grad for p in routers.parameters())
    assert [len(router.effective_weights()) for router in routers_in(routers) if router.has_choice] == [6, 6]
