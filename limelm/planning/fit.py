"""Find out how much memory a training needs, whether it is there, and with which settings it would fit."""

import os
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
from transformers import LlamaConfig

from limelm.environment import available_memory, this_process
from limelm.errors import UserError
from limelm.planning.peak_memory import GRADIENTS, Parts, Step, StepMemory
from limelm.planning.simulation import simulate_deep, simulate_step
from limelm.recipes.recipe import Recipe

GIB = 2**30
# For what PyTorch's allocator does not count as allocated: CUDA's context, the libraries' workspaces (cuBLAS, NCCL) and
# fragmentation. Assumed, not measured.
ALLOWANCE = 3 * GIB // 2
CPU_ALLOWANCE = GIB // 4  # for what libraries keep for themselves
BUCKETS, CONTEXT = "buckets", "context"  # parts of a plan beside those of `limelm.planning.peak_memory`
# Generous numbers of floats: of a layer per token, in hidden and in intermediate sizes; of the logits; per parameter.
PER_HIDDEN, PER_INTERMEDIATE, PER_LOGIT, PER_PARAMETER = 64, 8, 6, 5


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes in each process at the peak of a step.

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


def plan_memory(
    config: LlamaConfig,
    recipe: Recipe,
    processes: int,
    simulate: Callable[[LlamaConfig, Step], StepMemory] = simulate_step,
    allowance: int = ALLOWANCE,
) -> MemoryPlan:
    """Plan the memory of training `config`'s model as the recipe says, with a copy of everything in each process.

    Args:
        simulate: gives a step's memory in one process.
        allowance: bytes for what is not simulated.

    Raises:
        UserError: where the processes cannot share the batch.
    """
    phases = simulate(config, step_of(recipe, processes)).phases
    others = {CONTEXT: allowance}
    if processes > 1:  # DDP's gradients are not views of the buckets that it sends, as the Trainer sets it up
        others[BUCKETS] = phases["optimizer step"][GRADIENTS]
    plans = [MemoryPlan({**parts, **others}, phase) for phase, parts in phases.items()]
    return max(plans, key=lambda plan: plan.total)


def step_of(recipe: Recipe, processes: int) -> Step:
    """Describe a forward and backward of one process among several, as the recipe says.

    Raises:
        UserError: where the processes cannot share the batch.
    """
    size, accumulation = recipe.micro_batches(processes)
    return Step(
        micro_batch_size=size,
        sequence_length=recipe.data.sequence_length,
        autocast=recipe.training.precision == "bf16",
        activation_checkpointing=recipe.engine.activation_checkpointing,
        accumulates=accumulation > 1,
    )


def ways_to_fit(
    recipe: Recipe, processes: int, room: int, needed_by: Callable[[Recipe], MemoryPlan]
) -> list[tuple[str, int]]:
    """Find changes of the engine with which a recipe that does not fit does, with the bytes that they need.

    They are a smaller micro-batch, and activation checkpointing with as large a micro-batch as fits.

    Args:
        room: bytes that each process may take.
        needed_by: the memory of a changed recipe.
    """
    whole, _ = recipe.micro_batches(processes)
    sizes = [whole >> halvings for halvings in range(whole.bit_length())]
    tries: list[tuple[dict[str, Any], list[int]]] = [({}, sizes[1:])]
    if not recipe.engine.activation_checkpointing:
        tries.append(({"activation_checkpointing": True}, sizes))
    ways = []
    for changes, allowed in tries:
        changed = replace(recipe, engine=replace(recipe.engine, **changes))
        if found := _largest_micro_batch(changed, allowed, room, needed_by):
            size, total = found
            wanted = changes if size == whole else {**changes, "micro_batch_size": size}
            words = " and ".join(f"engine.{key}={str(value).lower()}" for key, value in wanted.items())
            ways.append((words, total))
    return ways


def _largest_micro_batch(
    recipe: Recipe, sizes: list[int], room: int, needed_by: Callable[[Recipe], MemoryPlan]
) -> tuple[int, int] | None:
    """The first of falling `sizes` that fits, with its bytes; None if none does."""

    @cache
    def total(size: int) -> int:
        return needed_by(replace(recipe, engine=replace(recipe.engine, micro_batch_size=size))).total

    first = bisect_left(sizes, True, key=lambda size: total(size) <= room)
    return (sizes[first], total(sizes[first])) if first < len(sizes) else None


def in_words(ways: list[tuple[str, int]], may_shard: bool) -> str:
    """Put the results of `ways_to_fit` into words, for an error.

    Args:
        may_shard: whether FSDP, which is not simulated, may help too.
    """
    if ways:
        words = f"it would fit with {', or with '.join(f'{way} ({total / GIB:.1f} GiB)' for way, total in ways)}"
    else:
        words = "no setting of the engine makes it fit"
    return words + (", sharding=fsdp aside, which is not simulated" if may_shard else "")


def require_memory(recipe: Recipe, name: str, vocab_size: int) -> None:
    """Refuse a training from scratch for which too little memory is free; one with FSDP is not looked at.

    Args:
        vocab_size: of the data.

    Raises:
        UserError: with what it needs, what is free, and the settings of the engine with which it would fit.
    """
    planned = recipe.subjects[name].to_plan(vocab_size)
    if planned is None or recipe.engine.sharding == "fsdp":
        return
    on_cuda, processes = torch.cuda.is_available(), this_process().num_processes
    (config, _), room = planned, _room(on_cuda)
    size, _ = recipe.micro_batches(processes)
    if upper_bound(config, size * recipe.data.sequence_length) <= room:
        return

    def needed_by(recipe: Recipe) -> MemoryPlan:
        simulate = partial(simulate_deep, foreach=on_cuda)
        return plan_memory(config, recipe, processes, simulate, allowance=0)

    needed = needed_by(recipe).total
    if needed > room:
        ways = ways_to_fit(recipe, processes, room, needed_by)
        raise UserError(
            f"{recipe.name}-{name} needs {needed / GIB:.1f} GiB of memory, and {max(0, room) / GIB:.1f} GiB are free "
            f"on this {'GPU' if on_cuda else 'machine'}; {in_words(ways, may_shard=on_cuda and processes > 1)}"
        )


def upper_bound(config: LlamaConfig, tokens: int) -> int:
    """An upper bound of a training step's bytes with so many tokens in a forward, without simulating it."""
    width, layers, mlp = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    streams = getattr(config, "expansion_rate", 1)
    routers = layers * layers * config.num_key_value_heads * width  # the largest are those of dynamic routing
    parameters = layers * width * (4 * width + 3 * mlp) + 2 * config.vocab_size * width + routers
    of_tokens = layers * (PER_HIDDEN * width * streams + PER_INTERMEDIATE * mlp) + PER_LOGIT * config.vocab_size
    return 4 * (PER_PARAMETER * parameters + tokens * of_tokens)


def _room(on_cuda: bool) -> int:
    """The bytes that this process may take; on a CPU the processes of one machine share the free memory."""
    free = available_memory(torch.device("cuda" if on_cuda else "cpu"))
    if on_cuda:
        return free - ALLOWANCE
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - CPU_ALLOWANCE
