"""Exact match on reasoning problems: does a trained model write the right answer, greedily, and then stop?

Within a seed all models see the same problems in the same order and share initial values, so models are compared
seed by seed.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import LogitsProcessorList, PreTrainedModel, PreTrainedTokenizerBase

from limelm.data.problems import ProblemFolder, read_problems
from limelm.errors import UserError
from limelm.evaluation.finite import FiniteLogits
from limelm.evaluation.items import write_record
from limelm.evaluation.kept import KeptAnswers, KeptScores, read_kept
from limelm.evaluation.seeds import baseline_of, in_all_seeds
from limelm.evaluation.statistics import standard_deviation, t_interval, verdict
from limelm.files import write_text
from limelm.loading import load_on
from limelm.progress import progress_bar
from limelm.records import Record, Records

EXACT_MATCH = "exact-match.json"
BATCH_SIZE = 500


@torch.no_grad()
def write_continuations(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], longest: int, label: str = ""
) -> list[str | None]:
    """Continue each prompt greedily up to EOS; None for one that the model does not end in time.

    Prompts of one length make a batch, so nothing is padded and the result does not depend on what else is asked.

    Args:
        longest: tokens of prompt, continuation and EOS together, at most.
        label: the model's, for the progress bar.

    Raises:
        UserError: for logits that are no numbers.
    """
    by_length: dict[int, list[tuple[int, list[int]]]] = defaultdict(list)
    for number, prompt in enumerate(prompts):
        ids = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        by_length[len(ids)].append((number, ids))
    written: list[str | None] = [None] * len(prompts)
    with progress_bar(label, "problem", total=len(prompts)) as bar:
        for length, asked in sorted(by_length.items()):
            for start in range(0, len(asked), BATCH_SIZE):
                numbers, ids = zip(*asked[start : start + BATCH_SIZE], strict=True)
                batch = torch.tensor(ids, device=model.device)
                made = model.generate(
                    batch,
                    attention_mask=torch.ones_like(batch),
                    do_sample=False,
                    max_new_tokens=longest - length,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                    logits_processor=LogitsProcessorList([FiniteLogits(label or "the model")]),
                )[:, length:].tolist()
                for number, continuation in zip(numbers, made, strict=True):
                    if tokenizer.eos_token_id in continuation:
                        ids_before = continuation[: continuation.index(tokenizer.eos_token_id)]
                        written[number] = tokenizer.decode(ids_before)
                bar.update(len(numbers))
    return written


def score_checkpoint(checkpoint: Path, data: Path, longest: int, label: str = "") -> Record:
    """Score a trained model on every test problem; kept in `checkpoint/exact-match.json`, and read from there again.

    Args:
        data: the folder of problems that it was trained on.

    Returns:
        `data_sha256`, `problems`, `correct`, and `items` with prompt, right answer, what was written, and whether it is
        `correct`: the final answer is matched exactly, the steps before it may be any.
    """
    folder = ProblemFolder.load(data)
    path = checkpoint / EXACT_MATCH
    earlier = read_kept(path, KeptAnswers)
    if earlier is not None and earlier["data_sha256"] == folder.content_sha256:
        return earlier
    problems, written_as = read_problems(data, "test"), folder.text_format
    model, tokenizer = load_on(torch.device("cuda" if torch.cuda.is_available() else "cpu"), checkpoint)
    prompts = [written_as.prompt(problem) for problem in problems]
    continuations = write_continuations(model, tokenizer, prompts, longest, label)
    correct = [
        written is not None and written_as.is_correct(problem, written)
        for problem, written in zip(problems, continuations, strict=True)
    ]
    items = [
        {"prompt": problem.prompt, "answer": problem.answer, "written": written, "correct": is_correct}
        for problem, written, is_correct in zip(problems, continuations, correct, strict=True)
    ]
    score = {"data_sha256": folder.content_sha256, "problems": len(items), "correct": sum(correct)}
    write_record(path, {**score, "items": items})
    return {**score, "items": items}


def score_run(name: str, summary: dict[str, Any], data: Path) -> Record:
    """Score a run's models on reasoning problems, with every seed: those that all seeds have.

    Args:
        name: of the task, for people.
        summary: of the run, from `limelm.training.read_summary`.
        data: the run's folder of problems.

    Returns:
        `task`, `worked_steps`, `problems` (how many), `tested_on`, `chance`, `constant_rate` (of always giving the
        answer that is most frequent), `baseline`, and `scores`: records of `model`, `seed`, `accuracy`.

    Raises:
        UserError: where no model was trained with all seeds.
    """
    labels = in_all_seeds(summary)
    trainings = [training for training in summary["trainings"] if training["label"] in labels]
    if not trainings:
        raise UserError(f"{name}: no model was trained with all seeds ({', '.join(map(str, summary['seeds']))})")
    folder = ProblemFolder.load(data)
    answers = Counter(problem.answer for problem in read_problems(data, "test"))
    scores: Records = []
    for training in trainings:
        label, seed = training["label"], training["seed"]
        longest = summary["data"]["sequence_length"]
        score = score_checkpoint(Path(training["checkpoint"]), data, longest, f"{label}, seed {seed}")
        accuracy = score["correct"] / score["problems"]
        scores.append({"task": name, "model": label, "seed": seed, "accuracy": accuracy})
    return {
        "task": name,
        "worked_steps": folder.worked_steps,
        "train_problems": folder.train,
        "problems": folder.test,
        "tested_on": folder.tested_on,
        "chance": folder.chance,
        "constant_rate": max(answers.values()) / folder.test,
        "baseline": baseline_of(summary),
        "scores": scores,
    }


def keep_score(out: Path, summary: dict[str, Any], data: Path) -> Record:
    """Score a run as `score_run` does, unless `out/exact-match.json` has the scores of these very results."""
    path, fingerprint = out / EXACT_MATCH, summary["fingerprint"]
    kept = read_kept(path, KeptScores)
    if kept is None or kept["made_of"] != fingerprint:
        kept = {"made_of": fingerprint, **score_run(summary["name"], summary, data)}
        write_text(path, json.dumps(kept, indent=1) + "\n")
    return kept


def summarize_accuracies(scores: Records, baseline: str) -> Records:
    """Summarize each model's accuracy over seeds, and its paired difference from the baseline's.

    Args:
        scores: of one task, from `score_run`; the same seeds for every model.

    Returns:
        Records of `task`, `model`, `seeds`, `mean` with Student's 95 % interval (`low`, `high`; it may reach beyond 0
        or 1), `standard_deviation`, and against the baseline `difference` with its interval, `better_in` (in how many
        seeds) and a `verdict`; these are None for the baseline itself. With a single seed there are no intervals, no
        scatter and no verdict.
    """
    by_model: dict[str, dict[int, float]] = defaultdict(dict)
    for row in scores:
        by_model[row["model"]][row["seed"]] = row["accuracy"]
    records: Records = []
    for model, by_seed in by_model.items():
        values = np.array(list(by_seed.values()))
        own = t_interval(values)
        record = {
            "task": scores[0]["task"],
            "model": model,
            "seeds": len(values),
            "mean": own.mean,
            "low": own.low,
            "high": own.high,
            "standard_deviation": standard_deviation(values),
            **dict.fromkeys(("difference", "difference_low", "difference_high", "better_in", "verdict")),
        }
        if model != baseline:
            differences = values - np.array([by_model[baseline][seed] for seed in by_seed])
            compared = t_interval(differences)
            record |= {
                "difference": compared.mean,
                "difference_low": compared.low,
                "difference_high": compared.high,
                "better_in": int((differences > 0).sum()),
                "verdict": compared.bounds and verdict(compared, sample=None),
            }
        records.append(record)
    return records
