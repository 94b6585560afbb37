"""A plan as plain text: the model, LLaMA of the same shape, and the difference, which is the routing's share."""

from collections.abc import Callable

from limelm.planning.fit import BUCKETS, CONTEXT, GIB
from limelm.planning.peak_memory import ACTIVATIONS, GRADIENTS, OPTIMIZER, TEMPORARY, WEIGHTS
from limelm.planning.plan import ModelPlan, Plan
from limelm.recipes.recipe import Recipe

LABEL_WIDTH, OWN_WIDTH, COLUMN_WIDTH = 42, 24, 16  # of the rows' labels, of the model's own column, of the others
TIGHT = 0.95  # of a GPU's memory: from here on there is a warning
MEMORY_ROWS = {
    WEIGHTS: "weights, float32",
    GRADIENTS: "gradients",
    OPTIMIZER: "Adam's two moments",
    BUCKETS: "DDP's buckets of gradients",
    ACTIVATIONS: "activations kept for the backward",
    TEMPORARY: "temporary (logits and their gradients, ...)",
    CONTEXT: "allowance: CUDA context, fragmentation",
}
Value = Callable[[ModelPlan], float]


def plan_table(plan: Plan) -> str:
    """Write the whole plan, with its assumptions."""
    return "\n".join([*_head(plan), "", *_rows(plan), "", *_notes(plan)])


def _head(plan: Plan) -> list[str]:
    recipe, training, engine = plan.recipe, plan.recipe.training, plan.recipe.engine
    gpus = f"{plan.hardware.gpus} GPU{'s' * (plan.hardware.gpus > 1)}"
    sharding = "FSDP2" if engine.sharding == "fsdp" else "DDP" if plan.hardware.gpus > 1 else "one process"
    recomputes = ", activation checkpointing" if engine.activation_checkpointing else ""
    return [
        f"{recipe.name}-{plan.name} on {gpus} of {plan.hardware.memory / GIB:g} GiB: {sharding}, "
        f"{training.precision}{recomputes}",
        f"{training.steps:,} steps of {training.batch_size:,} sequences of {recipe.data.sequence_length:,} tokens: "
        f"{gpus} x {plan.accumulation} forwards x {plan.micro_batch_size} sequences",
        *_trainings(recipe),
    ]


def _trainings(recipe: Recipe) -> list[str]:
    """Say how many trainings of the model `limelm reproduce` takes, where that is more than the one that is planned."""
    searched, seeds = len(recipe.learning_rates), recipe.seeds
    if searched + seeds <= 1:
        return []
    rates = f" ({searched} learning rates with the first seed, the other seeds at the best)" if searched else ""
    return [f"one training; limelm reproduce takes {max(searched, 1) + seeds - 1} of this model{rates}"]


def _rows(plan: Plan) -> list[str]:
    baseline = [] if plan.baseline is None else ["LLaMA", "difference"]
    kept = plan.recipe.engine.keep_checkpoints
    return [
        _line("", [plan.recipe.subjects[plan.name].label, *baseline]),
        _row(plan, "parameters", lambda model: model.cost.parameters, "{:,.0f}"),
        _row(plan, "training FLOPs per token", lambda model: model.training_flops, "{:.4e}"),
        _row(plan, "training FLOPs", lambda model: model.training_flops * plan.tokens, "{:.4e}"),
        _line("tokens", [f"{plan.tokens:,}"]),
        "",
        *_memory_rows(plan),
        "",
        "disk in GiB",
        _gib("  token shards, each token read once", plan.shard_bytes),
        _gib(f"  checkpoints: {kept} kept, 1 being written", (kept + 1) * plan.model.checkpoint_bytes),
        _gib("  finished model", plan.model.weight_bytes),
        "",
        "time",
        _row(plan, "  hours", lambda model: model.seconds / 3600, "{:,.1f}"),
        _row(plan, "  GPU-hours", lambda model: model.seconds / 3600 * plan.hardware.gpus, "{:,.1f}"),
    ]


def _memory_rows(plan: Plan) -> list[str]:
    own, other = plan.model.memory, None if plan.baseline is None else plan.baseline.memory
    if own is None:
        return ["memory per GPU: FSDP is not simulated"]
    moment = f" (in the {own.phase})" if other is None or other.phase == own.phase else ""
    parts = [_row(plan, f"  {MEMORY_ROWS[part]}", _gib_of(part), "{:.2f}") for part in MEMORY_ROWS if part in own.parts]
    total = _row(plan, "  total", lambda model: model.memory.total / GIB if model.memory else 0, "{:.2f}")
    return [f"memory per GPU in GiB, at the peak{moment}", *parts, total]


def _row(plan: Plan, label: str, value: Value, style: str) -> str:
    cells = [style.format(value(plan.model))]
    if plan.baseline is not None:
        own, other = value(plan.model), value(plan.baseline)
        cells += [style.format(other), _signed(style, own - other)]
    return _line(label, cells)


def _line(label: str, cells: list[str]) -> str:
    """Write a row; a model's name does not move the columns, whatever its length."""
    own, *others = cells
    own = own if len(own) < OWN_WIDTH else f"{own[: OWN_WIDTH - 2]}…"
    return f"{label:<{LABEL_WIDTH}}{own:>{OWN_WIDTH}}" + "".join(f"{cell:>{COLUMN_WIDTH}}" for cell in others)


def _gib_of(part: str) -> Value:
    return lambda model: model.memory.parts[part] / GIB if model.memory else 0


def _signed(style: str, number: float) -> str:
    """Write a number with its sign, or 0 if it rounds to nothing."""
    text = style.format(abs(number))
    return ("-" if number < 0 else "+") + text if float(text.replace(",", "")) else "0"


def _gib(label: str, size: int) -> str:
    return _line(label, [f"{size / GIB:.2f}"])


def _notes(plan: Plan) -> list[str]:
    hardware, notes = plan.hardware, []
    if hardware.tokens_per_second:
        notes.append(f"Time: {hardware.tokens_per_second:,.0f} tokens/s per GPU, of either model, as given.")
    else:
        rate = plan.tokens / plan.model.seconds / hardware.gpus
        notes.append(
            f"Time: assumes {hardware.mfu:.0%} of {hardware.peak_flops / 1e12:,.0f} TFLOP/s, {rate:,.0f} tokens/s per "
            "GPU; --tokens-per-second takes a measured rate."
        )
        if plan.recipe.training.precision == "fp32":
            notes.append(
                "The recipe computes in float32, in which a GPU is several times slower: give a measured rate."
            )
    notes += [
        "Time counts training steps only, without evaluations and checkpoints.",
        "FLOPs: two per multiply-add of matrix compute, attention over the full square, backward = 2 x forward;",
        "what is computed again in the backward is not counted.",
    ]
    memory = plan.model.memory
    if memory is None:
        return [
            *notes,
            "Memory: what FSDP shards and gathers is not simulated; engine.sharding=none shows that of DDP.",
        ]
    notes.append(
        "Memory: a step simulated on the model's code, with PyTorch's fused attention; the allowance is assumed."
    )
    if plan.recipe.training.precision == "bf16":
        notes.append("Activations include the bfloat16 copies of the weights that autocast makes.")
    if plan.baseline is not None:
        notes.append("LLaMA is that of transformers, whose norms keep more for the backward than the ones here.")
    if plan.recipe.engine.compile:
        notes.append("engine.compile is on: the simulated step is the uncompiled one.")
    if TIGHT * hardware.memory < memory.total <= hardware.memory:
        notes.append(f"Warning: it fits with only {-plan.missing / GIB:.1f} GiB to spare.")
    return notes
