"""The transforms of `torch.func` and forward-mode AD: right, or refused in one line."""

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, hessian, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from limelm.errors import UserError
from tests.models.variants import (
    VARIANTS,
    assert_same_gradients,
    gradients,
    tiny_model,
    token_ids,
)

CASES = {variant: (variant, {}) for variant in VARIANTS}
CASES["mhc_gqa"] = ("mhc_gqa", {"num_hidden_layers": 2})  # forty divisions at each sublayer take long to compile
CASES |= {f"{variant}_bounded": (variant, {"routing_sources": {"first": 1, "last": 2}}) for variant in ("static", "kv")}
CASES |= {
    f"{variant}_reference": (variant, {"routing_backend": "reference"})
    for variant in ("static_top_p", "dynamic_gqa", "kv_gqa")
}
CHUNKED = {
    f"{variant}_chunked": (variant, {"routing_backend": "chunked"})
    for variant in ("static", "static_top_p", "dynamic", "kv")
}
cases = pytest.mark.parametrize("case", CASES)
#: Compilers take ten seconds for each: under a transform all routing is the reference, so one of each kind of formula.
COMPILED = ["static_top_p_reference", "dynamic_gqa_reference", "kv_bounded", "mhc_gqa", "attention_residuals"]


def make(case: str):
    """A model, its parameters by name, and the loss of one row `[T]` as a function of them."""
    variant, changes = (CASES | CHUNKED)[case]
    model = tiny_model(variant, **changes)

    def loss(parameters: dict[str, Tensor], row: Tensor) -> Tensor:
        return functional_call(model, parameters, (row[None],), {"labels": row[None], "use_cache": False}).loss

    return model, {name: parameter.detach() for name, parameter in model.named_parameters()}, loss


def gradients_by_row(model) -> list[dict[str, Tensor]]:
    found = []
    for row in token_ids():
        model(row[None], labels=row[None], use_cache=False).loss.backward()
        found.append(gradients(model))
    return found


def directions(parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return {name: torch.randn(value.shape, generator=generator) for name, value in parameters.items()}


@pytest.mark.parametrize(
    ("case", "compiled"),
    [*((case, False) for case in CASES), *((case, True) for case in COMPILED)],
    ids=lambda value: {False: "eager", True: "compiled"}.get(value, value),
)
def test_gradients_are_those_of_a_backward(case, compiled):
    model, parameters, loss = make(case)
    function = torch.compile(grad(loss), backend="aot_eager", dynamic=False) if compiled else grad(loss)
    torch._dynamo.reset()
    assert_same_gradients(function(parameters, token_ids()[0]), gradients_by_row(model)[0], tolerance=1e-4)


@cases
def test_gradients_of_every_row_are_those_of_a_backward_each(case):
    model, parameters, loss = make(case)
    by_row = vmap(grad(loss), (None, 0))(parameters, token_ids())
    for i, expected in enumerate(gradients_by_row(model)):
        assert_same_gradients({name: rows[i] for name, rows in by_row.items()}, expected, tolerance=1e-4)


@cases
@pytest.mark.parametrize("way", ["jvp", "dual", "dual_without_gradients"])
def test_forward_mode_is_the_gradient_along_a_direction(case, way):
    model, parameters, loss = make(case)
    along = directions(parameters)
    row = token_ids()[0]
    with sdpa_kernel(SDPBackend.MATH):  # the others have no forward-mode derivative
        if way == "jvp":
            _, derivative = jvp(lambda p: loss(p, row), (parameters,), (along,))
        else:
            with forward_ad.dual_level(), torch.set_grad_enabled(way == "dual"):
                dual = {name: forward_ad.make_dual(value, along[name]) for name, value in parameters.items()}
                derivative = forward_ad.unpack_dual(loss(dual, row)).tangent
    assert derivative is not None
    gradient = gradients_by_row(model)[0]
    expected = sum((gradient[name] * along[name]).sum() for name in parameters)
    scale = sum((gradient[name] * along[name]).abs().sum() for name in parameters)
    assert (derivative - expected).abs() < 1e-6 * scale


@pytest.mark.parametrize("case", ["static", "kv", "dynamic_gqa_reference", "hc_dynamic"])
def test_second_derivatives(case):
    _, parameters, loss = make(case)
    row, name = token_ids()[0], "model.norm.weight"

    def of_the_norm(weight: Tensor) -> Tensor:
        return loss(parameters | {name: weight}, row)

    with sdpa_kernel(SDPBackend.MATH):
        second = hessian(of_the_norm)(parameters[name])
    step = 1e-2 * directions(parameters)[name]
    before, after = (grad(of_the_norm)(parameters[name] + sign * step) for sign in (-1, 1))
    torch.testing.assert_close(second @ step, (after - before) / 2, atol=2e-4, rtol=2e-2)


@pytest.mark.parametrize("case", CHUNKED)
@pytest.mark.parametrize("transform", [grad, lambda loss: lambda p, row: jvp(lambda q: loss(q, row), (p,), (p,))])
def test_a_backend_that_cannot_is_refused(case, transform):
    _, parameters, loss = make(case)
    with pytest.raises(UserError, match=r"routing_backend='chunked' cannot run: .*routing_backend='reference'"):
        transform(loss)(parameters, token_ids()[0])


@cases
@torch.no_grad()
def test_an_ensemble_of_weights(case):
    """`vmap` over weights: with top-p each member has a mask of its own."""
    model, parameters, _ = make(case)
    members = [parameters, {name: value.flip(-1) for name, value in parameters.items()}]
    stacked = {name: torch.stack([member[name] for member in members]) for name in parameters}
    ids = token_ids()
    call = lambda weights: functional_call(model, weights, (ids,), {"use_cache": False}).logits  # noqa: E731
    expected = torch.stack([call(member) for member in members])
    torch.testing.assert_close(vmap(call)(stacked), expected, atol=1e-4, rtol=1e-4)
