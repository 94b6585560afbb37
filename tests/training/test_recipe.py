import pytest
from transformers import LlamaConfig

from limelm import HyperConnectionConfig, LimeConfig
from limelm.errors import UserError
from limelm.training import load_recipe, load_scale, recipe_names
from tests.recipes import small_recipe, write_recipe


@pytest.mark.parametrize("scale", recipe_names())
def test_every_recipe_of_the_package_makes_its_models(scale):
    recipe = load_recipe(scale)
    for name in recipe.models:
        if recipe.base is not None:
            assert recipe.adapted(name).is_attached or recipe.adapted(name).trains in ("lora", "nothing", "all")
            continue
        assert recipe.model_config(name, vocab_size=recipe.data.vocab_size).vocab_size == recipe.data.vocab_size


def test_tiny_is_the_papers_recipe_in_small():
    recipe = load_recipe("tiny")
    kinds = {name: type(recipe.model_config(name, vocab_size=4096)) for name in recipe.models}
    assert [kinds[name] for name in recipe.compare] == [LlamaConfig, HyperConnectionConfig, LimeConfig, LimeConfig]
    assert recipe.model_config("top-p", vocab_size=4096).routing_top_p == 0.9
    assert recipe.model_config("kv", vocab_size=4096).routing == "kv"
    training = recipe.training
    assert (training.learning_rate, training.router_learning_rate, training.weight_decay) == (1e-3, 1e-2, 0.1)
    assert (training.adam_beta1, training.adam_beta2, training.adam_epsilon) == (0.9, 0.95, 1e-8)
    assert (training.min_lr_ratio, training.max_grad_norm) == (1e-6, 1.0)


def test_models_are_selected_in_the_recipes_order(tmp_path):
    recipe = small_recipe(tmp_path)
    assert recipe.select(None) == ["llama", "dynamic"]
    assert recipe.select(["kv", "hc"]) == ["hc", "kv"]
    assert recipe.select(["all"]) == list(recipe.models)
    with pytest.raises(UserError, match="--models mamba: unknown model; allowed: llama, hc"):
        recipe.select(["llama", "mamba"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("steps = 4", "stepz = 4"), r"\[training\]: unknown key 'stepz'; did you mean 'steps'\?"),
        (("steps = 4", ""), r"\[training\]: no value for steps"),
        (("steps = 4", "steps = 0"), r"training\.steps=0 must be at least 1"),
        (("steps = 4", 'steps = "4"'), r"steps='4' must be an integer"),
        (("steps = 4", "steps = 4.5"), r"steps=4\.5 must be an integer"),
        (('precision = "fp32"', 'precision = "fp8"'), r"training\.precision='fp8' is unknown; allowed: fp32, bf16"),
        (("[data]", "[date]"), r"no value for preset, sequence_length"),
        (('"dynamic"]', '"mamba"]'), r"compare has 'mamba', but there is no \[models\.mamba\]"),
        (("steps = 4", "steps = "), "not TOML"),
        (("learning_rate = 1e-3", "learning_rate = 0"), r"training\.learning_rate=0 must be more than 0"),
        (("learning_rate = 1e-3", "learning_rate = nan"), r"training\.learning_rate=nan must be more than 0"),
        (("adam_beta2 = 0.95", "adam_beta2 = 1.0"), r"training\.adam_beta2=1\.0 must be less than 1"),
        (("seed = 1", "seed = -1"), r"training\.seed=-1 must be at least 0"),
        (("sequence_length = 32", "sequence_length = 1"), r"data\.sequence_length=1 must be at least 2"),
        (("validation_fraction = 0.2", "validation_fraction = 1.2"), r"validation_fraction=1\.2 must be less than 1"),
        (('["llama", "dynamic"]', "[]"), r"compare=\[\] must name at least one"),
        (('["llama", "dynamic"]', '[["llama"]]'), "compare has"),
        (('["llama", "dynamic"]', '"llama"'), "compare='llama' must be a list"),
        (("[models.hc]", '[models."../evil"]'), r"models\.'\.\./evil' is no name"),
        (("[models.hc]", "[models.all]"), r"models\.'all' is no name"),
        (('label = "LIMe static"', 'label = "LLaMA"'), "two models have the label 'LLaMA'"),
        (("[models.hc]", "[models]\nextra = 3\n[models.hc]"), r"models\.extra=3 must be a table"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        small_recipe(tmp_path, change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('routing = "dynamic"', 'routing = "psychic"'), "routing='psychic' is unknown; allowed: none, static"),
        (("hidden_size = 32", "hidden_size = 33"), "hidden_size=33 is not divisible by num_attention_heads=2"),
        (("hidden_size = 32", 'hidden_size = "32"'), "hidden_size"),
        (("hidden_size = 32", "hiden_size = 32"), r"unknown key 'hiden_size'; did you mean 'hidden_size'\?"),
        (('routing = "dynamic"', 'routing = "dynamic"\nrouting_top_p = 0.9'), "needs routing='static'"),
        (('routing = "dynamic"', 'routing = "static"\nrouting_top_p = 1.9'), r"routing_top_p=1\.9 is outside"),
        (('model_type = "lime"\nrouting = "dynamic"', 'model_type = "mamba"'), "model_type='mamba' is unknown"),
    ],
)
def test_bad_models_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        small_recipe(tmp_path, change).model_config("dynamic", vocab_size=300)


def test_an_unknown_scale_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"--scale huge: unknown scale; allowed: attach, deep, deep-32"):
        load_scale("huge")
    with pytest.raises(UserError, match="No such file"):
        load_recipe(str(tmp_path / "missing.toml"))
    assert load_recipe(str(write_recipe(tmp_path))).name == "small"
