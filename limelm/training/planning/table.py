"""A plan as plain text: the model, LLaMA of the same shape, and the difference, which is the routing's share."""

from collections.abc import Callable

from limelm.training.planning.memory_plan import BUCKETS, CONTEXT, GATHERED, GIB
from limelm.training.planning.plan import ModelPlan, Plan
from limelm.training.planning.simulation import ACTIVATIONS, GRADIENTS, OPTIMIZER, TEMPORARY, WEIGHTS

LABEL_WIDTH, OWN_WIDTH, COLUMN_WIDTH = 42, 24, 16  # of the rows' labels, of the model's own column, of the others
TIGHT = 0.95  # of a GPU's memory: from here on there is a warning
MEMORY_ROWS = {
    WEIGHTS: "weights, float32",
    GRADIENTS: "gradients",
    OPTIMIZER: "Adam's two moments",
    BUCKETS: "DDP's buckets of gradients",
    GATHERED: "FSDP's gathered layers (estimate)",
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
    ]


def _rows(plan: Plan) -> list[str]:
    phase = plan.model.memory.phase
    same_phase = plan.baseline is None or plan.baseline.memory.phase == phase
    disk = (plan.recipe.engine.keep_checkpoints + 1) * plan.model.checkpoint_bytes
    rows = [
        _columns(plan, ""),
        _row(plan, "parameters", lambda model: model.cost.parameters, "{:,.0f}"),
        _row(plan, "training FLOPs per token", lambda model: model.training_flops, "{:.4e}"),
        _row(plan, "training FLOPs", lambda model: model.training_flops * plan.tokens, "{:.4e}"),
        _line("tokens", [f"{plan.tokens:,}"]),
        "",
        f"memory per GPU in GiB, at the peak (in the {phase})" if same_phase else "memory per GPU in GiB, at the peak",
    ]
    for part, label in MEMORY_ROWS.items():
        if part in plan.model.memory.parts:
            rows.append(_row(plan, f"  {label}", _gib_of(part), "{:.2f}"))
    rows += [
        _row(plan, "  total", lambda model: model.memory.total / GIB, "{:.2f}"),
        "",
        "disk in GiB",
        _single("  token shards, each token read once", plan.shard_bytes / GIB),
        _single(f"  checkpoints: {plan.recipe.engine.keep_checkpoints} kept, 1 being written", disk / GIB),
        _single("  finished model", plan.model.weight_bytes / GIB),
        "",
        "time",
        _row(plan, "  hours", lambda model: model.seconds / 3600, "{:,.1f}"),
        _row(plan, "  GPU-hours", lambda model: model.seconds / 3600 * plan.hardware.gpus, "{:,.1f}"),
    ]
    return rows


def _columns(plan: Plan, label: str) -> str:
    heads = [plan.recipe.label(plan.name)]
    if plan.baseline is not None:
        heads += ["LLaMA", "difference"]
    return _line(label, heads)


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
    return lambda model: model.memory.parts[part] / GIB


def _signed(style: str, number: float) -> str:
    """Write a number with its sign, or 0 if it rounds to nothing."""
    text = style.format(abs(number))
    return ("-" if number < 0 else "+") + text if float(text.replace(",", "")) else "0"


def _single(label: str, number: float) -> str:
    return _line(label, [f"{number:.2f}"])


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
    notes += [
        "Time counts training steps only, without evaluations and checkpoints.",
        "FLOPs: two per multiply-add of matrix compute, attention over the full square, backward = 2 x forward;",
        "what is computed again in the backward is not counted.",
        "Memory: a step simulated on the model's code, with PyTorch's fused attention; the allowance is assumed.",
    ]
    if plan.recipe.training.precision == "bf16" and plan.recipe.engine.sharding == "none":
        notes.append("Activations include the bfloat16 copies of the weights that autocast makes.")
    if plan.baseline is not None:
        notes.append("LLaMA is that of transformers, whose norms keep more for the backward than the ones here.")
    if plan.recipe.engine.compile:
        notes.append("engine.compile is on: the simulated step is the uncompiled one.")
    if plan.recipe.engine.sharding == "fsdp":
        notes.append("FSDP: what it shards and gathers is an estimate by size, not simulated.")
    if TIGHT * hardware.memory < plan.model.memory.total <= hardware.memory:
        notes.append(f"Warning: it fits with only {-plan.missing / GIB:.1f} GiB to spare.")
    return notes
