"""Effects of routes: known answers, and estimates against finite differences of the measured loss."""

import random

import numpy as np
import pytest
import torch

from limelm.analysis import retrieval_weights, route_effects, routes, source_means
from limelm.analysis.route_effects import estimate_effects
from tests.analysis.routed import ROUTED, routed_model
from tests.models.variants import tiny_model, token_ids

IDS = token_ids(2, 8)


def loss_of(model, ids=IDS):
    with torch.no_grad():
        return float(model(ids, labels=ids).loss)


@pytest.mark.parametrize("variant", ROUTED)
def test_estimates_are_derivatives_of_the_loss(variant):
    """By how much the loss changes with a factor on the route, at a factor of one."""
    model = routed_model(variant)
    found = route_effects(model, [IDS], largest=2, random=1)
    model.double()  # the loss itself stays float32, so that steps cannot be small
    h = 0.02
    for route in random.Random(1).sample(found.routes, 4):
        changed = {}
        for factor in (1 - h, 1 + h):
            with routes(model).scale(factor, route.place, route.head, route.source, route.weight_set or None):
                changed[factor] = loss_of(model)
        derivative = (changed[1 + h] - changed[1 - h]) / (2 * h)
        assert route.estimate == pytest.approx(-derivative, rel=0.02, abs=1e-4)


@pytest.mark.parametrize("variant", ["static_gqa", "kv_gqa", "mudd_former", "deep_cross_attention", "apart static"])
def test_estimates_by_token_add_up_and_batches_do_not_matter(variant):
    model = routed_model(variant)
    whole, parts = (estimate_effects(model, batches) for batches in ([IDS], IDS.split(1)))
    for reader, estimates in whole.items():
        assert estimates.cut.shape == (*IDS.shape, reader.num_rows, len(reader.source_ids))
        torch.testing.assert_close(estimates.cut, parts[reader].cut, rtol=1e-3, atol=1e-6)
        assert not bool(estimates.to_mean.any())  # not asked for
        assert not bool(estimates.cut[:, -1].any())  # nothing is predicted there
    found = route_effects(model, [IDS], largest=1, random=1)
    by_token = torch.cat([effects.sum(dim=(0, 1)).flatten() for effects in found.by_token.values()])
    np.testing.assert_allclose([route.estimate for route in found.routes], by_token, rtol=1e-4, atol=1e-7)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("variant", ["static_gqa", "dynamic", "dense_former", "attached kv", "apart kv"])
def test_what_is_measured_is_the_change_of_the_loss(variant):
    model = routed_model(variant)
    found = route_effects(model, [IDS], largest=10**6)
    assert set(found.chosen.values()) == {"all"} and len(found.cut) == len(found.routes)
    assert found.loss == pytest.approx(loss_of(model), abs=1e-6)
    weights = retrieval_weights(model, "", [IDS])
    means = source_means(model, [IDS])
    for number in (0, len(found.routes) // 2, len(found.routes) - 1):
        route = found.routes[number]
        assert route.weight == pytest.approx(weights.layers[route.place][route.row, route.source], abs=1e-6)
        for measured, changed in (
            (found.cut, route.cut(routes(model))),
            (found.to_mean, route.set_to_mean(routes(model), means)),
        ):
            with changed:
                assert measured[number].loss == pytest.approx(loss_of(model) - found.loss, abs=2e-6)
            assert measured[number].kl >= 0
    assert set(found.cells) == {(route.place, route.place) for route in found.routes if route.source == route.place}
    for (place, source), measured in found.cells.items():
        with routes(model).cut(place, source=source):
            assert measured.loss == pytest.approx(loss_of(model) - found.loss, abs=2e-6)


def planted():
    """A kv model whose layer 1 reads much of its own keys and values, which are zero, and little of layer 0's."""
    model = tiny_model("kv", num_hidden_layers=2, num_key_value_heads=1, num_attention_heads=1)
    attention = model.model.layers[1].self_attn
    with torch.no_grad():
        attention.k_proj.weight.zero_()
        attention.v_proj.weight.zero_()
        attention.router.weight.copy_(torch.tensor([[0.1, 0.9]]))
        attention.o_proj.weight.mul_(40)
    return model


def test_a_planted_route_is_found_by_its_effect_not_by_its_weight():
    found = route_effects(planted(), [IDS])
    carries, heavy = found.routes
    assert (carries.source, heavy.source) == (0, 1) and heavy.weight == pytest.approx(0.9)
    assert found.cut[0].loss != 0 and abs(carries.estimate) > 1e-3 and found.cut[0].kl > 1e-3
    assert heavy.estimate == 0 and found.cut[1].loss == 0 and found.cut[1].kl == pytest.approx(0, abs=1e-7)
    assert found.cells[1, 1].loss == 0


def test_random_routes_of_a_model_with_few_that_matter_do_nothing():
    """All routes of the later layers carry nothing but one, which the largest estimate finds."""
    model = tiny_model("kv", num_hidden_layers=6)
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            layer.self_attn.o_proj.weight.zero_()
        model.model.layers[5].self_attn.o_proj.weight[:, :8] = 3.0 * torch.randn(32, 8)  # head 0 alone
    found = route_effects(model, [IDS], largest=3, random=20)
    assert {why: list(found.chosen.values()).count(why) for why in ("largest", "random")} == {
        "largest": 3,
        "random": 20,
    }
    at_random = [abs(found.cut[number].loss) for number, why in found.chosen.items() if why == "random"]
    largest = [number for number, why in found.chosen.items() if why == "largest"]
    assert {(found.routes[number].place, found.routes[number].row) for number in largest} == {(5, 0)}
    assert np.median(at_random) < 1e-6 and max(abs(found.cut[number].loss) for number in largest) > 1e-3


def test_whole_cells_are_those_with_the_largest_sums():
    model = tiny_model("static_gqa")
    found = route_effects(model, [IDS], largest=0, random=0, cells=3, with_means=False)
    sums = found.estimated_cells()
    assert sums[2, 1] == pytest.approx(sum(r.estimate for r in found.routes if (r.place, r.source) == (2, 1)))
    assert list(found.cells) == sorted(sums, key=lambda cell: -abs(sums[cell]))[:3] and not found.cut


def test_training_goes_on_as_before():
    model = tiny_model("static_gqa", attention_dropout=0.5).train()
    route_effects(model, [IDS], largest=1, random=1)
    assert model.training and all(router.training for router in model.modules())
    model(IDS, labels=IDS).loss.backward()


def test_text_is_needed():
    with pytest.raises(ValueError, match="give sequences"):
        route_effects(tiny_model("static"), [])
    with pytest.raises(ValueError, match="no routers"):
        route_effects(tiny_model("none"), [IDS])
