"""The tables: records with plain numbers for the CSV, and how a column is shown to people."""

import math
from pathlib import Path
from typing import Any

from limelm.models.flops import TRAINING_TO_FORWARD
from limelm.records import Records
from limelm.report.columns import Column, Show, count, number, share, signed_thousandths, thousandths, unbroken
from limelm.report.paper import PRINTED, costs_at_paper_scale
from limelm.training.jsonl import METRICS, ROUTERS_LOG, read_lines
from limelm.training.result import FINAL_LOSS_STEPS

MOST_SMOOTHED = 11  # steps
SMOOTHED_PART = 10  # a tenth of a run, where that is less


def loss_curves(summary: dict[str, Any]) -> Records:
    """Read losses by step, training FLOPs (Figure 1) and seconds of training from each model's `metrics.jsonl`.

    `smoothed_loss` is the mean over up to eleven steps around, at most a tenth of the run. A step that was only
    evaluated, as for a model that is not trained, has the held-out loss alone.
    """
    records: Records = []
    for entry in summary["models"]:
        flops_per_token = TRAINING_TO_FORWARD * entry["flops_per_token_forward"]
        lines = read_lines(Path(entry["checkpoint"]) / METRICS)
        smoothed = _smoothed([line.get("loss") for line in lines])
        records += [
            {
                "model": entry["label"],
                "step": line["step"],
                "train_tokens": line["tokens"],
                "train_flops": line["tokens"] * flops_per_token,
                "train_seconds": line["seconds"],
                "loss": line.get("loss"),
                "smoothed_loss": mean,
                "eval_loss": line.get("eval_loss"),
            }
            for line, mean in zip(lines, smoothed, strict=True)
        ]
    return records


def _smoothed(losses: list[float | None]) -> list[float | None]:
    """The running mean over a window that shrinks with the run, and towards its ends."""
    half = min(MOST_SMOOTHED, len(losses) // SMOOTHED_PART) // 2
    windows = (
        [loss for loss in losses[max(0, i - half) : i + half + 1] if loss is not None] for i in range(len(losses))
    )
    return [sum(window) / len(window) if window else None for window in windows]


def results(summary: dict[str, Any], curves: Records) -> tuple[Records, list[Column]]:
    """The table of losses and perplexity, with differences to LLaMA if it was trained; `curves` are `loss_curves`."""
    baseline = _baseline(summary)
    records = [
        {
            "model": entry["label"],
            "train_tokens": entry["train_tokens"],
            "final_train_loss": entry["final_train_loss"],
            "eval_loss": entry["eval_loss"],
            "eval_perplexity": entry["eval_perplexity"],
            "eval_loss_difference": entry["eval_loss"] - baseline["eval_loss"] if baseline else None,
        }
        for entry in summary["models"]
    ]
    columns = [
        Column("model", "model"),
        Column("train_tokens", "training tokens", count),
        Column("final_train_loss", f"training loss, {_last_steps(curves)}", thousandths),
        Column("eval_loss", "held-out loss", thousandths),
        Column("eval_perplexity", "held-out perplexity", number(".1f")),
        *([Column("eval_loss_difference", "held-out loss, minus LLaMA's", signed_thousandths)] if baseline else []),
    ]
    return records, columns


def _last_steps(curves: Records) -> str:
    """The steps over which the final training loss is a mean, in words."""
    steps = max((row["step"] for row in curves), default=0)
    if steps > FINAL_LOSS_STEPS:
        return f"last {FINAL_LOSS_STEPS} steps"
    return "the only step" if steps == 1 else f"mean of all {steps} steps"


def efficiency(summary: dict[str, Any]) -> tuple[Records, list[Column]]:
    """The table of each model's costs in this run (Table 6), with ratios to LLaMA."""
    records: Records = [
        {
            "model": entry["label"],
            "parameters": entry["parameters"],
            "forward_flops_per_token": entry["flops_per_token_forward"],
            "paper_forward_flops_per_token": entry["paper_flops_per_token_forward"],
            "peak_memory_bytes": entry["peak_memory_bytes"],
            "tokens_per_second": entry["tokens_per_second"],
        }
        for entry in summary["models"]
    ]
    measures = list(records[0])[1:]
    baseline = _baseline(summary)
    llama = dict(records[summary["models"].index(baseline)]) if baseline else dict.fromkeys(measures, math.nan)
    for row in records:
        row |= {f"{key}_ratio": row[key] / llama[key] if llama[key] else math.nan for key in measures}
        if not is_one_environment(summary):  # of speed and memory a ratio would compare machines
            row |= dict.fromkeys(("peak_memory_bytes_ratio", "tokens_per_second_ratio"), math.nan)
    for row, entry in zip(records, summary["models"], strict=True):
        row["mfu"] = entry["mfu"]
    columns = [
        Column("model", "model"),
        Column("parameters", "parameters", count),
        Column("parameters_ratio", "vs LLaMA", _more(2)),
        Column("forward_flops_per_token", "forward MFLOPs per token", number(".3f", 1e-6)),
        Column("forward_flops_per_token_ratio", "vs LLaMA", _more(2)),
        Column("paper_forward_flops_per_token", "in the paper's convention", number(".3f", 1e-6)),
        Column("paper_forward_flops_per_token_ratio", "vs LLaMA", _more(2)),
        Column("peak_memory_bytes", "peak memory, MiB", number(".0f", 2**-20)),
        Column("peak_memory_bytes_ratio", "vs LLaMA", number(".2f", unit="×")),
        Column("tokens_per_second", "tokens/s", number(",.0f")),
        Column("tokens_per_second_ratio", "vs LLaMA", number(".2f", unit="×")),
        *([Column("mfu", "MFU", share)] if any(row["mfu"] is not None for row in records) else []),
    ]
    shown = (column for column in columns if baseline or not column.key.endswith("_ratio"))
    return records, list(shown)


def paper_scale() -> tuple[Records, list[Column]]:
    """The table of our exact counts at the paper's 1.2 B shape, beside those that its Table 6 prints."""
    costs = costs_at_paper_scale()
    llama = costs["llama"]
    records = [
        {
            "model": PRINTED[name].label,
            "parameters": cost.parameters,
            "parameters_ratio": cost.parameters / llama.parameters,
            "printed_parameters": PRINTED[name].parameters,
            "forward_flops": cost.forward_flops,
            "paper_forward_flops": cost.paper_forward_flops,
            "paper_forward_flops_ratio": cost.paper_forward_flops / llama.paper_forward_flops,
            "printed_flops": PRINTED[name].flops,
            "printed_training_memory": PRINTED[name].training_memory,
        }
        for name, cost in costs.items()
    ]
    columns = [
        Column("model", "model"),
        Column("parameters", "parameters", count),
        Column("parameters_ratio", "vs LLaMA", _more(3)),
        Column("printed_parameters", "paper: parameters", unbroken),
        Column("forward_flops", "forward TFLOPs, true", number(".3f", 1e-12)),
        Column("paper_forward_flops", "in the paper's convention", number(".3f", 1e-12)),
        Column("paper_forward_flops_ratio", "vs LLaMA", _more(2)),
        Column("printed_flops", "paper: FLOPs", unbroken),
        Column("printed_training_memory", "paper: extra memory, training (elements)"),
    ]
    return records, columns


def router_entropy(summary: dict[str, Any]) -> Records:
    """Read the entropy of each layer's routing weights at every evaluation from the models' `routers.jsonl`.

    `normalized_entropy` is a part of its maximum, that of uniform weights.
    """
    return [
        {
            "model": entry["label"],
            "step": line["step"],
            "layer": layer["layer"],
            "entropy": layer["entropy"],
            "normalized_entropy": layer["normalized_entropy"],
        }
        for entry in summary["models"]
        for line in read_lines(Path(entry["checkpoint"]) / ROUTERS_LOG)
        for layer in line["layers"]
    ]


def is_one_environment(summary: dict[str, Any]) -> bool:
    """Whether all models were trained with the same versions, device and threads, so that speeds compare."""
    environments = [entry["environment"] for entry in summary["models"]]
    return all(other == environments[0] for other in environments)


def _baseline(summary: dict[str, Any]) -> dict[str, Any] | None:
    return next((entry for entry in summary["models"] if entry["model_type"] == "llama"), None)


def _more(digits: int) -> Show:
    """The excess of a ratio over 1, in percent."""
    show = number(f"+.{digits}f", 100, "\u00a0%")
    return lambda ratio: show(ratio - 1)
