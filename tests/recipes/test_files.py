"""The recipes that come with the package are the paper's, and their fields can be named from outside."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from limelm.errors import UserError
from limelm.models.flops import model_cost
from limelm.training import load_recipe, recipe_as_toml, recipe_names, the_model
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
    "top-p": 1_176_770_784,
}
GROUPED_PARAMETERS = {"llama": 1_076_072_448, "kv": 1_076_081_088}
DEEP_PARAMETERS = {32: (46_436_864, 12_152), 64: (80_007_680, 32_760), 128: (147_149_312, 98_552)}


@pytest.mark.parametrize("name", [name for name in recipe_names() if name != "attach"])
def test_every_recipe_from_scratch_trains_as_table_3_says(name):
    training = vars(load_recipe(name).training)
    own = {"learning_rate": 5e-3} if name.startswith("arithmetic") else {}
    if name == "english":  # as the search of rivals found
        own = {"learning_rate": 2.5e-3, "router_learning_rate": 2.5e-2}
    assert {key: training[key] for key in TABLE_3} == TABLE_3 | own


@pytest.mark.parametrize("operands", [3, 4, 5, 6])
def test_arithmetic_has_the_size_of_the_papers_task(operands):
    recipe = load_recipe(f"arithmetic-{operands}")
    shape = {"num_hidden_layers": 4, "num_attention_heads": 4, "hidden_size": 32}
    assert {key: recipe.architecture[key] for key in shape} == shape
    assert recipe.data.task == f"arithmetic-{operands}"


@pytest.mark.parametrize("name", [*(f"arithmetic-{operands}" for operands in (3, 4, 5, 6)), "prosqa"])
def test_reasoning_compares_the_same_models(name):
    recipe = load_recipe(name)
    assert recipe.data.task == name and recipe.data.worked_steps and recipe.data.test_file == ""
    assert list(recipe.compare) == ["llama", "static", "dynamic", "kv", "hc"]


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
    counts = {name: model_cost(recipe.subjects[name].config(50_257), 8).parameters for name in recipe.models}
    assert counts == PAPER_PARAMETERS
    grouped = load_recipe("paper-1.2b-grouped").subjects
    counts = {name: model_cost(grouped[name].config(50_257), 8).parameters for name in GROUPED_PARAMETERS}
    assert counts == GROUPED_PARAMETERS


@pytest.mark.parametrize("layers", DEEP_PARAMETERS)
def test_the_deep_models_have_the_papers_sizes(layers):
    recipe = load_recipe(f"deep-{layers}")
    llama, added = DEEP_PARAMETERS[layers]
    counts = {name: model_cost(recipe.subjects[name].config(50_257), 8).parameters for name in recipe.compare}
    assert counts == {"llama": llama, "static": llama + added, "top-p": llama + added}
    assert recipe.subjects["top-p"].config(50_257).routing_top_p == 0.9


def test_small_is_for_one_gpu():
    recipe = load_recipe("small")
    assert list(recipe.models) == ["llama", "hc", "static", "dynamic", "kv", "top-p"]
    for name in recipe.models:
        assert 30e6 < model_cost(recipe.subjects[name].config(50_257), 8).parameters < 60e6


@pytest.mark.parametrize("name", ["rivals", "rivals-16", "rivals-32", "rivals-64"])
def test_rivals_have_one_body_and_a_llama_as_large_as_the_largest(name):
    recipe = load_recipe(name)
    assert recipe.architecture["num_hidden_layers"] == int(name.partition("-")[2] or 8)
    assert len(recipe.learning_rates) >= 4 and recipe.seeds == 3
    configs = {name: recipe.subjects[name].config(8192) for name in recipe.compare}
    bodies = {name: recipe.subjects[name].baseline(8192).to_diff_dict() for name in recipe.compare}
    wide = bodies.pop("llama-wide")
    assert all(body == bodies["llama"] for body in bodies.values())
    assert {key for key in wide if wide[key] != bodies["llama"][key]} == {"intermediate_size"}
    with torch.device("meta"):
        parameters = {
            name: AutoModelForCausalLM.from_config(config).num_parameters() for name, config in configs.items()
        }
    assert 2.7e6 < parameters["llama"] < 2.8e6  # of every depth
    wider = parameters.pop("llama-wide")
    column = 3 * recipe.architecture["hidden_size"] * recipe.architecture["num_hidden_layers"]
    assert wider - column < max(parameters.values()) <= wider  # by as few columns of the MLP as do
    assert 1e6 < recipe.training.steps * recipe.training.batch_size * recipe.data.sequence_length < 1.1e6


@pytest.mark.parametrize(
    ("name", "layers", "width", "tokens"),
    [
        ("english", 12, 128, 4_096_000),
        ("depth-8", 8, 64, 1_638_400),
        ("depth-32", 32, 64, 1_638_400),
        ("depth-64", 64, 64, 1_638_400),
        ("depth-128", 128, 64, 1_638_400),
    ],
)
def test_studies_of_the_paper_on_a_text_of_ones_own(name, layers, width, tokens):
    recipe = load_recipe(name)
    assert (recipe.architecture["num_hidden_layers"], recipe.architecture["hidden_size"]) == (layers, width)
    assert recipe.training.steps * recipe.training.batch_size * recipe.data.sequence_length == tokens
    assert tuple(recipe.compare[:2]) == ("llama", "static")
    assert recipe.seeds == (1 if layers == 128 else 3)


def test_the_baseline_has_the_models_own_shape(tmp_path):
    assert load_recipe("paper-1.2b-grouped").subjects["kv"].baseline(50_257).num_key_value_heads == 8
    path = tmp_path / "own.toml"
    path.write_text('extends = "tiny"\n[models.kv]\nnum_key_value_heads = 2\n')
    subjects = load_recipe(str(path)).subjects
    assert [subjects[name].baseline(300).num_key_value_heads for name in ("kv", "static")] == [2, 4]


@pytest.mark.parametrize("name", recipe_names())
def test_a_resolved_recipe_is_a_recipe(name, tmp_path):
    recipe = load_recipe(name)
    path = tmp_path / f"{name}.toml"
    path.write_text(recipe_as_toml(recipe), encoding="utf-8")
    assert load_recipe(str(path)) == recipe


def test_a_recipe_takes_what_it_does_not_say_from_the_one_that_it_extends(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "base.toml").write_text('extends = "tiny"\ndescription = "wide"\n[architecture]\nhidden_size = 64\n')
    path = tmp_path / "mine" / "own.toml"
    path.write_text('extends = "../base.toml"\ncompare = ["kv"]\n[training]\nsteps = 7\n')
    own, tiny = load_recipe(str(path)), load_recipe("tiny")
    assert (own.name, own.description, own.compare) == ("own", "", ("kv",))
    assert own.architecture == {**tiny.architecture, "hidden_size": 64}
    assert (own.training.steps, own.training.batch_size, own.data) == (7, tiny.training.batch_size, tiny.data)
    assert own.models == tiny.models


def test_another_kind_of_data_or_models_takes_none_of_the_extended(tmp_path):
    path = tmp_path / "own.toml"
    task = '[data]\ntask = "arithmetic-3"\ntrain_problems = 9\ntest_problems = 9\nsequence_length = 14\n'
    path.write_text(f'extends = "tiny"\n{task}')
    assert load_recipe(str(path)).data.task == "arithmetic-3"
    path.write_text('extends = "arithmetic-3"\n[data]\npreset = "python-library"\n')
    assert (load_recipe(str(path)).data.preset, load_recipe(str(path)).data.sequence_length) == ("python-library", 2048)
    path.write_text('extends = "tiny"\nbase = ""\n[models.kv]\nattach = "kv"\n')
    own = load_recipe(str(path))
    assert list(own.models) == ["kv"] and own.architecture == {} and own.data.preset is None
    assert own.training == load_recipe("tiny").training


def test_text_with_a_tokenizer_of_its_own_is_not_for_a_pretrained_model(tmp_path):
    path = tmp_path / "own.toml"
    path.write_text('base = ""\n[models.kv]\nattach = "kv"\n[data]\npreset = "python-library"\n')
    with pytest.raises(UserError, match="data: 'python-library' would have a tokenizer of its own"):
        load_recipe(str(path))


def test_the_one_model_of_a_command(tmp_path):
    text = write_recipe(tmp_path).read_text()
    start, end = text.index("[models.hc]"), text.index("[data]")
    (tmp_path / "one.toml").write_text(text[:start].replace('["llama", "dynamic"]', '["llama"]') + text[end:])
    assert the_model(load_recipe(str(tmp_path / "one.toml")), None) == "llama"
    with pytest.raises(UserError, match="has several models; name one with --model: llama, hc"):
        the_model(load_recipe(str(tmp_path / "small.toml")), None)


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
    recipe, name = load_recipe("deep-32", overrides, "top-p"), "top-p"
    config = recipe.subjects[name].config(300)
    assert (config.hidden_size, config.routing_top_p, config.routing_sources) == (64, 0.8, {"first": 2, "last": 1})
    assert recipe.subjects[name].baseline(300).hidden_size == 64
    assert (recipe.training.steps, recipe.training.seed, recipe.training.learning_rate) == (7, 3, 2e-3)
    assert (recipe.engine.compile, recipe.engine.sharding) == (True, "fsdp")
    assert (recipe.training.precision, recipe.data.sequence_length) == ("fp32", 128)
    grouped = load_recipe("paper-1.2b-grouped", {"num_key_value_heads": "4"}, "kv")
    assert grouped.subjects["kv"].config(300).num_key_value_heads == 4


def test_overrides_may_be_values_in_place_of_texts():
    texts = {"steps": "7", "learning_rate": "2e-3", "routing_sources": "{first = 2, last = 1}", "compile": "true"}
    values = {"steps": 7, "learning_rate": 2e-3, "routing_sources": {"first": 2, "last": 1}, "compile": True}
    assert load_recipe("deep-32", values, "top-p") == load_recipe("deep-32", texts, "top-p")
    as_messages_have_it = texts | {"routing_sources": '{"first": 2, "last": 1}'}
    assert load_recipe("deep-32", as_messages_have_it, "top-p") == load_recipe("deep-32", texts, "top-p")
    with pytest.raises(UserError, match="steps"):
        load_recipe("tiny", {"steps": 1.5})


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
        load_recipe("tiny", overrides, "llama")


@pytest.mark.parametrize(
    ("text", "model", "message"),
    [
        ("tiny", "statik", "recipe tiny: unknown model 'statik'; did you mean 'static'?"),
        ("teeny", None, "unknown recipe 'teeny'; did you mean 'tiny'? allowed: "),
        ("nothing", None, "unknown recipe 'nothing'; allowed: the path of a .toml file, arithmetic-3"),
        ("nowhere.toml", None, "nowhere.toml: No such file"),
    ],
)
def test_unknown_recipes_and_models_are_named(text, model, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        load_recipe(text, {}, model)
