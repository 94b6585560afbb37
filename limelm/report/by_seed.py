"""One summary per seed, as the pages of one seed, several seeds and adaptation still want it."""

from typing import Any


def by_seed(summary: dict[str, Any]) -> dict[int, dict[str, Any]]:
    """Split a run's summary by seed; `scale` is its name, `models` are the seed's trainings."""
    return {
        seed: {
            **summary,
            "scale": summary["name"],
            "recipe": {**summary["recipe"], "training": {**summary["recipe"]["training"], "seed": seed}},
            "models": [training for training in summary["trainings"] if training["seed"] == seed],
        }
        for seed in summary["seeds"]
    }
