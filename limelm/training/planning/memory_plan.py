"""Memory per GPU: the simulation of a step in one process, and the changes that several processes make."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from limelm.training.planning.simulation import (
    ACTIVATIONS,
    GRADIENTS,
    OPTIMIZER,
    TEMPORARY,
    WEIGHTS,
    Parts,
    Step,
    StepMemory,
    simulate_step,
)
from limelm.training.processes import micro_batches
from limelm.training.recipe import Recipe

GIB = 2**30
# For what PyTorch's allocator does not count as allocated: CUDA's context, the libraries' workspaces (cuBLAS, NCCL) and
# fragmentation. Assumed, not measured.
ALLOWANCE = 3 * GIB // 2
BUCKETS, GATHERED, CONTEXT = "buckets", "gathered", "context"


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each GPU at the peak of a step.

    Attributes:
        parts: by what they are for.
        phase: when the peak comes: "forward", "backward" or "optimizer step".
    """

    parts: Parts
    phase: str

    @property
    def total(self) -> int:
        """The sum of all parts."""
        return sum(self.parts.values())

    def at_least(self, share: float) -> float:
        """A lower bound with this share of the sequences, as if all activations shrank with it."""
        of_sequences = self.parts[ACTIVATIONS] + self.parts[TEMPORARY]
        if self.phase == "optimizer step":
            return self.total
        return self.total - (1 - share) * of_sequences


def plan_memory(
    config: LlamaConfig,
    recipe: Recipe,
    gpus: int,
    simulate: Callable[[LlamaConfig, Step, torch.dtype], StepMemory] = simulate_step,
    allowance: int = ALLOWANCE,
) -> MemoryPlan:
    """Plan the memory of training `config`'s model as the recipe says, on `gpus` GPUs.

    Args:
        simulate: gives a step's memory for a type of the parameters.
        allowance: bytes for what is not simulated.

    Raises:
        UserError: where the GPUs cannot share the batch.
    """
    size, accumulation = micro_batches(recipe, gpus)
    uses_bf16 = recipe.training.precision == "bf16"
    step = Step(
        micro_batch_size=size,
        sequence_length=recipe.data.sequence_length,
        autocast=uses_bf16,
        activation_checkpointing=recipe.engine.activation_checkpointing,
        accumulates=accumulation > 1,
    )
    if recipe.engine.sharding == "fsdp":  # the Trainer has FSDP2 gather the weights in bfloat16
        dtype = torch.bfloat16 if uses_bf16 else torch.float32
        phases = simulate(config, step, dtype).phases
        phases = {phase: _sharded(phase, parts, config, gpus, dtype, step) for phase, parts in phases.items()}
    else:
        phases = simulate(config, step, torch.float32).phases
        if gpus > 1:  # DDP's gradients are not views of the buckets that it sends, as the Trainer sets it up
            buckets = phases["optimizer step"][GRADIENTS]
            phases = {phase: {**parts, BUCKETS: buckets} for phase, parts in phases.items()}
    plans = [MemoryPlan({**parts, CONTEXT: allowance}, phase) for phase, parts in phases.items()]
    return max(plans, key=lambda plan: plan.total)


def _sharded(phase: str, parts: Parts, config: LlamaConfig, gpus: int, dtype: torch.dtype, step: Step) -> Parts:
    """Estimate the parts' bytes under FSDP2.

    Each GPU keeps its share of the float32 weights, their gradients and Adam's moments. Gathered are the embeddings,
    the final norm and the head, through the whole step, and two layers: the one that runs and the next. Gradients that
    are accumulated are not shared before the last forward of a step; else those of the gathered weights are whole.
    """
    parameters, kept, layer = _units(config)
    share = -(-4 * parameters // gpus)
    if phase == "optimizer step":
        return {WEIGHTS: share, GRADIENTS: share, OPTIMIZER: 2 * share, ACTIVATIONS: 0, TEMPORARY: share}
    gathered = (kept + 2 * layer) * dtype.itemsize
    has_gradients = phase == "backward"
    return {
        WEIGHTS: share,
        GRADIENTS: share * has_gradients + parameters * dtype.itemsize * step.accumulates,
        OPTIMIZER: 2 * share,
        GATHERED: gathered * (2 if has_gradients and not step.accumulates else 1),
        ACTIVATIONS: parts[ACTIVATIONS],
        TEMPORARY: parts[TEMPORARY],
    }


def _units(config: LlamaConfig) -> tuple[int, int, int]:
    """The parameters of the model, of everything but its layers, and of the largest layer."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    layers = [sum(parameter.numel() for parameter in layer.parameters()) for layer in model.model.layers]
    return model.num_parameters(), model.num_parameters() - sum(layers), max(layers)
