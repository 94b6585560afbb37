"""The training that a model's card tells of: from its recipe, its data and its result, all equal in equal trainings."""

import re
from typing import Any

from limelm.models.card import Training
from limelm.recipes.recipe import Recipe
from limelm.text import counted
from limelm.training.result import TrainingResult

_ON_HUB = re.compile(r"([\w-][\w.-]*/[\w-][\w.-]*), [^,]+, [^,]+", re.ASCII)


def training_of_card(recipe: Recipe, name: str, data: dict[str, Any], result: TrainingResult) -> Training:
    """Collect what a card tells of a training that is finished.

    Args:
        recipe: of this one training.
        name: of the model in it.
        data: from `Data.describe`.
    """
    source = data["source"]
    found = _ON_HUB.fullmatch(source)
    label = recipe.subjects[name].label
    return Training(
        name=f"{label} (recipe {recipe.name}, seed {recipe.training.seed})",
        data=source,
        data_sha256=data["content_sha256"],
        datasets=(found[1],) if found else (),
        settings=_settings(recipe, name, result),
        train_loss=result.final_train_loss,
        held_out_loss=result.eval_loss,
        perplexity=result.eval_perplexity,
    )


def _settings(recipe: Recipe, name: str, result: TrainingResult) -> dict[str, str]:
    training, subject = recipe.training, recipe.subjects[name]
    sizes, rates = {"parameters": f"{result.parameters:,}"}, {"learning rate": f"{training.learning_rate:g}"}
    if result.trainable_parameters is not None:
        sizes["parameters that were trained"] = f"{result.trainable_parameters:,}"
    if result.movement or recipe.base is not None:
        rates["learning rate of routers, connections and LoRA"] = f"{subject.router_learning_rate(training):g}"
    return {
        "recipe": f"{recipe.name}, model {name}",
        **sizes,
        "tokens": f"{result.train_tokens:,}",
        "steps": f"{training.steps:,}",
        "batch": f"{counted(training.batch_size, 'sequence')} of {recipe.data.sequence_length:,} tokens",
        **rates,
        "schedule": f"{counted(training.warmup_steps, 'step')} of warmup, then a cosine",
        "optimizer": (
            f"AdamW, betas {training.adam_beta1:g} and {training.adam_beta2:g}, weight decay {training.weight_decay:g}"
        ),
        "precision": training.precision,
        "seed": str(training.seed),
    }
