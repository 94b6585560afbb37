"""The text that a recipe trains on."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from limelm.data import PRESETS, TokenDataset, available_processes, load_prepared_tokenizer, prepare_preset
from limelm.data.shards import MANIFEST, SPLITS
from limelm.errors import UserError
from limelm.training.processes import this_process
from limelm.training.recipe import Recipe

DATA = "data"


def prepare_data(recipe: Recipe, folder: Path) -> Path:
    """Prepare the recipe's own text in `folder`, or go on with what is there.

    Raises:
        UserError: where it cannot be had; or among several processes, which would wait for one for too long.
    """
    if (folder / MANIFEST).exists():
        return folder
    if this_process().num_processes > 1:
        raise UserError(
            f"{folder}: several processes cannot prepare the data; run `limelm data prepare --preset "
            f"{recipe.data.preset} --out DIR` before, and give --data DIR"
        )
    is_small = PRESETS[recipe.data.preset].dataset is None
    prepare_preset(
        recipe.data.preset,
        folder,
        processes=1 if is_small else available_processes(),
        vocab_size=recipe.data.vocab_size,
        validation_fraction=recipe.data.validation_fraction,
    )
    return folder


def open_data(recipe: Recipe, folder: Path) -> tuple[PreTrainedTokenizerFast, TokenDataset, TokenDataset]:
    """The tokenizer, the training set and the held-out set of a prepared folder.

    Raises:
        UserError: for a folder that is not what its manifest says, or too little text for one batch.
    """
    length, verify = recipe.data.sequence_length, this_process().is_main_process
    tokenizer = load_prepared_tokenizer(folder)
    train_set, eval_set = (TokenDataset(folder, split, length, verify) for split in SPLITS)
    if len(train_set) < recipe.training.batch_size:
        raise UserError(
            f"{folder}: the train split has {len(train_set)} sequences, fewer than one batch of "
            f"{recipe.training.batch_size}"
        )
    return tokenizer, train_set, eval_set
