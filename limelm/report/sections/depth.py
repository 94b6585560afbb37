"""The section on runs that differ in the number of layers: what depth does to each model's loss (Figure 8)."""

from collections.abc import Mapping
from typing import Any

from limelm.evaluation.seeds import baseline_of, final_losses
from limelm.records import Records
from limelm.report.figures import training
from limelm.report.sections.results import losses_by_seed, trainings_of
from limelm.report.writer import Section

DEPTH = Section("loss_over_depth", training.loss_over_depth)
OF_THE_SHAPE = ("architecture", "models")  # of a recipe, which may differ


def depth_records(summaries: Mapping[str, dict[str, Any]]) -> Records:
    """The held-out loss of each training of runs that were made alike in different depths.

    Args:
        summaries: by the name of the run's folder, from `limelm.training.read_summary`.

    Returns:
        Records of `model`, `layers`, `hidden_size`, `parameters`, `learning_rate` (where one was searched for each
        model), `seed`, `eval_loss` and its `difference` from the baseline's of the same depth and seed (None for the
        baseline), by depth; none where the runs differ in other things than their shape, or have models from one depth
        only.
    """
    runs = sorted(summaries.values(), key=lambda summary: _layers(summary) or 0)
    depths = [_layers(summary) for summary in runs]
    if len({*depths}) < len(runs) or None in depths:
        return []
    if any(_all_but_shape(summary) != _all_but_shape(runs[0]) for summary in runs):
        return []
    rows = [row for summary in runs for row in _of_run(summary)]
    return rows if len({row["layers"] for row in rows}) > 1 else []


def _layers(summary: dict[str, Any]) -> int | None:
    """The depth of a run's models; None for one in a pretrained model, which has its own."""
    layers: int | None = None if "base" in summary else summary["recipe"]["architecture"].get("num_hidden_layers")
    return layers


def _all_but_shape(summary: dict[str, Any]) -> tuple[Any, ...]:
    recipe = {key: value for key, value in summary["recipe"].items() if key not in OF_THE_SHAPE}
    return recipe, summary["data"]


def _of_run(summary: dict[str, Any]) -> Records:
    models, baseline = trainings_of(summary), baseline_of(summary)
    return [
        {
            "model": row["model"],
            "layers": _layers(summary),
            "hidden_size": summary["recipe"]["architecture"]["hidden_size"],
            "parameters": models[row["model"]][0]["parameters"],
            "learning_rate": models[row["model"]][0].get("learning_rate"),
            "seed": row["seed"],
            "eval_loss": row["loss"],
            "difference": None if row["model"] == baseline else row["difference"],
        }
        for row in final_losses(losses_by_seed(models), baseline)
    ]
