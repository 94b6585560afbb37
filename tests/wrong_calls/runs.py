"""Recipes, folders of runs, and results that are read again."""

import json
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path

from tests.recipes import RECIPE
from tests.wrong_calls.case import NO_OBJECT, Case, Change, command, remove, write

PLAN = "plan small.toml --model static"
TRAIN = "train small.toml --model static --data T --out o"
NUMBER = ("x", "nan", "inf", "-inf", "-1", "1e400", "[1]", "{}", "true")
INTEGER = ("x", "nan", "inf", "-1", "1.5", "[1]", "true", "99999999999999999999")
RECIPE_FIELDS = {
    **dict.fromkeys(("steps", "batch_size", "sequence_length", "micro_batch_size", "eval_steps"), (*INTEGER, "0")),
    **dict.fromkeys(("warmup_steps", "seed", "save_steps", "keep_checkpoints"), INTEGER),
    **dict.fromkeys(("learning_rate", "router_learning_rate", "weight_decay", "adam_epsilon", "max_grad_norm"), NUMBER),
    **dict.fromkeys(("adam_beta1", "adam_beta2", "min_lr_ratio"), (*NUMBER, "1.5")),
    "validation_fraction": (*NUMBER, "2"),
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), (*INTEGER, "0")),
    **dict.fromkeys(("intermediate_size", "max_position_embeddings", "vocab_size"), (*INTEGER, "0")),
    "precision": ("nope", "5", "fp8"),
    "sharding": ("nope", "5"),
    "activation_checkpointing": ("nope", "5"),
    "compile": ("nope", "5"),
    "rms_norm_eps": ("x", "nan", "inf", "-1"),
    "routing": ("nope", "5", "psychic"),
    "routing_top_p": ("0", "1.5", "x", "nan"),
    "hidden_act": ("nope", "5"),
    "label": ("5", "['x']"),
    "nonsense": ("1",),
}


def cases() -> Iterator[Case]:
    """Every field of a recipe, recipe files, and every file of a run."""
    for field, values in RECIPE_FIELDS.items():
        for value in values:
            option = f"--{field.replace('_', '-')}={value}"
            yield command("recipe fields", f"{PLAN} {option}", field)
    for field in ("learning_rate", "adam_epsilon", "rms_norm_eps", "seed", "weight_decay"):
        yield command("recipe fields", f"{TRAIN} --{field.replace('_', '-')}=inf", field)
    for what, content in RECIPES.items():
        for text in (PLAN, TRAIN, "reproduce small.toml --data T --out o"):
            if text.split()[0] in NOT_READ.get(what.split()[0], ()):
                continue
            yield command("recipes", text, "small", change=write("small.toml", content), what=what)
    yield command("recipes", PLAN, "small.toml", change=_folder("small.toml"), what="a folder")
    yield from _runs()
    yield from _outputs()


def _with(old: str, new: str) -> str:
    assert old in RECIPE
    return RECIPE.replace(old, new, 1)


#: Commands that do not read what is wrong, by its first word: the model "static" is not one of those compared.
NOT_READ = {"compare": ("plan",), "model_type": ("reproduce",), "routing": ("reproduce",), "a": ("reproduce",)}
STATIC = 'label = "LIMe static"'
RECIPES: dict[str, str | bytes] = {
    "empty": "",
    "binary": bytes(range(256)),
    "no TOML": "[",
    "nested": "a = " + "[" * 100_000,
    "the same key twice": _with("steps = 4", "steps = 4\nsteps = 5"),
    "no models": RECIPE[: RECIPE.index("[models.llama]")] + RECIPE[RECIPE.index("[data]") :],
    "models is a number": RECIPE[: RECIPE.index("[models.llama]")]
    + "[models]\nllama = 5\n"
    + RECIPE[RECIPE.index("[data]") :],
    "compare is a number": _with('compare = ["llama", "dynamic"]', "compare = 5"),
    "compare names nothing": _with('compare = ["llama", "dynamic"]', "compare = []"),
    "compare names another": _with('compare = ["llama", "dynamic"]', 'compare = ["nope"]'),
    "compare holds a number": _with('compare = ["llama", "dynamic"]', "compare = [5]"),
    "description is a number": _with('description = "a test"', "description = 5"),
    "an unknown table": RECIPE + "\n[nonsense]\nx = 1\n",
    "an unknown key": _with("steps = 4", "steps = 4\nstepz = 4"),
    "engine is a text": _with("[engine]\n", 'engine = "x"\n[other]\n'),
    "label a number": _with(STATIC, "label = 5"),
    "label a list": _with(STATIC, 'label = ["x"]'),
    "label empty": _with(STATIC, 'label = ""'),
    "label of spaces": _with(STATIC, 'label = "  "'),
    "label of 400 letters": _with(STATIC, f'label = "{"x" * 400}"'),
    "label with an escape sequence": _with(STATIC, 'label = "\\u001b]0;pwned\\u0007"'),
    "two models with one label": _with(STATIC, 'label = "LLaMA"'),
    "model_type unknown": _with('model_type = "lime"\nrouting = "static"', 'model_type = "nope"'),
    "model_type a number": _with('model_type = "lime"\nrouting = "static"', "model_type = 5"),
    "routing unknown": _with('routing = "static"', 'routing = "psychic"'),
    "a model without model_type": _with('model_type = "lime"\nrouting = "static"', 'routing = "static"'),
    "preset unknown": _with('preset = "python-library"', 'preset = "nope"'),
    "preset a number": _with('preset = "python-library"', "preset = 5"),
    "learning rate infinite": _with("learning_rate = 1e-3", "learning_rate = inf"),
    "learning rate no number": _with("learning_rate = 1e-3", "learning_rate = nan"),
    "steps a text": _with("steps = 4", 'steps = "4"'),
    "steps a fraction": _with("steps = 4", "steps = 4.5"),
    "heads do not divide": _with("num_attention_heads = 2", "num_attention_heads = 5"),
    "hidden size: petabytes": _with("hidden_size = 32", "hidden_size = 100000000"),
    "layers: a million": _with("num_hidden_layers = 3", "num_hidden_layers = 10000000"),
}


def _folder(path: str) -> Change:
    return lambda: (Path(path).unlink(), Path(path).mkdir())


def _runs() -> Iterator[Case]:
    again = "reproduce small.toml --data T --out R --models llama,static"
    for name in ("run.json", "seed-1/static/result.json"):
        for what, content in NO_OBJECT.items():
            change = _changed_run(name, lambda path, content=content: path.write_bytes(content))
            yield command("runs", again, "json", change=change, what=f"{name}: {what}")
    for name in ("run.json", "seed-1/static/result.json"):
        for position, value in zip(range(12), cycle(({}, "x\x1b[2J", True, [[1]])), strict=False):
            change = _changed_run(name, lambda path, p=position, v=value: _replace_field(path, p, v))
            what = f"{name}: field {position} = {value!r}"
            yield command("runs", again, "json|R:", change=change, what=what)
    yield command("runs", f"{again} --steps 5", "steps", what="another recipe")
    yield command("runs", f"{again} --seed 2", "seed", what="another seed")
    kept = "train small.toml --model static --data T --out K"
    for what, content in NO_OBJECT.items():
        for pattern in ("run.json", "metrics.jsonl", "checkpoints/*/complete.json"):
            change = _each(f"K/{pattern}", content)
            yield command("trainings", kept, "K", change=change, what=f"{pattern}: {what}")
    for pattern in (
        "checkpoints/*/model.safetensors",
        "checkpoints/*/optimizer.pt",
        "checkpoints/*/trainer_state.json",
    ):
        yield command("trainings", kept, "K", change=_each(f"K/{pattern}", b"hello"), what=f"{pattern} replaced")


def _changed_run(name: str, alter) -> Change:
    """Break a file of a finished run."""
    return lambda: alter(Path("R") / name)


def _replace_field(path: Path, position: int, value: object) -> None:
    content = json.loads(path.read_text())
    keys = [*content]
    content[keys[position % len(keys)]] = value
    path.write_text(json.dumps(content))


def _each(pattern: str, content: bytes) -> Change:
    def change() -> None:
        paths = [*Path().glob(pattern)]
        assert paths, pattern
        for path in paths:
            path.write_bytes(content)

    return change


def _outputs() -> Iterator[Case]:
    """Folders of earlier evaluations, analyses and benchmarks that hold something else by now."""
    yield command(
        "outputs", "eval M --domain held=T --out E", "E", change=_folder_of("E/items"), what="items is a file"
    )
    yield command(
        "outputs", "bench --cases static --out B --from L", "--workloads|--cases|--out", what="another measurement"
    )
    for text in ("eval M --domain held=T --out N", "analyze M --data T --out E", "bench --out E", "convert A --out E"):
        yield command("outputs", text, "N|E", what="the folder of another command")


def _folder_of(path: str) -> Change:
    return lambda: (remove(path)(), Path(path).write_text("x"))
