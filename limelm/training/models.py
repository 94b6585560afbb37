"""Build, reload and export a recipe's models."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    set_seed,
)

from limelm.errors import UserError
from limelm.loading import load_model, load_tokenizer
from limelm.models.flops import ModelCost, model_cost
from limelm.tokenizers import check_tokenizer
from limelm.training.adapted import (
    adapted_cost,
    build_adapted,
    load_trained,
    save_adapted,
)
from limelm.training.recipe import Recipe
from limelm.training.trainer import checkpoint_activations


def initial_model(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build the model before training: the recipe's pretrained one, adapted, or one from scratch.

    From scratch, parameters that it shares with LLaMA by name and shape start at LLaMA's values, so that the models
    differ in what sets them apart and not in their luck.
    """
    set_seed(recipe.training.seed)
    if recipe.base is not None:
        model = build_adapted(recipe.base, recipe.adapted(name), recipe.training.precision)
    else:
        model = _from_scratch(recipe, name, tokenizer)
    if recipe.engine.activation_checkpointing:
        checkpoint_activations(model)
    return model


def _from_scratch(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = AutoModelForCausalLM.from_config(recipe.model_config(name, len(tokenizer), **ids))
    set_seed(recipe.training.seed)
    baseline = AutoModelForCausalLM.from_config(recipe.baseline_config(name, len(tokenizer), **ids)).state_dict()
    own = model.state_dict()
    shared = {key: value for key, value in baseline.items() if key in own and own[key].shape == value.shape}
    model.load_state_dict(shared, strict=False)
    model.generation_config = GenerationConfig(**ids, pad_token_id=tokenizer.eos_token_id)
    return model


def trained_model(recipe: Recipe, name: str, tokenizer: PreTrainedTokenizerFast, checkpoint: Path) -> PreTrainedModel:
    """Load the model of a checkpoint, in evaluation mode."""
    if recipe.base is None:
        model = load_model(checkpoint)
    else:
        model = initial_model(recipe, name, tokenizer)
        load_trained(model, checkpoint)
    model.config.use_cache = True  # the Trainer turns it off
    return model.eval()


def save_model(recipe: Recipe, name: str, model: PreTrainedModel, folder: Path) -> None:
    """Write a trained model.

    Raises:
        UserError: where it cannot be written.
    """
    try:
        if recipe.base is None:
            model.save_pretrained(folder)
        else:
            save_adapted(model, recipe.adapted(name), folder)
    except SafetensorError as error:  # a full disk, most likely
        raise UserError(f"{folder}: the model cannot be written ({error})") from error


def check_data(recipe: Recipe, tokenizer: PreTrainedTokenizerFast, data: Path) -> None:
    """Refuse data that the recipe's pretrained model cannot read.

    Raises:
        UserError: where it has another tokenizer.
    """
    if recipe.base is not None:
        instead = f"prepare them with: limelm data prepare ... --tokenizer {recipe.base}"
        check_tokenizer(data, tokenizer, load_tokenizer(recipe.base), recipe.base, instead)


def cost_of(recipe: Recipe, name: str, model: PreTrainedModel) -> ModelCost:
    """Count the costs of one of the recipe's models for one of its sequences."""
    length = recipe.data.sequence_length
    if recipe.base is None:
        return model_cost(model.config, length)
    return adapted_cost(model.config, recipe.adapted(name), length)
