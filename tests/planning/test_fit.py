"""Before a training starts, what it needs is compared with what is free; the numbers agree with the full simulation."""

from dataclasses import replace

import pytest

from limelm.errors import UserError
from limelm.planning import fit, simulation
from limelm.planning.fit import GIB, require_memory, upper_bound
from limelm.planning.peak_memory import Step
from limelm.planning.simulation import simulate_deep, simulate_step
from limelm.training import load_recipe, reproduce, train_model
from tests.recipes import prepared, small_recipe

MODELS = ["llama", "hc", "static", "dynamic", "kv"]


@pytest.fixture
def free(monkeypatch):
    """Says how much memory is free."""
    return lambda size: monkeypatch.setattr(fit, "available_memory", lambda device: size)


def config_of(model, layers, **changes):
    values = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, **changes}
    recipe = load_recipe("tiny")
    recipe = replace(recipe, architecture={**recipe.architecture, **values, "num_hidden_layers": layers})
    return recipe.subjects[model].config(500)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_a_deep_model_is_estimated_from_shallow_ones(model, autocast):
    config = config_of(model, 20)
    step = Step(2, 64, autocast=autocast, accumulates=True)
    whole = simulate_step(config, step, foreach=False)
    assert simulate_deep(config, step, foreach=False).peak == pytest.approx(whole.peak, rel=0.03)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    "shape", [{}, {"intermediate_size": 8}, {"hidden_size": 128, "num_attention_heads": 16}, {"head_dim": 32}]
)
def test_the_upper_bound_is_above(model, shape):
    for layers, sequences in ((2, 1), (8, 4)):
        config = config_of(model, layers, **shape)
        simulated = simulate_step(config, Step(sequences, 64, accumulates=True)).peak
        assert simulated <= upper_bound(config, sequences * 64)


@pytest.mark.parametrize("name", ["tiny", "small", "deep-32", "paper-1.2b"])
def test_a_machine_that_has_enough_takes_no_simulation(name, free, monkeypatch):
    monkeypatch.setattr(simulation, "simulate_step", None)
    free(2000 * GIB)
    recipe = load_recipe(name)
    for model in recipe.models:
        require_memory(recipe, model, recipe.data.vocab_size)


def test_what_does_not_fit_is_refused_with_what_would(free):
    recipe = load_recipe("deep-128")
    free(20 * GIB)
    with pytest.raises(UserError) as error:
        require_memory(recipe, "top-p", recipe.data.vocab_size)
    line = str(error.value)
    assert line.startswith("deep-128-top-p needs 20.") and "GiB are free on this machine; it would fit with" in line
    assert "engine.micro_batch_size=2 (" in line and "engine.activation_checkpointing=true (" in line
    free(24 * GIB)
    require_memory(recipe, "top-p", recipe.data.vocab_size)


def test_nothing_is_written_where_it_does_not_fit(free, tmp_path):
    recipe, data = small_recipe(tmp_path), prepared(tmp_path / "tokens")
    free(fit.CPU_ALLOWANCE + 1000)
    before = sorted(tmp_path.rglob("*"))
    for start in (
        lambda: train_model(recipe, "kv", data, tmp_path / "run"),
        lambda: train_model(recipe, "kv", None, tmp_path / "run"),
        lambda: reproduce(recipe, tmp_path / "run", data=data),
        lambda: reproduce(recipe, tmp_path / "run"),
    ):
        with pytest.raises(UserError, match=r"needs 0\.0 GiB of memory, and .* no setting of the engine makes it fit"):
            start()
    assert sorted(tmp_path.rglob("*")) == before
