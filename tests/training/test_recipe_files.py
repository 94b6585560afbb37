"""The recipes that come with the package are the paper's, and their fields can be named from outside."""

import pytest

from limelm.errors import UserError
from limelm.models.flops import model_cost
from limelm.training import load_experiment, load_recipe, load_scale, recipe_names
from tests.recipes import write_recipe

TABLE_3 = {
    "learning_rate": 1e-3,
    "router_learning_rate": 1e-2,
    "weight_decay": 0.1,
    "adam_beta1": 0.9,
    "adam_beta2": 0.95,
    "adam_epsilon": 1e-8,
    "min_lr_ratio": 1e-6,
    "max_grad_norm": 1.0,
    "seed": 42,
}
AT_SCALE = {"warmup_steps": 200, "precision": "bf16", "batch_size": 1024}
TABLE_4 = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "tie_word_embeddings": True,
}
PAPER_PARAMETERS = {
    "llama": 1_176_735_744,
    "hc": 1_177_064_256,
    "static": 1_176_770_784,
    "dynamic": 1_185_613_824,
    "kv": 1_176_873_984,
    "llama-grouped": 1_076_072_448,
    "kv-grouped": 1_076_081_088,
}
DEEP_PARAMETERS = {32: (46_436_864, 12_152), 64: (80_007_680, 32_760), 128: (147_149_312, 98_552)}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "attach"])
def test_every_recipe_from_scratch_trains_as_table_3_says(name):
    training = vars(load_recipe(name).training)
    own = {"learning_rate": 5e-3} if name.startswith("synthetic-arithmetic") else {}
    assert {key: training[key] for key in TABLE_3} == TABLE_3 | own


@pytest.mark.parametrize("operands", [3, 4, 5, 6])
def test_arithmetic_has_the_size_of_the_papers_task(operands):
    recipe = load_recipe(f"synthetic-arithmetic-{operands}")
    shape = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32}
    assert {key: recipe.architecture[key] for key in shape} == shape
    assert recipe.data.task == f"arithmetic-{operands}"


def test_synthetic_is_arithmetic_and_prosqa():
    recipes = load_scale("synthetic")
    assert [recipe.data.task for recipe in recipes] == [*(f"arithmetic-{n}" for n in (3, 4, 5, 6)), "prosqa"]
    assert all(list(recipe.compare) == ["llama", "static", "dynamic", "kv", "hc"] for recipe in recipes)


@pytest.mark.parametrize("name", ["paper-1.2b", "deep-32", "deep-64", "deep-128"])
def test_the_papers_recipes_have_its_scale(name):
    recipe = load_recipe(name)
    training = vars(recipe.training)
    assert {key: training[key] for key in AT_SCALE} == AT_SCALE
    assert recipe.data.sequence_length == 2048 and recipe.data.vocab_size == 50_257
    assert recipe.data.preset == "fineweb-edu"
    assert recipe.training.steps == (20_000 if name == "paper-1.2b" else 5_000)


def test_the_papers_models_are_table_4s_to_the_parameter():
    recipe = load_recipe("paper-1.2b")
    assert {key: recipe.architecture[key] for key in TABLE_4} == TABLE_4
    counts = {name: model_cost(recipe.model_config(name, 50_257), 8).parameters for name in recipe.models}
    assert counts == PAPER_PARAMETERS


@pytest.mark.parametrize("layers", DEEP_PARAMETERS)
def test_the_deep_models_have_the_papers_sizes(layers):
    recipe = load_recipe(f"deep-{layers}")
    llama, added = DEEP_PARAMETERS[layers]
    counts = {name: model_cost(recipe.model_config(name, 50_257), 8).parameters for name in recipe.models}
    assert counts == {"llama": llama, "static": llama + added, "top-p": llama + added}
    assert recipe.model_config("top-p", 50_257).routing_top_p == 0.9


def test_small_is_for_one_gpu():
    recipe = load_recipe("small")
    assert list(recipe.models) == ["llama", "hc", "static", "dynamic", "kv", "top-p"]
    for name in recipe.models:
        assert 30e6 < model_cost(recipe.model_config(name, 50_257), 8).parameters < 60e6


def test_the_baseline_has_the_models_own_shape():
    recipe = load_recipe("paper-1.2b")
    assert recipe.baseline_config("kv-grouped", 50_257).num_key_value_heads == 8
    assert recipe.baseline_config("kv", 50_257).num_key_value_heads == 32


def test_scales():
    assert [recipe.name for recipe in load_scale("deep")] == ["deep-32", "deep-64", "deep-128"]
    assert [recipe.name for recipe in load_scale("paper")] == ["paper-1.2b"]
    assert [recipe.name for recipe in load_scale("deep-64", {"steps": "7"})] == ["deep-64"]
    assert [recipe.training.steps for recipe in load_scale("deep", {"steps": "7"})] == [7, 7, 7]


def test_experiments():
    recipe, name = load_experiment("paper-1.2b-kv-grouped")
    assert (recipe.name, name) == ("paper-1.2b", "kv-grouped")
    assert load_experiment("deep-128-top-p")[1] == "top-p"
    assert load_experiment("tiny", "kv")[1] == "kv"


def test_a_file_with_one_model_needs_no_name(tmp_path):
    text = write_recipe(tmp_path).read_text()
    start, end = text.index("[models.hc]"), text.index("[data]")
    (tmp_path / "one.toml").write_text(text[:start].replace('["llama", "dynamic"]', '["llama"]') + text[end:])
    assert load_experiment(str(tmp_path / "one.toml"))[1] == "llama"
    with pytest.raises(UserError, match="names no model; its models: llama, hc"):
        load_experiment(str(tmp_path / "small.toml"))


def test_any_field_can_be_overridden():
    overrides = {
        "steps": "7",
        "training.seed": "3",
        "learning-rate": "2e-3",
        "hidden_size": "64",
        "routing_top_p": "0.8",
        "routing_sources": "{first = 2, last = 1}",
        "precision": "fp32",
        "compile": "true",
        "sharding": "fsdp",
        "sequence_length": "128",
    }
    recipe, name = load_experiment("deep-32-top-p", overrides=overrides)
    config = recipe.model_config(name, 300)
    assert (config.hidden_size, config.routing_top_p, config.routing_sources) == (64, 0.8, {"first": 2, "last": 1})
    assert recipe.baseline_config(name, 300).hidden_size == 64
    assert (recipe.training.steps, recipe.training.seed, recipe.training.learning_rate) == (7, 3, 2e-3)
    assert (recipe.engine.compile, recipe.engine.sharding) == (True, "fsdp")
    assert (recipe.training.precision, recipe.data.sequence_length) == ("fp32", 128)
    grouped, _ = load_experiment("paper-1.2b-kv-grouped", overrides={"num_key_value_heads": "4"})
    assert grouped.model_config("kv-grouped", 300).num_key_value_heads == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"stepz": "7"}, "unknown field 'stepz'; did you mean 'steps'?"),
        ({"hiden-size": "7"}, "unknown field 'hiden_size'; did you mean 'hidden_size'?"),
        ({"routing_top_p": "0.9"}, "unknown field 'routing_top_p'"),  # of a LLaMA
        ({"steps": "many"}, r"training\.steps='many' must be an integer"),
        ({"steps": "1.5"}, r"steps=1\.5 must be an integer"),
        ({"compile": "1"}, r"engine\.compile=1 must be true or false"),
        ({"sharding": "zero"}, r"engine\.sharding='zero' must be 'none' or 'fsdp'"),
        ({"micro_batch_size": "0"}, r"engine\.micro_batch_size=0 must be at least 1"),
        ({"preset": "pile"}, r"data: preset='pile' is unknown; allowed: python-library, fineweb-edu"),
        ({"vocab_size": "0"}, r"data\.vocab_size=0 must be at least 1"),
    ],
)
def test_bad_overrides_are_named(overrides, message):
    with pytest.raises(UserError, match=message):
        load_experiment("tiny-llama", overrides=overrides)


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("tiny-statik", None, "recipe tiny: there is no model 'statik' in it; its models: llama, hc"),
        ("tiny-static", "kv", "names the model 'static', but --model says 'kv'"),
        ("teeny-static", None, "recipe teeny-static: unknown recipe; did you mean 'tiny-static'? allowed: "),
        ("nothing", None, "recipe nothing: unknown recipe; allowed: the path of a .toml file, attach, deep-32"),
        ("paper-1.2b", None, "recipe paper-1.2b: names no model"),
        ("nowhere.toml", None, "nowhere.toml: No such file"),
    ],
)
def test_unknown_experiments_are_named(text, model, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        load_experiment(text, model)
