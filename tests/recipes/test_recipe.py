from typing import get_type_hints

import pytest
from transformers import LlamaConfig

from limelm import HyperConnectionConfig, LimeConfig
from limelm.errors import UserError
from limelm.recipes.settings import TrainingRecipe
from limelm.training import load_recipe, recipe_names
from tests.recipes import RECIPE, small_recipe, write_recipe


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_of_the_package_makes_its_models(name):
    recipe = load_recipe(name)
    assert recipe.description and recipe.compare
    for subject in recipe.subjects.values():
        if recipe.base is not None:
            assert subject.parts.is_attached or subject.parts.trains in ("lora", "nothing", "all")
            continue
        assert subject.config(recipe.data.vocab_size).vocab_size == recipe.data.vocab_size


def test_tiny_is_the_papers_recipe_in_small():
    recipe = load_recipe("tiny")
    kinds = {name: type(recipe.subjects[name].config(4096)) for name in recipe.models}
    assert [kinds[name] for name in recipe.compare] == [LlamaConfig, HyperConnectionConfig, LimeConfig, LimeConfig]
    assert recipe.subjects["top-p"].config(4096).routing_top_p == 0.9
    assert recipe.subjects["kv"].config(4096).routing == "kv"
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
        (("steps = 4", "stepz = 4"), r"training: unknown field 'stepz'; did you mean 'steps'\?"),
        (("steps = 4", "steps = 0"), r"training\.steps=0 must be at least 1"),
        (("steps = 4", 'steps = "4"'), r"steps='4' must be an integer"),
        (("steps = 4", "steps = 4.5"), r"steps=4\.5 must be an integer"),
        (('precision = "fp32"', 'precision = "fp8"'), r"training\.precision='fp8' must be 'fp32' or 'bf16'"),
        (("[data]", "[date]"), r"unknown field 'date'; did you mean 'data'\?"),
        (('"dynamic"]', '"mamba"]'), r"compare: unknown model 'mamba'; did you mean 'llama'\?"),
        (("steps = 4", "steps = "), "not TOML"),
        (
            ("description =", "extends = 'tinny'\ndescription ="),
            "unknown recipe 'tinny'; did you mean 'tiny'",
        ),
        (("description =", "extends = 5\ndescription ="), r"extends=5 must be a string"),
        (("description =", "extends = 'small.toml'\ndescription ="), r"small\.toml extends small\.toml"),
        (("learning_rate = 1e-3", "learning_rate = 0"), r"training\.learning_rate=0 must be more than 0"),
        (("learning_rate = 1e-3", "learning_rate = nan"), r"training\.learning_rate=nan must be a finite number"),
        (("adam_beta2 = 0.95", "adam_beta2 = 1.0"), r"training\.adam_beta2=1\.0 must be less than 1"),
        (("seed = 1", "seed = -1"), r"training\.seed=-1 must be at least 0"),
        (("sequence_length = 32", "sequence_length = 1"), r"data\.sequence_length=1 must be at least 2"),
        (("validation_fraction = 0.2", "validation_fraction = 1.2"), r"validation_fraction=1\.2 must be less than 1"),
        (('["llama", "dynamic"]', "[]"), r"compare=\[\] must be at least one"),
        (('["llama", "dynamic"]', '[["llama"]]'), r"compare\[0\]=\['llama'\] must be a string"),
        (('["llama", "dynamic"]', '"llama"'), "compare='llama' must be a list"),
        (("[models.hc]", '[models."../evil"]'), r"models\.'\.\./evil' is no name"),
        (("[models.hc]", "[models.all]"), r"models\.'all' is no name"),
        (('label = "LIMe static"', 'label = "LLaMA"'), r"models\.llama and models\.static have the same label 'LLaMA'"),
        (("[models.hc]", "[models]\nextra = 3\n[models.hc]"), r"models\.extra=3 must be a table of fields"),
    ],
)
def test_bad_recipes_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        small_recipe(tmp_path, change)


FLOATS = [name for name, kind in get_type_hints(TrainingRecipe).items() if kind is float]


@pytest.mark.parametrize("value", ["inf", "-inf", "nan"])
@pytest.mark.parametrize("name", FLOATS)
def test_no_number_of_the_training_may_be_infinite(tmp_path, name, value):
    (line,) = (line for line in RECIPE.splitlines() if line.startswith(f"{name} ="))
    with pytest.raises(UserError, match=rf"small\.toml: training\.{name}={value} must be a finite number"):
        small_recipe(tmp_path, (f"\n{line}\n", f"\n{name} = {value}\n"))


@pytest.mark.parametrize(
    "label", ["5", '["x"]', '""', f'"{"x" * 400}"', '" x"', r'"\u001b]0;pwned\u0007"', r'"right\u202eleft"', "true"]
)
def test_a_label_is_a_short_text(tmp_path, label):
    with pytest.raises(UserError, match=r"small\.toml: models\.llama\.label=.* must be (a|of at most 100) "):
        small_recipe(tmp_path, ('label = "LLaMA"', f"label = {label}"))


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = write_recipe(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert load_recipe(str(path)) == small_recipe(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hidden_size = 32", 'hidden_size = 32\nhidden_act = "nope"'), "hidden_act='nope' is unknown; allowed: "),
        (("hidden_size = 32", "hidden_size = 32\nhead_dim = 0"), "head_dim=0 must be at least 1"),
        (("hidden_size = 32", "hidden_size = 32\ninitializer_range = inf"), "initializer_range.*inf"),
        (("hidden_size = 32", "hidden_size = 32\nattention_dropout = -1.0"), "attention_dropout=-1.0 must be"),
        (("hidden_size = 32", "hidden_size = 32\nrms_norm_eps = nan"), "rms_norm_eps=nan must be"),
        (("intermediate_size = 64", "intermediate_size = -1"), "intermediate_size=-1 must be at least 1"),
        (("hidden_size = 32", "hidden_size = 4611686018427387904"), "hidden_size=4611686018427387904 must be"),
        (("hidden_size = 32", "hidden_size = 1073741824"), "make more than 1e.14 parameters"),
        (("num_hidden_layers = 3", "num_hidden_layers = 60000"), "num_hidden_layers=60000 must be at most 4096"),
    ],
)
@pytest.mark.parametrize("model", ["llama", "hc", "static"])
def test_a_shape_that_no_model_has_is_refused_at_once_by_its_field(tmp_path, model, change, message):
    with pytest.raises(UserError, match=f"recipe small, model {model}: .*{message}"):
        small_recipe(tmp_path, change).subjects[model].check(32, 300)


@pytest.mark.parametrize("name", ["sequence_length", "batch_size", "micro_batch_size", "steps", "eval_steps"])
def test_absurd_amounts_are_refused(tmp_path, name):
    (line,) = (line for line in RECIPE.splitlines() if line.startswith(f"{name} ="))
    with pytest.raises(UserError, match=rf"{name}=1{'0' * 18} must be at most"):
        small_recipe(tmp_path, (f"\n{line}\n", f"\n{name} = 1{'0' * 18}\n"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (('routing = "dynamic"', 'routing = "psychic"'), "routing='psychic' is unknown; allowed: none, static"),
        (("hidden_size = 32", "hidden_size = 33"), "hidden_size=33 is not divisible by num_attention_heads=2"),
        (("hidden_size = 32", 'hidden_size = "32"'), "hidden_size"),
        (("hidden_size = 32", "hiden_size = 32"), r"unknown field 'hiden_size'; did you mean 'hidden_size'\?"),
        (('routing = "dynamic"', 'routing = "dynamic"\nrouting_top_p = 0.9'), "needs routing='static'"),
        (('routing = "dynamic"', 'routing = "static"\nrouting_top_p = 1.9'), r"routing_top_p=1\.9 must be in \(0, 1\]"),
        (('model_type = "lime"\nrouting = "dynamic"', 'model_type = "mamba"'), "model_type='mamba' is unknown"),
    ],
)
def test_bad_models_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        small_recipe(tmp_path, change).subjects["dynamic"].config(300)


def test_an_unknown_recipe_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"unknown recipe 'huge'; allowed: the path of a \.toml file, arithmetic-3, "):
        load_recipe("huge")
    with pytest.raises(UserError, match="unknown recipe 'tinny'; did you mean 'tiny'"):
        load_recipe("tinny")
    with pytest.raises(UserError, match="No such file"):
        load_recipe(str(tmp_path / "missing.toml"))
    assert load_recipe(str(write_recipe(tmp_path))).name == "small"
