import pytest
import torch
from transformers import AutoModelForCausalLM

from limelm.training.parameter_groups import parameter_groups
from tests.recipes import small_recipe


@pytest.mark.parametrize("name", ["llama", "hc", "static", "dynamic", "kv"])
def test_groups_partition_all_parameters(tmp_path, name):
    recipe = small_recipe(tmp_path)
    model = AutoModelForCausalLM.from_config(recipe.model_config(name, vocab_size=300))
    groups = parameter_groups(model, recipe.training)
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    settings = {
        id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]
    }
    for key, parameter in model.named_parameters():
        lr = 1e-2 if "router" in key else 1e-3
        undecayed = parameter.ndim == 1 and "dynamic_beta" not in key
        undecayed |= key.endswith(("router.weight", "static_alpha"))
        assert settings[id(parameter)] == (lr, 0.0 if undecayed else 0.1), key
    assert any("router" in group["name"] for group in groups) == (name in ("static", "dynamic", "kv"))


def test_frozen_parameters_are_left_out(tmp_path):
    recipe = small_recipe(tmp_path)
    model = AutoModelForCausalLM.from_config(recipe.model_config("static", vocab_size=300))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("router" in key)
    groups = parameter_groups(model, recipe.training)
    assert [group["name"] for group in groups] == ["router"]
    assert len(groups[0]["params"]) == 2


def test_an_unknown_parameter_is_refused(tmp_path):
    recipe = small_recipe(tmp_path)
    model = AutoModelForCausalLM.from_config(recipe.model_config("llama", vocab_size=300))
    model.model.register_parameter("mystery", torch.nn.Parameter(torch.zeros(3)))
    with pytest.raises(ValueError, match=r"model\.mystery belongs to 0 groups"):
        parameter_groups(model, recipe.training)
