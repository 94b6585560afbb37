"""The end of a page: how the run was made, for somebody who wants to make it again."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from limelm.provenance import provenance
from limelm.report.captions import name_of

Facts = dict[str, list[tuple[str, Any]]]


def how_made(summary: Mapping[str, Any]) -> Facts:
    """Command, data, models, training and environment of a run, below a heading each.

    Args:
        summary: from `limelm.training.read_summary`; what it does not say is left out.
    """
    recipe, trainings = summary.get("recipe", {}), summary["trainings"]
    return {
        "Command": _named(summary.get("provenance", {})),
        "Data": _named({key: value for key, value in summary["data"].items() if key != "folder"}),
        "Models": [*_named(recipe.get("architecture", {})), *_models(trainings, recipe.get("models", {}))],
        "Training": _training(summary, recipe.get("training", {}), recipe.get("learning_rates", [])),
        "Environment": _environment(trainings),
    }


def made_now() -> list[tuple[str, Any]]:
    """Command, date and commit of this process, for pages that it measures and writes at once."""
    return _named(provenance())


def _named(values: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return [(name_of(key), _value(value)) for key, value in values.items() if value is not None]


def _models(entries: Iterable[Mapping[str, Any]], own: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Describe what sets each model apart."""
    models = {}
    for entry in entries:
        settings = {key: value for key, value in own.get(entry.get("name", ""), {}).items() if key != "label"}
        described = [f"{name_of(key)} {_value(value)}" for key, value in settings.items()]
        models[entry["label"]] = ", ".join([*described, f"{entry['parameters']:,} parameters"])
    return list(models.items())


def _training(summary: Mapping[str, Any], settings: Mapping[str, Any], rates: Sequence[float]) -> list[tuple[str, Any]]:
    if not settings:
        return []
    left_out = {"seed", *(["learning_rate", "router_learning_rate"] if rates else [])}
    rows = _named({key: value for key, value in settings.items() if key not in left_out})
    if rates:
        rows.insert(0, ("learning rates", ", ".join(f"{rate:g}" for rate in rates)))
    tokens = max(entry["train_tokens"] for entry in summary["trainings"])
    if tokens:
        rows.append(("tokens per step", tokens // settings["steps"]))
    seeds = summary["seeds"]
    return [*rows, ("seed" if len(seeds) == 1 else "seeds", ", ".join(map(str, seeds)))]


def _environment(entries: Sequence[Mapping[str, Any]]) -> list[tuple[str, Any]]:
    """Describe where the models were trained, one by one if that differs."""
    keys = dict.fromkeys(key for entry in entries for key in entry["environment"])
    rows = []
    for key in keys:
        models: dict[Any, list[str]] = {}
        for entry in entries:
            models.setdefault(entry["environment"].get(key, "not recorded"), []).append(entry["label"])
        value, *others = models
        different = "; ".join(f"{value} ({', '.join(dict.fromkeys(labels))})" for value, labels in models.items())
        rows.append((key, different if others else value))
    return rows


def _value(value: Any) -> Any:
    """Write a value for people: rates in short, switches as words."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else value
