"""The routing statistics of all models of a finished run."""

from pathlib import Path
from typing import Any

import torch

from limelm.adapters.checkpoint import load_model
from limelm.adapters.retrieval import Records, retrieval_weights
from limelm.analysis.retrieval import retrieval_records
from limelm.data import TokenDataset

BATCH_SIZE = 8


def measure_retrieval(summary: dict[str, Any], data: Path, max_sequences: int = 64) -> dict[str, Records]:
    """Load the run's checkpoints and measure what their routers retrieve.

    Args:
        summary: of a run, from `limelm.training.read_summary`.
        data: the prepared folder that it was trained on.
        max_sequences: how many held-out sequences the dynamic priors are averaged over.

    Returns:
        The `retrieval_records` of all routing models together, by figure; empty where no model routes.
    """
    held_out = TokenDataset(data, "validation", summary["data"]["sequence_length"])
    sequences = [held_out[i]["input_ids"] for i in range(min(max_sequences, len(held_out)))]
    batches = [torch.stack(sequences[i : i + BATCH_SIZE]) for i in range(0, len(sequences), BATCH_SIZE)]
    records: dict[str, Records] = {}
    for entry in summary["models"]:
        weights = retrieval_weights(load_model(Path(entry["checkpoint"])), entry["label"], batches)
        if weights is not None:
            for name, rows in retrieval_records(weights).items():
                records.setdefault(name, []).extend(rows)
    return records
