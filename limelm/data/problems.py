"""Reasoning problems as training data: kept as text in a folder, read as padded sequences.

A folder holds `problems.json`, `train.jsonl` and `test.jsonl` (a problem each line), and `tokenizer/`.
"""

import hashlib
import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from limelm.data.shards import TOKENIZER
from limelm.data.synthetic import SPLITS, Problem, TextFormat, draw_task, word_tokenizer
from limelm.data.tokenization import load_document_tokenizer, tokenizer_sha256
from limelm.errors import UserError
from limelm.files import write_text

PROBLEMS = "problems.json"
IGNORED = -100  # a label that the loss leaves out


@dataclass(frozen=True)
class ProblemFolder:
    """What a folder of problems holds, as `problems.json` says.

    Attributes:
        task: see `limelm.data.synthetic.draw_task`.
        worked_steps: whether the steps stand before the answer.
        train, test: how many problems.
        tested_on: where those of the test come from.
        delimiter: between prompt, steps and answer.
        chance: what guessing scores.
        content_sha256: one hash for all that training and test see.
    """

    task: str
    worked_steps: bool
    train: int
    test: int
    tested_on: str
    delimiter: str
    chance: float
    content_sha256: str

    @classmethod
    def load(cls, folder: Path) -> "ProblemFolder":
        """Read `problems.json`, and compare the files with its hash.

        Raises:
            UserError: where something is missing or changed.
        """
        path = folder / PROBLEMS
        try:
            found = cls(**json.loads(path.read_text(encoding="utf-8")))
            content = _content_sha256(folder, found.worked_steps)
        except OSError as error:
            raise UserError.from_os_error(path, error) from error
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: broken ({error})") from error
        if content != found.content_sha256:
            raise UserError(f"{folder}: its problems or tokenizer have changed since they were made; remove the folder")
        return found

    @property
    def text_format(self) -> TextFormat:
        """How problems are written."""
        return TextFormat(self.delimiter)


def prepare_problems(
    folder: Path, task: str, worked_steps: bool, train: int, test: int, test_file: Path | None = None
) -> ProblemFolder:
    """Draw a task's problems and write them to the new folder.

    Raises:
        UserError: see `limelm.data.synthetic.draw_task`; or where it cannot be written.
    """
    drawn = draw_task(task, train, test, test_file)
    partial = folder.with_name(f".{folder.name}.partial")
    try:
        if partial.exists():
            shutil.rmtree(partial)
        word_tokenizer(drawn.words).save_pretrained(partial / TOKENIZER)
        for split, problems in zip(SPLITS, (drawn.train, drawn.test), strict=True):
            lines = (json.dumps({"prompt": p.prompt, "steps": p.steps, "answer": p.answer}) for p in problems)
            write_text(partial / f"{split}.jsonl", "\n".join(lines) + "\n")
        content = _content_sha256(partial, worked_steps)
        tested_on = "generated problems" if test_file is None else f"the first {test} of {test_file.name}"
        made = ProblemFolder(
            task, worked_steps, train, test, tested_on, drawn.text_format.delimiter, drawn.chance, content
        )
        write_text(partial / PROBLEMS, json.dumps(asdict(made), indent=1) + "\n")
        partial.rename(folder)
    except OSError as error:
        raise UserError.from_os_error(folder, error) from error
    return made


def read_problems(folder: Path, split: str) -> list[Problem]:
    """The problems of a split, "train" or "test"."""
    lines = (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    rows = (json.loads(line) for line in lines)
    return [Problem(row["prompt"], tuple(row["steps"]), row["answer"]) for row in rows]


def load_problem_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder's problems."""
    return load_document_tokenizer(str(folder / TOKENIZER))


class ProblemDataset(Dataset):
    """One split: prompt, continuation and EOS of each problem, padded on the right to `sequence_length`.

    Item i is `{"input_ids": [T], "labels": [T]}`. Labels are the ids of the continuation and EOS, and -100 at the
    prompt and the padding: what can be learned is what is written, and what is random is not. No mask is needed, as no
    token looks to its right.

    Raises:
        UserError: for a problem that is longer than `sequence_length`.
    """

    def __init__(self, folder: Path, split: str, sequence_length: int):
        made, tokenizer, problems = (
            ProblemFolder.load(folder),
            load_problem_tokenizer(folder),
            read_problems(folder, split),
        )
        written = made.text_format
        prompts = _encode(tokenizer, [written.prompt(problem) for problem in problems])
        answers = _encode(tokenizer, [written.continuation(problem, made.worked_steps) for problem in problems])
        longest = max(len(prompt) + len(answer) + 1 for prompt, answer in zip(prompts, answers, strict=True))
        if longest > sequence_length:
            raise UserError(
                f"data.sequence_length={sequence_length} is too short for {made.task}: its longest problem in the "
                f"{split} split has {longest} tokens"
            )
        self.input_ids = torch.full((len(problems), sequence_length), tokenizer.pad_token_id)
        self.labels = torch.full_like(self.input_ids, IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = torch.tensor([*prompt, *answer, tokenizer.eos_token_id])
            self.input_ids[row, : len(ids)] = ids
            self.labels[row, len(prompt) : len(ids)] = ids[len(prompt) :]

    def __len__(self) -> int:
        return len(self.input_ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}


def _encode(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> list[list[int]]:
    return list(tokenizer(texts, add_special_tokens=False)["input_ids"])


def _content_sha256(folder: Path, worked_steps: bool) -> str:
    digest = hashlib.sha256(f"{tokenizer_sha256(folder / TOKENIZER)} {worked_steps}".encode())
    for split in SPLITS:
        digest.update((folder / f"{split}.jsonl").read_bytes())
    return digest.hexdigest()
