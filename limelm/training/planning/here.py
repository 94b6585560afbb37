"""Find out, in seconds before a training starts, whether it fits into this machine's memory."""

import functools
import os

import torch
from transformers import LlamaConfig

from limelm.environment import available_memory
from limelm.errors import UserError
from limelm.training.planning.fit import Fit, in_words
from limelm.training.planning.memory_plan import ALLOWANCE, GIB, plan_memory
from limelm.training.planning.simulation import Step, StepMemory, simulate_step
from limelm.training.processes import micro_batches, this_process
from limelm.training.recipe import Recipe

CPU_ALLOWANCE = GIB // 4  # for what libraries keep for themselves
FEW, MORE = 6, 12  # layers, from which the memory of a deeper model follows
# Generous numbers of floats: of a layer per token, in hidden and in intermediate sizes; of the logits; per parameter.
PER_HIDDEN, PER_INTERMEDIATE, PER_LOGIT, PER_PARAMETER = 64, 8, 6, 5


def require_memory(recipe: Recipe, name: str, vocab_size: int) -> None:
    """Refuse a training from scratch for which too little memory is free.

    Args:
        vocab_size: of the data.

    Raises:
        UserError: with what it needs, what is free, and the settings of the engine with which it would fit.
    """
    if recipe.base is not None:
        return
    on_cuda, processes = torch.cuda.is_available(), this_process().num_processes
    config, room = recipe.model_config(name, vocab_size=vocab_size), _room(on_cuda)
    size, _ = micro_batches(recipe, processes)
    if upper_bound(config, size * recipe.data.sequence_length) <= room:
        return
    simulate = functools.partial(simulate_deep, foreach=on_cuda)
    fit = Fit(recipe, config, processes, room, functools.partial(plan_memory, simulate=simulate, allowance=0))
    needed = fit.needed()
    if needed.total > room:
        raise UserError(
            f"{recipe.name}-{name} needs {needed.total / GIB:.1f} GiB of memory, and {max(0, room) / GIB:.1f} GiB are "
            f"free on this {'GPU' if on_cuda else 'machine'}; {in_words(fit.ways(needed))}"
        )


def upper_bound(config: LlamaConfig, tokens: int) -> int:
    """An upper bound of a training step's bytes with so many tokens in a forward, without simulating it."""
    width, layers, mlp = config.hidden_size, config.num_hidden_layers, config.intermediate_size
    streams = getattr(config, "expansion_rate", 1)
    routers = layers * layers * config.num_key_value_heads * width  # the largest are those of dynamic routing
    parameters = layers * width * (4 * width + 3 * mlp) + 2 * config.vocab_size * width + routers
    of_tokens = layers * (PER_HIDDEN * width * streams + PER_INTERMEDIATE * mlp) + PER_LOGIT * config.vocab_size
    return 4 * (PER_PARAMETER * parameters + tokens * of_tokens)


def simulate_deep(config: LlamaConfig, step: Step, dtype: torch.dtype, foreach: bool) -> StepMemory:
    """Simulate a step's memory; a deep model's follows from two shallow ones, as each layer adds the same."""
    layers = config.num_hidden_layers
    if layers <= MORE:
        return simulate_step(config, step, dtype, foreach=foreach)
    few, more = (simulate_step(_with_layers(config, n), step, dtype, foreach=foreach) for n in (FEW, MORE))
    times = (layers - MORE) / (MORE - FEW)
    phases = {
        phase: {part: size + round(times * (size - few.phases[phase][part])) for part, size in parts.items()}
        for phase, parts in more.phases.items()
    }
    return StepMemory(phases, more.saved + round(times * (more.saved - few.saved)))


def _with_layers(config: LlamaConfig, layers: int) -> LlamaConfig:
    return type(config).from_dict({**config.to_dict(), "num_hidden_layers": layers})


def _room(on_cuda: bool) -> int:
    """The bytes that this process may take; on a CPU the processes of one machine share the free memory."""
    free = available_memory(torch.device("cuda" if on_cuda else "cpu"))
    if on_cuda:
        return free - ALLOWANCE
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) - CPU_ALLOWANCE
