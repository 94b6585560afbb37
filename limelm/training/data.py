"""The data of a recipe: its own text or problems, or a folder of prepared text."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from limelm.data.dataset import TokenDataset, load_prepared_tokenizer
from limelm.data.encode import available_processes
from limelm.data.presets import PRESETS, prepare_preset
from limelm.data.problems import ProblemDataset, ProblemFolder, load_problem_tokenizer, prepare_problems
from limelm.data.shards import MANIFEST, SPLITS, Manifest
from limelm.data.synthetic.sampling import SPLITS as PROBLEM_SPLITS
from limelm.errors import UserError
from limelm.training.processes import this_process
from limelm.training.recipe import DataRecipe, ProblemRecipe, Recipe

DATA = "data"

SequenceDataset = TokenDataset | ProblemDataset


def own_data(recipe: Recipe) -> str:
    """The name of a recipe's own text or task.

    Raises:
        UserError: for a pretrained model, which has its own tokenizer.
    """
    if recipe.base is not None:
        raise UserError(f"recipe {recipe.name}: needs --data, prepared with the pretrained model's own tokenizer")
    return recipe.data.preset if isinstance(recipe.data, DataRecipe) else recipe.data.task


def prepare_data(recipe: Recipe, folder: Path) -> Path:
    """Prepare the recipe's own data in `folder`, or go on with what is there.

    Raises:
        UserError: where it has none (see `own_data`); or for text among several processes, which would wait for one for
            too long.
    """
    own_data(recipe)  # refused where there is none
    if isinstance(recipe.data, ProblemRecipe):
        if this_process().is_main_process:
            _prepare_problems(recipe.data, folder)
        this_process().wait_for_everyone()
    elif not (folder / MANIFEST).exists():
        _prepare_text(recipe.data, folder)
    return folder


def describe_data(recipe: Recipe, folder: Path) -> dict[str, Any]:
    """Describe a prepared folder: `source`, `content_sha256`, `vocab_size`, and the amount of data.

    Raises:
        UserError: for a folder that is not what it says.
    """
    if isinstance(recipe.data, ProblemRecipe):
        made = ProblemFolder.load(folder)
        return {
            "source": f"{made.task}, {'with' if made.worked_steps else 'without'} the worked steps",
            "content_sha256": made.content_sha256,
            "vocab_size": len(load_problem_tokenizer(folder)),
            "train_problems": made.train,
            "test_problems": made.test,
        }
    manifest = Manifest.load(folder)
    return {
        "source": manifest.source,
        "content_sha256": manifest.content_sha256,
        "vocab_size": manifest.vocab_size,
        **{
            f"{name}_{what}": getattr(split, what)
            for name, split in manifest.splits.items()
            for what in ("documents", "tokens")
        },
    }


def open_data(recipe: Recipe, folder: Path) -> tuple[PreTrainedTokenizerFast, SequenceDataset, SequenceDataset]:
    """Open a prepared folder: the tokenizer, the training set and the evaluation set.

    Raises:
        UserError: for a folder that is not what it says, sequences that are too short for a problem, or too few of them
            for one batch.
    """
    length, verify = recipe.data.sequence_length, this_process().is_main_process
    train_set: SequenceDataset
    eval_set: SequenceDataset
    if isinstance(recipe.data, ProblemRecipe):
        tokenizer = load_problem_tokenizer(folder)
        train_set, eval_set = (ProblemDataset(folder, split, length) for split in PROBLEM_SPLITS)
    else:
        tokenizer = load_prepared_tokenizer(folder)
        train_set, eval_set = (TokenDataset(folder, split, length, verify) for split in SPLITS)
    if len(train_set) < recipe.training.batch_size:
        raise UserError(
            f"{folder}: the train split has {len(train_set)} sequences, fewer than one batch of "
            f"{recipe.training.batch_size}"
        )
    return tokenizer, train_set, eval_set


def _prepare_text(data: DataRecipe, folder: Path) -> None:
    if this_process().num_processes > 1:
        raise UserError(
            f"{folder}: several processes cannot prepare the data; run `limelm data prepare --preset "
            f"{data.preset} --out DIR` before, and give --data DIR"
        )
    is_small = PRESETS[data.preset].dataset is None
    prepare_preset(
        data.preset,
        folder,
        processes=1 if is_small else available_processes(),
        vocab_size=data.vocab_size,
        validation_fraction=data.validation_fraction,
    )


def _prepare_problems(data: ProblemRecipe, folder: Path) -> None:
    """Prepare a recipe's problems unless they are there; problems of another recipe are refused."""
    wanted = (data.task, data.worked_steps, data.train_problems, data.test_problems)
    if not folder.exists():
        test_file = Path(data.test_file) if data.test_file else None
        prepare_problems(folder, *wanted, test_file, data.sequence_length)
        return
    made = ProblemFolder.load(folder)
    there = (made.task, made.worked_steps, made.train, made.test)
    if there != wanted:
        raise UserError(f"{folder}: holds other problems ({there}, not {wanted}); name a new folder")
