import json

import pytest

from limelm.cli import main
from limelm.cli.reproduce import _jobs
from limelm.training import load_recipe, recipe_names
from tests.commands import parse


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
