"""The sections on what models cost: in this run, and at the paper's shape beside the costs that it prints (Table 6)."""

import math
from statistics import mean
from typing import Any

from limelm.models.flops import model_cost
from limelm.recipes.files import load_recipe
from limelm.recipes.from_scratch import FromScratch
from limelm.records import Records
from limelm.report.sections.results import baseline_of, has_times, is_one_environment, trainings_of
from limelm.report.writer import Section

#: Table 6 as printed: parameters, FLOPs and extra memory of training; LIMe KV is from the second version's Table 8.
PRINTED = {
    "LLaMA": ("1.1767 B", "2.97 T", "0"),
    "Hyper-Connections": ("1.1771 B (+0.030 %)", "2.98 T (+0.3 %)", "2LBT [(R-1)D + R(R+2)]"),
    "LIMe static": ("1.1768 B (+0.008 %)", "2.98 T (+0.3 %)", "(L-1)BTHD"),
    "LIMe dynamic": ("1.1856 B (+0.075 %)", "3.01 T (+1.3 %)", "BTH (L(L+1)/2-1) + (L-1)BTHD"),
    "LIMe KV": ("1.17687 B", "3.0041 T (+1.22 %)", "not given"),
}
MEASURES = {  # of the efficiency in a run, and the fields of a training that they come from
    "parameters": "parameters",
    "forward_flops_per_token": "flops_per_token_forward",
    "paper_forward_flops_per_token": "paper_flops_per_token_forward",
    "peak_memory_bytes": "peak_memory_bytes",
    "tokens_per_second": "tokens_per_second",
}


COSTS = (Section("efficiency"), Section("paper_scale"))


def efficiency(summary: dict[str, Any]) -> Records:
    """Each model's costs in a run (Table 6), with ratios to the baseline's where there are others."""
    models = trainings_of(summary)
    records: Records = [
        {"model": label, **{key: mean(entry[field] for entry in own) or None for key, field in MEASURES.items()}}
        for label, own in models.items()
    ]
    comparable = set(MEASURES)  # otherwise a ratio would compare machines
    if not is_one_environment(summary):
        comparable.remove("peak_memory_bytes")
    if not has_times(summary):
        comparable.remove("tokens_per_second")
    base = next((dict(row) for row in records if row["model"] == baseline_of(summary)), {})
    for row, own in zip(records, models.values(), strict=True):
        for key in MEASURES:
            is_ratio = len(records) > 1 and key in comparable and base[key] and row[key]
            row[f"{key}_ratio"] = row[key] / base[key] if is_ratio else math.nan
        if "tokens_per_second" not in comparable:
            row["tokens_per_second"] = None
        row["mfu"] = None if any(entry["mfu"] is None for entry in own) else mean(entry["mfu"] for entry in own)
    return records


def paper_scale() -> Records:
    """Our exact counts at the paper's 1.2 B shape, on the meta device, beside those that its Table 6 prints."""
    recipe = load_recipe("paper-1.2b")
    costs = {
        subject.label: model_cost(subject.config(recipe.data.vocab_size), recipe.data.sequence_length)
        for subject in recipe.subjects.values()
        if subject.label in PRINTED and isinstance(subject, FromScratch)
    }
    llama = costs["LLaMA"]
    return [
        {
            "model": label,
            "parameters": cost.parameters,
            "parameters_ratio": cost.parameters / llama.parameters,
            "printed_parameters": PRINTED[label][0],
            "forward_flops": cost.forward_flops,
            "paper_forward_flops": cost.paper_forward_flops,
            "paper_forward_flops_ratio": cost.paper_forward_flops / llama.paper_forward_flops,
            "printed_flops": PRINTED[label][1],
            "printed_training_memory": PRINTED[label][2],
        }
        for label, cost in costs.items()
    ]
