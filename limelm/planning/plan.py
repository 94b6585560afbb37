"""Plan what a training will cost, before anything is spent."""

from dataclasses import dataclass

import numpy as np
from transformers import LlamaConfig

from limelm.data.shards import token_dtype
from limelm.errors import UserError
from limelm.models.flops import ModelCost, model_cost, training_flops_per_token
from limelm.planning.fit import GIB, MemoryPlan, in_words, plan_memory, ways_to_fit
from limelm.recipes.recipe import Recipe

CHECKPOINT_BYTES, WEIGHT_BYTES = 12, 4  # per parameter, float32: weights and Adam's two moments; weights alone


@dataclass(frozen=True)
class Hardware:
    """The hardware that a training is to run on.

    Attributes:
        memory: bytes of one GPU.
        tokens_per_second: of one GPU, measured; None to assume `mfu` of `peak_flops`.
        mfu: model FLOPs utilization, the share of the peak that a model's own operations reach.
        peak_flops: of one GPU, per second.
    """

    gpus: int
    memory: int = 80 * GIB
    tokens_per_second: float | None = None
    mfu: float = 0.4
    peak_flops: float = 989e12  # an H100's, dense bfloat16 (NVIDIA's data sheet)


@dataclass(frozen=True)
class ModelPlan:
    """The planned costs of one model.

    Attributes:
        training_flops: per token, forward and backward.
        memory: per GPU; None with FSDP, which is not simulated.
        checkpoint_bytes: of one checkpoint.
        weight_bytes: of the finished model.
        seconds: of the training steps.
    """

    config: LlamaConfig
    cost: ModelCost
    training_flops: float
    memory: MemoryPlan | None
    checkpoint_bytes: int
    weight_bytes: int
    seconds: float


@dataclass(frozen=True)
class Plan:
    """The planned costs of a recipe's model, and of LLaMA of the same shape beside it (None if that is the model).

    Attributes:
        micro_batch_size, accumulation: sequences per forward, and forwards per GPU and step.
        tokens: of all steps.
        shard_bytes: of these tokens on disk, each read once.
    """

    recipe: Recipe
    name: str
    hardware: Hardware
    micro_batch_size: int
    accumulation: int
    tokens: int
    shard_bytes: int
    model: ModelPlan
    baseline: ModelPlan | None

    @property
    def missing(self) -> int:
        """Bytes by which a GPU is too small; negative where some are free, 0 where memory is not planned."""
        return self.model.memory.total - self.hardware.memory if self.model.memory else 0


def make_plan(recipe: Recipe, name: str, hardware: Hardware) -> Plan:
    """Plan the training of the recipe's model `name`.

    Raises:
        UserError: for a model that cannot be built or a batch that the GPUs cannot share.
    """
    if recipe.engine.sharding == "fsdp" and hardware.gpus == 1:
        raise UserError("engine.sharding='fsdp' needs several GPUs, not 1; use more, or sharding='none'")
    size, accumulation = recipe.micro_batches(hardware.gpus)
    training, data, subject = recipe.training, recipe.data, recipe.subjects[name]
    planned = subject.to_plan(data.vocab_size)
    if planned is None:
        raise UserError(f"recipe {recipe.name}: starts from a pretrained model; plans are for training from scratch")
    subject.check(data.sequence_length, data.vocab_size)
    tokens = training.steps * training.batch_size * data.sequence_length
    config, llama = planned
    baseline = None if config.model_type == "llama" else _plan_model(llama, recipe, hardware, tokens)
    return Plan(
        recipe=recipe,
        name=name,
        hardware=hardware,
        micro_batch_size=size,
        accumulation=accumulation,
        tokens=tokens,
        shard_bytes=tokens * np.dtype(token_dtype(data.vocab_size)).itemsize,
        model=_plan_model(config, recipe, hardware, tokens),
        baseline=baseline,
    )


def _plan_model(config: LlamaConfig, recipe: Recipe, hardware: Hardware, tokens: int) -> ModelPlan:
    cost = model_cost(config, recipe.data.sequence_length)
    flops = training_flops_per_token(cost)
    rate = hardware.tokens_per_second or hardware.mfu * hardware.peak_flops / flops
    return ModelPlan(
        config=config,
        cost=cost,
        training_flops=flops,
        memory=plan_memory(config, recipe, hardware.gpus) if recipe.engine.sharding == "none" else None,
        checkpoint_bytes=CHECKPOINT_BYTES * cost.parameters,
        weight_bytes=WEIGHT_BYTES * cost.parameters,
        seconds=tokens / (rate * hardware.gpus),
    )


def require_fit(plan: Plan) -> None:
    """Refuse a plan that does not fit.

    Raises:
        UserError: with what is missing, and which changes of the engine would make it fit.
    """
    needed, room, gpus = plan.model.memory, plan.hardware.memory, plan.hardware.gpus
    if needed is None or needed.total <= room:
        return
    ways = ways_to_fit(plan.recipe, gpus, room, lambda recipe: plan_memory(plan.model.config, recipe, gpus))
    raise UserError(
        f"{plan.recipe.name}-{plan.name} needs {needed.total / GIB:.1f} GiB per GPU, "
        f"{plan.missing / GIB:.1f} more than --gpu-memory {room / GIB:g}; {in_words(ways, gpus > 1)}"
    )
