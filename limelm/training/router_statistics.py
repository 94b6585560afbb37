"""Statistics of weights over depth during training: entropy, self-weight, pruned weights (Table 5, Figure 9).

They are of routers, layer by layer, or of other connections, whose places (`limelm.routing.reader`) stand for layers.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, TrainerCallback, TrainerState

from limelm.analysis.retrieval import retrieval_weights
from limelm.analysis.retrieval_statistics import layer_statistics, mean_by_source, pruning_totals, retrieval_records
from limelm.loading import load_model
from limelm.recipes.data import SequenceDataset
from limelm.records import Record, Records
from limelm.training.jsonl import append_line, drop_lines_after

BATCH_SIZE = 8


def measure_retrieval(
    summary: dict[str, Any], held_out: SequenceDataset, max_sequences: int = 64
) -> dict[str, Records]:
    """Load a checkpoint of each of a run's models and measure what its routers retrieve.

    It is that of the first seed whose weights are still there; models of which none are there are left out.

    Args:
        summary: of the run, from `limelm.training.read_summary`.
        held_out: its evaluation set: items with `input_ids`, as of `limelm.data.dataset.TokenDataset`.
        max_sequences: how many of them the dynamic priors are averaged over.

    Returns:
        The `retrieval_records` of all routing models together, by figure; empty where no model routes.
    """
    sequences = [held_out[i]["input_ids"] for i in range(min(max_sequences, len(held_out)))]
    batches = [torch.stack(sequences[i : i + BATCH_SIZE]) for i in range(0, len(sequences), BATCH_SIZE)]
    records: dict[str, Records] = {}
    for entry in routed_with_weights(summary).values():
        if entry is None:
            continue
        weights = retrieval_weights(load_model(Path(entry["checkpoint"])), entry["label"], batches)
        if weights is not None:
            for name, rows in retrieval_records(weights).items():
                records.setdefault(name, []).extend(rows)
    return records


def routed_with_weights(summary: dict[str, Any]) -> dict[str, Record | None]:
    """Find the first training of each of a run's routing models whose weights are kept, by label; None without any."""
    first: dict[str, Record | None] = {}
    for entry in (entry for entry in summary["trainings"] if entry["routing"] is not None):
        if first.setdefault(entry["label"]) is None and _has_weights(entry):
            first[entry["label"]] = entry
    return first


def _has_weights(entry: Record) -> bool:
    return any(Path(entry["checkpoint"]).glob("*.safetensors"))


def routing_summary(model: PreTrainedModel, sequences: Tensor) -> dict[str, Any] | None:
    """Summarize a model's routing, for a run's summary.

    Args:
        sequences: held-out token ids `[B, T]`, over which a dynamic router's weights are averaged.

    Returns:
        `top_p`, `heads`, `num_layers`, the `pruning_totals`, the `layer_statistics` as `layers`, and Figure 9's
        curves: `mean_retrieval` (by `source` m the mean `weight` in the layers that read it) and `self_retrieval` (by
        `layer` the mean `weight` on its own input). None for a model that does not route.
    """
    weights = retrieval_weights(model, "", [sequences])
    if weights is None:
        return None
    records, by_source = layer_statistics(weights), mean_by_source(weights)
    return {
        "top_p": weights.top_p,
        "heads": weights.num_heads,
        "num_layers": weights.num_layers,
        **pruning_totals(records, weights.num_heads, weights.num_layers),
        "layers": records,
        "mean_retrieval": {
            "source": [row["source"] for row in by_source],
            "weight": [row["mean_weight"] for row in by_source],
        },
        "self_retrieval": {
            "layer": [record["layer"] for record in records],
            "weight": [record["self_weight"] for record in records],
        },
    }


class RouterStatistics(TrainerCallback):
    """Writes `routers.jsonl`: one line at every evaluation with `step`, `layers` and the `pruning_totals`.

    Measuring changes nothing: neither the model and its gradients nor the random numbers to come. A model that does not
    route leaves no file. A training that goes on from a checkpoint drops the lines of later steps.

    Args:
        path: of the file.
        sequences: held-out token ids `[B, T]`, over which a dynamic router's weights are averaged; the same on every
            rank.

    Attributes:
        latest_metrics: what was measured last, for reporters: `router/entropy/layer_03` (nats),
            `router/self_weight/layer_03` and, with top-p, `router/pruned_share/layer_03`, for every routing layer.
    """

    def __init__(self, path: Path, sequences: Tensor):
        self.path, self.sequences = path, sequences
        self.latest_metrics: dict[str, float] = {}
        self._measured_step: int | None = None
        self._written_step = -1

    def on_train_begin(self, args, state, control, **kwargs):
        self._measured_step = None
        if state.is_world_process_zero:
            there = drop_lines_after(self.path, state.global_step)
            self._written_step = there[-1]["step"] if there else -1

    def on_evaluate(self, args, state, control, model=None, **kwargs):
        self.measure(model, state)

    def measure(self, model: PreTrainedModel, state: TrainerState) -> dict[str, float]:
        """Measure and write, once per step; called on every rank.

        Returns:
            `latest_metrics`; empty for a model that does not route.
        """
        step = state.global_step
        if step == self._measured_step:
            return self.latest_metrics
        self._measured_step = step
        weights = retrieval_weights(model, "", [self.sequences])
        if weights is None:
            return self.latest_metrics
        records = layer_statistics(weights)
        self.latest_metrics = _metrics(records, weights.top_p is not None)
        if state.is_world_process_zero and step > self._written_step:
            totals = pruning_totals(records, weights.num_heads, weights.num_layers)
            append_line(self.path, {"step": step, "layers": records, **totals})
            self._written_step = step
        return self.latest_metrics


def _metrics(records: Records, is_pruned: bool) -> dict[str, float]:
    digits = max(2, len(str(records[-1]["layer"])))
    metrics = {}
    for record in records:
        name = f"layer_{record['layer']:0{digits}d}"
        metrics[f"router/entropy/{name}"] = record["entropy"]
        metrics[f"router/self_weight/{name}"] = record["self_weight"]
        if is_pruned:
            metrics[f"router/pruned_share/{name}"] = record["pruned"] / record["weights"]
    return metrics
