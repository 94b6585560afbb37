"""Tasks that the harness does not have, as configurations for it: the generated ones, and logical deduction."""

from collections.abc import Callable
from typing import Any

from limelm.evaluation.generated import GENERATED, ITEMS
from limelm.records import Records

Splits = dict[str, Records]

VERSION = 1.0
LOGICAL_DEDUCTION = "logical_deduction_three_objects"
#: The statements are lettered in the prompt; the answer is the statement, not the letter.
_LOGICAL_DEDUCTION_PROMPT = (
    "{{situation}}\n{% for statement in statements %}\n{{ 'ABC'[loop.index0] }}. {{ statement }}{% endfor %}\nAnswer:"
)


def generated_task(name: str, seed: int) -> dict[str, Any]:
    """The configuration of key-value retrieval or of induction."""
    splits = {split: GENERATED[name](split, seed) for split in ITEMS}
    return _multiple_choice(name, splits, text="text", choices="choices") | {"training_split": "train"}


def logical_deduction(splits: Splits) -> dict[str, Any]:
    """The configuration of logical deduction with three objects, from `limelm.evaluation.local_data`'s rows.

    There are no training items: examples for prompts are other items, as for the harness's own tasks of this kind.
    """
    definition = _multiple_choice(LOGICAL_DEDUCTION, splits, text=_LOGICAL_DEDUCTION_PROMPT, choices="statements")
    return definition | {"fewshot_split": "test"}


def hub_like(splits: Splits) -> Callable[..., Any]:
    """A function that the harness calls in place of `datasets.load_dataset`."""

    def dataset(**_: Any) -> Any:
        from datasets import Dataset

        return {split: Dataset.from_list(rows) for split, rows in splits.items()}

    return dataset


def _multiple_choice(name: str, splits: Splits, *, text: str, choices: str) -> dict[str, Any]:
    return {
        "task": name,
        "custom_dataset": hub_like(splits),
        "output_type": "multiple_choice",
        "test_split": "test",
        "doc_to_text": text,
        "doc_to_choice": choices,
        "doc_to_target": "gold",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        "metadata": {"version": VERSION},
    }
