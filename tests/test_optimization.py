import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

import limelm
from limelm import attach
from limelm.routing.routers import StaticRouter
from tests.recipes import small_recipe


def settings_of(groups):
    return {id(parameter): (group["lr"], group["weight_decay"]) for group in groups for parameter in group["params"]}


def assert_partition(groups, model):
    ids = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("name", ["llama", "hc", "static", "dynamic", "kv"])
def test_groups_partition_all_parameters(tmp_path, name):
    recipe = small_recipe(tmp_path)
    model = AutoModelForCausalLM.from_config(recipe.subjects[name].config(300))
    groups = limelm.parameter_groups(model)
    assert_partition(groups, model)
    settings = settings_of(groups)
    for key, parameter in model.named_parameters():
        lr = 1e-2 if "router" in key else 1e-3
        undecayed = parameter.ndim == 1 and "dynamic_beta" not in key
        undecayed |= key.endswith(("router.weight", "static_alpha"))
        assert settings[id(parameter)] == (lr, 0.0 if undecayed else 0.1), key
    assert any("router" in group["name"] for group in groups) == (name in ("static", "dynamic", "kv"))


def test_frozen_parameters_are_left_out(tmp_path):
    recipe = small_recipe(tmp_path)
    model = AutoModelForCausalLM.from_config(recipe.subjects["static"].config(300))
    for key, parameter in model.named_parameters():
        parameter.requires_grad_("router" in key)
    groups = limelm.parameter_groups(model, router_learning_rate=3e-2)
    assert [(group["name"], group["lr"]) for group in groups] == [("router", 3e-2)]
    assert len(groups[0]["params"]) == 2


class OwnModel(nn.Module):
    """Somebody's model, with names of its own and a router whose class is new."""

    def __init__(self):
        super().__init__()
        self.wte = nn.Embedding(11, 8)
        self.mix = NewRouter(limelm.routing.RouterSpec(2, 8, 2))
        self.ln_f, self.out = nn.LayerNorm(8), nn.Linear(8, 11)


class NewRouter(StaticRouter):
    def __init__(self, spec):
        super().__init__(spec)
        self.extra = nn.Linear(4, 2, bias=False)


def test_an_own_model_is_grouped_by_what_its_parameters_belong_to():
    model = OwnModel()
    groups = limelm.parameter_groups(model, learning_rate=1.0, router_learning_rate=2.0, weight_decay=0.5)
    assert_partition(groups, model)
    settings = settings_of(groups)
    expected = {
        "wte.weight": (1.0, 0.5),
        "mix.weight": (2.0, 0.0),
        "mix.extra.weight": (2.0, 0.5),
        "ln_f.weight": (1.0, 0.0),
        "ln_f.bias": (1.0, 0.0),
        "out.weight": (1.0, 0.5),
        "out.bias": (1.0, 0.0),
    }
    assert {name: settings[id(parameter)] for name, parameter in model.named_parameters()} == expected
    torch.optim.AdamW(groups)


def test_attached_routers_learn_as_routers():
    config = GPT2Config(vocab_size=30, n_embd=16, n_layer=2, n_head=2, n_positions=16)
    model = GPT2LMHeadModel(config)
    own = {name: id(parameter) for name, parameter in model.named_parameters()}
    attach(model, "static")
    groups = limelm.parameter_groups(model)
    assert_partition(groups, model)
    settings = settings_of(groups)
    for name, parameter in model.named_parameters():
        expected = (1e-2, 0.0) if id(parameter) not in own.values() else (1e-3, 0.1 if parameter.ndim > 1 else 0.0)
        assert settings[id(parameter)] == expected, name


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, "1", None, True])
@pytest.mark.parametrize("name", ["learning_rate", "router_learning_rate", "weight_decay"])
def test_a_rate_that_cannot_be_is_refused_by_name(name, value):
    with pytest.raises(ValueError, match=f"parameter_groups: {name}=.* must be"):
        limelm.parameter_groups(torch.nn.Linear(2, 2), **{name: value})


def test_a_rate_of_zero_is_refused_and_a_decay_of_zero_is_not():
    with pytest.raises(ValueError, match=r"learning_rate=0 must be more than 0"):
        limelm.parameter_groups(torch.nn.Linear(2, 2), learning_rate=0)
    assert {group["weight_decay"] for group in limelm.parameter_groups(torch.nn.Linear(2, 2), weight_decay=0)} == {0}


class OwnParameters(nn.Module):
    """An own model with parameters that nobody else knows."""

    def __init__(self):
        super().__init__()
        self.position_table = nn.Parameter(torch.zeros(5, 8))
        self.blocks = nn.ModuleList([nn.Linear(8, 8)])
        self.blocks[0].temperature = nn.Parameter(torch.ones(()))  # in a module of PyTorch's: a vector at most
        self.weight = nn.Parameter(torch.zeros(8))


def test_parameters_that_are_not_known_by_name_are_refused_unless_it_is_said_whether_they_decay():
    model = OwnParameters()
    with pytest.raises(ValueError, match=r"^position_table: .* decay=\{'position_table': False\}"):
        limelm.parameter_groups(model)
    for decays in (True, False):
        groups = limelm.parameter_groups(model, decay={"position_table": decays})
        assert_partition(groups, model)
        assert settings_of(groups)[id(model.position_table)] == (1e-3, 0.1 if decays else 0.0)
        assert (
            settings_of(groups)[id(model.weight)] == settings_of(groups)[id(model.blocks[0].temperature)] == (1e-3, 0.0)
        )
    model.position_table.requires_grad_(False)  # what is not trained need not be known
    assert_partition(limelm.parameter_groups(model), model)


def test_a_name_that_no_parameter_has_is_refused():
    with pytest.raises(ValueError, match=r"decay='positions': no parameter has this name"):
        limelm.parameter_groups(OwnParameters(), decay={"position_table": False, "positions": True})
