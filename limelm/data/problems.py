"""Reasoning problems as training data: kept as text in a folder, read as padded sequences.

A folder holds `problems.json`, `train.jsonl` and `test.jsonl` (a problem each line), and `tokenizer/`.
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from limelm.data.lines import decode, read_lines
from limelm.data.shards import TOKENIZER
from limelm.data.synthetic.problem import Problem, TextFormat
from limelm.data.synthetic.sampling import SPLITS
from limelm.data.synthetic.tasks import draw_task
from limelm.data.synthetic.tokenizer import word_tokenizer
from limelm.data.tokenization import load_document_tokenizer, tokenizer_sha256
from limelm.errors import UserError
from limelm.files import folder_beside, write_text
from limelm.records import (
    Check,
    Fraction,
    Positive,
    Sha256,
    Unrestricted,
    build,
    not_longer_than,
    parse_json,
    read_json,
)
from limelm.text import printable

PROBLEMS = "problems.json"
IGNORED = -100  # a label that the loss leaves out


@dataclass(frozen=True)
class ProblemFolder:
    """The content of a folder of problems, as `problems.json` says.

    Attributes:
        task: see `limelm.data.synthetic.tasks.draw_task`.
        worked_steps: whether the steps stand before the answer.
        train, test: how many problems.
        tested_on: where those of the test come from.
        delimiter: between prompt, steps and answer.
        chance: what guessing scores.
        content_sha256: one hash for all that training and test see.
    """

    task: str
    worked_steps: bool
    train: Positive
    test: Positive
    tested_on: str
    delimiter: Annotated[str, Unrestricted, not_longer_than(8), Check(bool, "a text")]
    chance: Fraction
    content_sha256: Sha256

    @classmethod
    def load(cls, folder: Path) -> "ProblemFolder":
        """Read `problems.json`, and compare the files with its hash.

        Raises:
            UserError: where something is missing or changed.
        """
        if folder.exists() and not (folder / PROBLEMS).exists():
            raise UserError(f"{folder}: not a folder of reasoning problems (no {PROBLEMS})")
        found: ProblemFolder = read_json(folder / PROBLEMS, cls)
        content = _content_sha256(folder, found.worked_steps)
        if content != found.content_sha256:
            raise UserError(f"{folder}: its problems or tokenizer have changed since they were made; remove the folder")
        return found

    @property
    def text_format(self) -> TextFormat:
        """The format in which problems are written."""
        return TextFormat(self.delimiter)


def prepare_problems(
    folder: Path,
    task: str,
    worked_steps: bool,
    train: int,
    test: int,
    test_file: Path | None = None,
    sequence_length: int | None = None,
) -> ProblemFolder:
    """Draw a task's problems and write them to the new folder.

    Args:
        sequence_length: that they will be read with; what does not fit is refused before anything is written.

    Raises:
        UserError: see `limelm.data.synthetic.tasks.draw_task`; for too short sequences; or where it cannot be written.
    """
    drawn = draw_task(task, train, test, test_file)
    tokenizer = word_tokenizer(drawn.words)
    if sequence_length is not None:
        encoded = _encode(tokenizer, [*drawn.train, *drawn.test], drawn.text_format, worked_steps, task)
        _check_length(*encoded, sequence_length, f"{task}: its longest problem")
    on = tested_on(test, "" if test_file is None else test_file.name)
    try:
        with folder_beside(folder) as partial:
            tokenizer.save_pretrained(partial / TOKENIZER)
            for split, problems in zip(SPLITS, (drawn.train, drawn.test), strict=True):
                lines = (json.dumps({"prompt": p.prompt, "steps": p.steps, "answer": p.answer}) for p in problems)
                write_text(partial / f"{split}.jsonl", "\n".join(lines) + "\n")
            content = _content_sha256(partial, worked_steps)
            delimiter = drawn.text_format.delimiter
            made = ProblemFolder(task, worked_steps, train, test, on, delimiter, drawn.chance, content)
            write_text(partial / PROBLEMS, json.dumps(asdict(made), indent=1) + "\n")
    except OSError as error:
        raise UserError.from_os_error(folder, error) from error
    return made


def tested_on(test: int, test_file: str) -> str:
    """Say in words what a task is tested on: the published problems of a file, or generated ones where it is ""."""
    return f"the first {test} of {printable(Path(test_file).name)}" if test_file else "generated problems"


def read_problems(folder: Path, split: str) -> list[Problem]:
    """The problems of a split, "train" or "test".

    Raises:
        UserError: for a file that is no such problems; it names the line and the field.
    """
    path = folder / f"{split}.jsonl"
    try:
        with path.open("rb") as stream:
            return [
                build(Problem, parse_json(decode(line, where), where), where)
                for where, line in read_lines(stream, path)
            ]
    except OSError as error:
        raise UserError.from_os_error(path, error) from error


def load_problem_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer of a folder's problems.

    Raises:
        UserError: where there is none, or it has no padding.
    """
    tokenizer = load_document_tokenizer(str(folder / TOKENIZER))
    if tokenizer.pad_token_id is None:
        raise UserError(f"{folder / TOKENIZER}: its tokenizer has no padding token")
    return tokenizer


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
        said = getattr(made, split)
        if len(problems) != said:
            raise UserError(
                f"{folder / PROBLEMS}: {split}={said} must be the problems of {split}.jsonl, {len(problems)}"
            )
        prompts, answers = _encode(tokenizer, problems, made.text_format, made.worked_steps, f"{folder}, {split}")
        _check_length(prompts, answers, sequence_length, f"{made.task}: its longest problem in the {split} split")
        self.input_ids = torch.full((len(problems), sequence_length), tokenizer.pad_token_id)
        self.labels = torch.full_like(self.input_ids, IGNORED)
        for row, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            ids = torch.tensor([*prompt, *answer, tokenizer.eos_token_id])
            self.input_ids[row, : len(ids)] = ids
            self.labels[row, len(prompt) : len(ids)] = ids[len(prompt) :]

    def __len__(self) -> int:
        return len(self.input_ids)

    def check_unchanged(self) -> None:
        """Do nothing: all problems were read when the folder was opened (compare `TokenDataset.check_unchanged`)."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.input_ids[index], "labels": self.labels[index]}


def _encode(
    tokenizer: PreTrainedTokenizerFast, problems: list[Problem], written: TextFormat, worked_steps: bool, where: str
) -> tuple[list[list[int]], list[list[int]]]:
    """Encode prompts and continuations."""
    texts = [written.prompt(problem) for problem in problems]
    texts += [written.continuation(problem, worked_steps) for problem in problems]
    try:
        ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    except Exception as error:  # the Rust part's own, where a word is none of the tokenizer's
        raise UserError(f"{where}: a problem has words that its tokenizer does not know ({error})") from error
    return ids[: len(problems)], ids[len(problems) :]


def _check_length(prompts: list[list[int]], answers: list[list[int]], sequence_length: int, longest_of: str) -> None:
    longest = max(len(prompt) + len(answer) + 1 for prompt, answer in zip(prompts, answers, strict=True))
    if longest > sequence_length:
        raise UserError(f"data.sequence_length={sequence_length} is too short for {longest_of} has {longest} tokens")


def _content_sha256(folder: Path, worked_steps: bool) -> str:
    digest = hashlib.sha256(f"{tokenizer_sha256(folder / TOKENIZER)} {worked_steps}".encode())
    for split in SPLITS:
        path = folder / f"{split}.jsonl"
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: not a file")
        try:
            digest.update(path.read_bytes())
        except OSError as error:
            raise UserError.from_os_error(path, error) from error
    return digest.hexdigest()
