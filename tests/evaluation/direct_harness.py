"""The harness called as its users call it: task names, its own loader, `simple_evaluate`; nothing of limelm's.

Only `datasets.load_dataset` is stood in for, as there is no network: it answers with the rows of a folder of files,
put into the hub's columns by the few lines below, which were written without a look at limelm.evaluation.local_data.

    python -m tests.evaluation.direct_harness CHECKPOINT FOLDER TASK,... [--shots N] [--limit N] [--out FILE]
"""

import argparse
import contextlib
import gzip
import json
from pathlib import Path

import datasets
import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer

import limelm  # noqa: F401 - registers the model types
from limelm.files import write_text

HUB = {
    ("allenai/ai2_arc", "ARC-Easy"): "arc_easy",
    ("allenai/ai2_arc", "ARC-Challenge"): "arc_challenge",
    ("allenai/winogrande", "winogrande_xl"): "winogrande",
    ("allenai/openbookqa", "main"): "openbookqa",
    ("aps/super_glue", "copa"): "copa",
    ("aps/super_glue", "multirc"): "multirc",
    ("aps/super_glue", "wic"): "wic",
    ("aps/super_glue", "rte"): "rte",
    ("nyu-mll/glue", "rte"): "rte",
    ("nyu-mll/glue", "qnli"): "qnli",
    ("Rowan/hellaswag", None): "hellaswag",
    ("baber/piqa", None): "piqa",
    ("EleutherAI/lambada_openai", "default"): "lambada",
}
SPLITS = {"val": "validation", "dev": "validation", "lambada_openai": "test"}


def hub(folder: Path):
    """A stand-in for `datasets.load_dataset`."""

    def load_dataset(path, name=None, **_):
        if path == "nyu-mll/blimp":
            return {"train": datasets.Dataset.from_list(read(folder / "blimp" / f"{name}.jsonl"))}
        kind = HUB[path, name]
        splits = {}
        for file in (folder / kind).iterdir():
            stem = file.name.split(".")[0]
            rows = [row for line in read(file) for row in convert(kind, line, path)]
            splits[SPLITS.get(stem, stem)] = datasets.Dataset.from_list(rows)
        splits.setdefault("train", splits.get("validation"))  # where the folder has no train split; unused at 0 shots
        return splits

    return load_dataset


def read(file: Path):
    text = gzip.decompress(file.read_bytes()).decode() if file.suffix == ".gz" else file.read_text()
    lines = text.rstrip("\n").split("\n")
    if file.suffix == ".tsv":
        head = lines[0].split("\t")
        return [dict(zip(head, line.split("\t"), strict=True)) for line in lines[1:]]
    return [json.loads(line) for line in lines]


def convert(kind: str, row: dict, path: str) -> list[dict]:
    entailment = {"entailment": 0, "not_entailment": 1}
    if kind == "openbookqa":
        return [{**row, "question_stem": row.pop("question", None) or row["question_stem"]}]
    if kind == "rte" and path == "nyu-mll/glue":
        return [{"sentence1": row["premise"], "sentence2": row["hypothesis"], "label": entailment[row["label"]]}]
    if kind in ("rte", "qnli"):
        return [{**row, "label": entailment[row["label"]]}]
    if kind == "wic":
        return [{**row, "label": int(row["label"])}]
    if kind == "lambada":
        return [{"text": row["context"] + " " + row["continuation"]}]
    if kind == "multirc":
        passage = row["passage"]
        return [
            {
                "paragraph": passage["text"],
                "question": asked["question"],
                "answer": answer["text"],
                "label": answer["label"],
            }
            for asked in passage["questions"]
            for answer in asked["answers"]
        ]
    return [row]


@contextlib.contextmanager
def local_hub(folder: Path):
    original = datasets.load_dataset
    datasets.load_dataset = hub(folder)
    try:
        yield
    finally:
        datasets.load_dataset = original


def direct(checkpoint: str | Path, folder: Path, tasks: list[str], shots: int, limit: int | None, task_manager=None):
    """The harness's results of each task, a call for each: in one call, tasks share batches, which moves digits."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    lm = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(checkpoint), batch_size=16)
    options = {"num_fewshot": shots, "limit": limit, "task_manager": task_manager or TaskManager()}
    with local_hub(folder):
        return {task: lm_eval.simple_evaluate(lm, tasks=[task], **options) for task in tasks}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("folder", type=Path)
    parser.add_argument("tasks")
    parser.add_argument("--shots", type=int, default=0)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    done = json.loads(options.out.read_text()) if options.out and options.out.exists() else {}
    for task in options.tasks.split(","):
        if task not in done:
            called = direct(options.checkpoint, options.folder, [task], options.shots, options.limit)
            done[task] = called[task]["results"][task]
        print(task, json.dumps(done[task], indent=1))
        if options.out:
            write_text(options.out, json.dumps(done, indent=1) + "\n")


if __name__ == "__main__":
    main()
