"""The arguments that several commands take: each has one name, one type, one metavar and one meaning."""

import argparse
from pathlib import Path
from typing import Any

from limelm.cli.types import existing_path, model_name, positive_int, recipe_name, seed

TRACKERS = ("tensorboard", "wandb", "trackio")

#: What an argument means; a command may say more behind it.
SHARED: dict[str, tuple[str, dict[str, Any]]] = {
    "RECIPE": ("a recipe's name (limelm recipes lists them), or a .toml file", {"type": recipe_name}),
    "CHECKPOINT": ("a model or an adapter upon one: a folder, or a name on the Hugging Face hub", {"type": model_name}),
    "--out": ("folder of the results", {"type": Path, "required": True, "metavar": "OUT"}),
    "--data": ("text to read: a folder made by `limelm data prepare`", {"type": existing_path, "metavar": "PATH"}),
    "--from": (
        "a pretrained model: a folder, or a name on the Hugging Face hub",
        {"type": model_name, "dest": "base", "metavar": "MODEL"},
    ),
    "--sequence-length": ("tokens per sequence", {"type": positive_int, "metavar": "N"}),
    "--batch-size": ("sequences at once", {"type": positive_int, "metavar": "N"}),
    "--vocab-size": ("entries of the vocabulary", {"type": positive_int, "metavar": "N"}),
    "--device": ("cpu, cuda or cuda:N (default: cuda if there is a GPU)", {"metavar": "NAME"}),
    "--seed": ("seed of random choices", {"type": seed, "metavar": "N"}),
    "--report-to": (
        f"report to a tracker as well: {', '.join(TRACKERS)}; may be repeated",
        {"action": "append", "choices": TRACKERS, "default": [], "metavar": "NAME"},
    ),
    "--json": ("print one JSON document instead", {"action": "store_true"}),
    "--debug": ("show the traceback of an error", {"action": "store_true"}),
}


def add_shared(parser: argparse.ArgumentParser, name: str, more: str = "", **changes: Any) -> argparse.Action:
    """Declare an argument of `SHARED`.

    Args:
        more: said behind its meaning.
        changes: the default, whether it must be given, and how often.
    """
    meaning, how = SHARED[name]
    if not name.startswith("-"):
        how = {**how, "metavar": name}
        name = name.lower() + "s" * (changes.get("nargs") == "+")
    return parser.add_argument(name, help=meaning + more, **{**how, **changes})
