import json

import pytest

from limelm.cli import main
from limelm.cli.reproduce import _jobs
from limelm.training import load_recipe, recipe_names
from tests.commands import parse
from tests.recipes import prepared, write_recipe


def test_every_recipe_is_listed_in_a_line_with_its_description(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == recipe_names() and "tiny" in recipe_names()
    described = [line.split(maxsplit=1)[1] for line in lines]
    assert described == [load_recipe(name).description for name in recipe_names()]
    assert len({line.index(text) for line, text in zip(lines, described, strict=True)}) == 1
    assert main(["recipes", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert [recipe["name"] for recipe in listed] == recipe_names()
    assert [recipe["description"] for recipe in listed] == described


@pytest.mark.parametrize("name", recipe_names())
def test_what_is_printed_is_a_file_of_the_same_recipe(tmp_path, capsys, name):
    assert main(["recipes", name]) == 0
    printed = capsys.readouterr().out
    (tmp_path / f"{name}.toml").write_text(printed)
    assert load_recipe(str(tmp_path / f"{name}.toml")) == load_recipe(name)
    assert "extends" not in printed
    assert main(["recipes", name, "--json"]) == 0
    [shown] = json.loads(capsys.readouterr().out)["recipes"]
    assert shown["name"] == name and shown["models"].keys() == load_recipe(name).models.keys()


def test_the_recipe_in_the_help_is_one(tmp_path, capsys):
    from limelm.cli.recipes import DESCRIPTION

    example = [line.strip() for line in DESCRIPTION.splitlines() if line.startswith("    ")]
    (tmp_path / "wide.toml").write_text("\n".join(example))
    recipe, tiny = load_recipe(str(tmp_path / "wide.toml")), load_recipe("tiny")
    assert recipe.seeds == 2 and recipe.architecture["hidden_size"] == 2 * tiny.architecture["hidden_size"]
    assert recipe.models == tiny.models and recipe.training.steps == 200


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["teeny"], "unknown recipe 'teeny'; did you mean 'tiny'?"),
        (["nowhere.toml"], "nowhere.toml: no such file"),
        (["tiny", "small"], "unrecognized arguments: small"),
    ],
)
def test_bad_input_is_one_line(arguments, message, capsys):
    try:
        code = main(["recipes", *arguments])
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert code == 2 and not out and message in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("recipes", "shared"),
    [("deep-32 deep-64 deep-128", True), ("tiny small", False), ("arithmetic-3 arithmetic-4", False)],
)
def test_several_recipes_share_what_is_the_same_text(recipes, shared, tmp_path):
    """Each reads its own data, unless an earlier one of the command has prepared the very same."""
    jobs = _jobs(parse(["reproduce", *recipes.split(), "--out", str(tmp_path)]))
    first, *others = [job.recipe.name for job in jobs]
    wanted = tmp_path / first / "data" if shared else None
    assert [job.data for job in jobs] == [None, *(wanted for _ in others)]


def refused(capsys, *arguments) -> str:
    """The one line of a command that is refused."""
    assert main([str(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1, error
    return error


def test_several_recipes_do_not_take_the_folder_of_one(tmp_path, capsys):
    (tmp_path / "run.json").write_text("{}")
    assert "is the run of one recipe" in refused(capsys, "reproduce", "tiny", "small", "--out", tmp_path)


def test_data_of_another_kind_are_refused_before_any_recipe_is_trained(tmp_path, capsys):
    data = prepared(tmp_path / "tokens")
    recipe = write_recipe(tmp_path)
    capsys.readouterr()
    line = refused(capsys, "reproduce", recipe, "arithmetic-3", "--out", tmp_path / "out", "--data", data)
    assert "recipe arithmetic-3: --data: " in line and "not a folder of reasoning problems" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("reproduce tiny --from x", "recipe tiny: trains from scratch; --from MODEL is for the recipe attach"),
        ("reproduce tiny --routing-top-p 0.8", "routing_top_p is a field of single models"),
        ("train tiny --models kv", "--models: one model at a time; name it with --model"),
    ],
)
def test_options_of_another_command_or_recipe_are_named(arguments, said, tmp_path, capsys):
    assert said in refused(capsys, *arguments.split(), "--out", tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[models.kv]\nroutng = 'kv'", "unknown field 'routng'; did you mean 'routing'?"),
        ("[architecture]\nhidden_size = 130", "hidden_size=130 is not divisible by num_attention_heads=4"),
        ("[models.own]\nlabel = 'own'", "model own: no value for model_type; allowed: llama, "),
    ],
)
def test_a_recipe_that_no_model_can_have_is_not_printed(text, said, tmp_path, capsys):
    path = tmp_path / "own.toml"
    path.write_text(f'extends = "tiny"\n{text}\n')
    assert said in refused(capsys, "recipes", path)
