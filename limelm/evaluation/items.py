"""A model's results on a task or a text, item by item, in files that say which run made them."""

import hashlib
import json
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from limelm.evaluation.kept import read_kept
from limelm.files import write_text
from limelm.records import Record

FOLDER = "items"
LONGEST_NAME = 100  # bytes; file systems allow 255, and an ending and a hash are added
#: The field of a task's rows whose equal values belong together: one passage, one situation.
GROUPS = {"multirc": "paragraph", "logical_deduction_three_objects": "situation"}


def items_of(samples: list[Record], task: Any, cut: set[tuple[str, str]]) -> list[Record]:
    """The harness's samples of a task as items, in the order of its data set.

    An item has `doc_id`, `prompt_fingerprint` (of all its contexts and answers), `cut` (whether a prompt lost its
    beginning) and `scores` by metric; one with choices also `log_likelihoods`, `prediction` (the likeliest) and `gold`;
    one with a single answer, which is right, `answer_log_likelihood`; where items belong together, `group`.
    """
    items: dict[int, Record] = {}
    for sample in samples:
        arguments = [tuple(map(_text, pair)) for pair in sample["arguments"]]
        number = sample["doc_id"]
        item = items.setdefault(number, {"doc_id": number, "prompt_fingerprint": fingerprint(arguments)})
        item["cut"] = any(pair in cut or (pair[0], "") in cut for pair in arguments)
        if task.OUTPUT_TYPE == "multiple_choice":
            choices = task.doc_to_choice(sample["doc"])
            likelihoods = [float(answer[0]) for answer in sample["filtered_resps"][: len(choices)]]
            item |= {
                "log_likelihoods": likelihoods,
                "prediction": int(np.argmax(likelihoods)),
                "gold": _gold(sample, task, choices),
            }
        elif task.OUTPUT_TYPE == "loglikelihood":
            item["answer_log_likelihood"] = float(sample["filtered_resps"][0][0])
        if task.task_name in GROUPS:
            item["group"] = fingerprint(sample["doc"][GROUPS[task.task_name]])
        item.setdefault("scores", {}).update(_scores(sample, task))
    return [items[number] for number in sorted(items)]


def checkpoint_fingerprint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of a checkpoint: its configuration, its weights and its tokenizer."""
    total = hashlib.sha256()
    config = {
        key: value for key, value in model.config.to_dict().items() if key not in ("_name_or_path", "architectures")
    }
    total.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        total.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        total.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        for path in sorted(Path(folder).iterdir()):
            total.update(path.name.encode() + path.read_bytes())
    return total.hexdigest()[:32]


def data_fingerprint(task: Any, limit: int | None) -> str:
    """A hash of the rows that a task scores and takes its examples from."""
    scored = task.eval_docs
    examples = getattr(task, "sampler", None)
    rows = [*(scored.select(range(min(limit, len(scored)))) if limit else scored), *(examples.df if examples else ())]
    return fingerprint(rows)


def definition_fingerprint(task: Any) -> str:
    """A hash of a task's prompt and scoring definition (its version number is not always raised)."""
    apart = ("custom_dataset", "fewshot_config", "metadata", "num_fewshot")  # functions by address, paths, the shots
    return fingerprint({key: value for key, value in task.dump_config().items() if key not in apart})


def fingerprint(value: Any) -> str:
    """A short hash of any value that can be written as JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]


def read_record(path: Path, identity: Record, kind: type) -> Record | None:
    """Read the record that an earlier run left; None unless it is complete and of the same run."""
    record = read_kept(path, kind)
    return record if record is not None and record["identity"] == identity else None


def write_record(path: Path, record: Record) -> None:
    """Write a record with one line per item, so that two runs can be compared with `diff`."""
    head = json.dumps({key: value for key, value in record.items() if key != "items"}, indent=1)
    lines = ",\n".join(json.dumps(item) for item in record["items"])
    write_text(path, f'{head[:-2]},\n "items": [\n{lines}\n]\n}}\n')


def _scores(sample: Record, task: Any) -> dict[str, float]:
    """A sample's scores by metric; those of a named filter carry its name."""
    suffix = "" if sample["filter"] == "none" else f",{sample['filter']}"
    return {f"{name}{suffix}": float(sample[name]) for name in mean_metrics(task) if name in sample["metrics"]}


def _gold(sample: Record, task: Any, choices: list[str]) -> int | None:
    """The position of the right choice; None where several are right."""
    gold = task.doc_to_text(sample["doc"]) if task.multiple_input else sample["target"]
    if isinstance(gold, str):
        return choices.index(gold)
    return gold if isinstance(gold, int) else None


def _safe(name: str) -> str:
    """A valid file name for any text; where characters had to be changed, a hash keeps names apart.

    It has no separator, no control character and no point at its beginning (so it is neither hidden nor "..").
    """
    safe = re.sub(r"[^\w.() -]|^[. ]|[. ]$", "_", name) or "_"
    safe = safe.encode()[:LONGEST_NAME].decode(errors="ignore")
    return safe if safe == name else f"{safe}-{fingerprint(name)[:6]}"


def _text(argument: Any) -> str:
    return argument if isinstance(argument, str) else json.dumps(argument, sort_keys=True, default=str)


def file_name(label: str, what: str) -> str:
    """The file of a model's results on a task or a domain, below the items' folder."""
    return f"{_safe(label)}/{_safe(what)}.json"


def mean_metrics(task: Any) -> list[str]:
    """The metrics of a task that are plain means over its items, and better the higher they are."""
    from lm_eval.api.metrics import mean

    means = [name for name, aggregate in task.aggregation().items() if aggregate in (mean, np.mean)]
    is_better = task.higher_is_better() or {}
    return [name for name in means if is_better.get(name) is not False]  # None: the task does not say


def correct(items: Iterable[Record], metric: str) -> list[float]:
    """The scores of all items on one metric."""
    return [item["scores"][metric] for item in items]
