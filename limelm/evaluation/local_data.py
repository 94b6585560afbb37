"""Benchmarks from a folder of JSONL and TSV files, in the columns that the harness's tasks expect from the hub.

`FOLDER/arc_easy/test.jsonl` and so on; each may also be compressed (`.jsonl.gz`). The prompts, the choices and the
right answers stay the harness's: only where its rows come from changes.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limelm.data.lines import decode, read_lines, unpacked
from limelm.errors import UserError
from limelm.records import parse_json

Row = dict[str, Any]
SUFFIXES = (".jsonl", ".jsonl.gz", ".tsv")


@dataclass(frozen=True)
class LocalTask:
    """The files of a task's rows, and how they are turned into the hub's rows.

    Attributes:
        folder: below the data folder.
        files: the file (without its suffix) of each split, by the split's name on the hub; the last is what is scored
            and must be there, the others only give examples for prompts.
        to_rows: a line of the file as rows of the hub's data set.
    """

    folder: str
    files: dict[str, str]
    to_rows: Callable[[Row], list[Row]]

    @property
    def scored(self) -> str:
        """The split that is scored."""
        return list(self.files)[-1]


def read_splits(data: Path, name: str) -> dict[str, list[Row]]:
    """Read the rows of every split of a task that the folder has, by the split's name on the hub.

    Raises:
        UserError: where the folder or the file that is scored is missing, or a file is broken; it names the file, and
            the line.
    """
    task = local_task(name)
    if not data.is_dir():
        raise UserError(f"--local-data: {data} is not a folder")
    found = {split: _find(data / task.folder, stem) for split, stem in task.files.items()}
    if found[task.scored] is None:
        stem = data / task.folder / task.files[task.scored]
        raise UserError(f"--local-data: {name} needs {stem}.jsonl (or .jsonl.gz, .tsv), which is not there")
    return {split: list(_rows(path, task)) for split, path in found.items() if path is not None}


def _find(folder: Path, stem: str) -> Path | None:
    candidates = (folder / f"{stem}{suffix}" for suffix in SUFFIXES)
    return next((path for path in candidates if path.is_file()), None)


def _rows(path: Path, task: LocalTask) -> Iterator[Row]:
    empty = True
    for where, line in _lines(path):
        try:
            rows = task.to_rows(line)
            for row in rows:
                _check_texts(row)
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            what = f"no field {error}" if isinstance(error, KeyError) else str(error)
            raise UserError(f"{where}: not an item of {task.folder} ({what})") from error
        empty = empty and not rows
        yield from rows
    if empty:
        raise UserError(f"{path}: it holds no item of {task.folder}")


def _lines(path: Path) -> Iterator[tuple[str, Row]]:
    """Yield the objects of a JSONL file, each with its place for error messages."""
    try:
        with path.open("rb") as raw, unpacked(raw, path) as stream:
            lines = ((where, decode(line, where)) for where, line in read_lines(stream, path))
            yield from _table(lines) if path.suffix == ".tsv" else (_object(where, line) for where, line in lines)
    except OSError as error:
        raise UserError.from_os_error(path, error) from error


def _table(lines: Iterator[tuple[str, str]]) -> Iterator[tuple[str, Row]]:
    """Yield the rows of a TSV file as texts, by the column names in its first line."""
    names: list[str] = []
    for where, line in lines:
        values = line.rstrip("\r\n").split("\t")
        if not names:
            names = values
        elif len(values) != len(names):
            raise UserError(f"{where}: {len(values)} values, but the first line names {len(names)}")
        else:
            yield where, dict(zip(names, values, strict=True))


def _object(where: str, line: str) -> tuple[str, Row]:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: not an object")
    return where, row


def _check_texts(row: Row) -> None:
    """Refuse questions, choices and passages that are not texts or lists of texts; ids and labels may be anything."""
    for name, value in row.items():
        if name in _NUMBERING:
            continue
        texts = value if name in _LISTS else [value]
        if name == "choices":
            texts = [*value["text"], *value["label"]]
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name}={value!r:.80} is no text" + (" list" if name in _LISTS else ""))


def _fields(*names: str, **allowed: list[Any]) -> Callable[[Row], list[Row]]:
    """A reader for files whose fields are already the hub's, some with few allowed values."""

    def to_rows(row: Row) -> list[Row]:
        for name, values in allowed.items():
            _position(row[name], values, name)
        return [{name: row[name] for name in (*names, *allowed)}]

    return to_rows


def _winogrande(row: Row) -> list[Row]:
    row["sentence"].index("_")
    return _fields("sentence", "option1", "option2", answer=["1", "2"])(row)


def _arc(row: Row) -> list[Row]:
    choices = {"text": list(row["choices"]["text"]), "label": list(row["choices"]["label"])}
    choices["label"].index(row["answerKey"])
    return [{"id": row["id"], "question": row["question"], "choices": choices, "answerKey": row["answerKey"]}]


def _openbookqa(row: Row) -> list[Row]:
    [item] = _arc({**row, "question": row["question"] if "question" in row else row["question_stem"]})
    return [{"question_stem": item.pop("question"), **item}]


def _multirc(row: Row) -> list[Row]:
    """One row for each answer of each question on a passage; the label says whether it is right."""
    return [
        {
            "paragraph": row["passage"]["text"],
            "question": question["question"],
            "answer": answer["text"],
            "idx": {"paragraph": row["idx"], "question": question["idx"], "answer": answer["idx"]},
            "label": _position(answer["label"], [0, 1]),
        }
        for question in row["passage"]["questions"]
        for answer in question["answers"]
    ]


def _rte(premise: str, hypothesis: str) -> Callable[[Row], list[Row]]:
    """Turn a SuperGLUE row of RTE into GLUE's, which has the same items under other names."""
    return lambda row: [
        {premise: row["premise"], hypothesis: row["hypothesis"], "idx": row["idx"], "label": _entailment(row["label"])}
    ]


def _qnli(row: Row) -> list[Row]:
    return [
        {
            "question": row["question"],
            "sentence": row["sentence"],
            "idx": int(row["index"]),
            "label": _entailment(row["label"]),
        }
    ]


def _wic(row: Row) -> list[Row]:
    names = ("word", "sentence1", "sentence2", "start1", "start2", "end1", "end2", "idx")
    return [{**{name: row[name] for name in names}, "label": _position(row["label"], [False, True])}]


def _lambada(row: Row) -> list[Row]:
    """Turn a LAMBADA row into the hub's: one text, whose last word is to be predicted."""
    return [{"text": f"{row['context']} {row['continuation']}"}]


def _three_objects(row: Row) -> list[Row]:
    """Select BIG-bench's items with three objects, which its file pads to four statements by repeating a wrong one."""
    if "a set of three objects" not in row["query"]:
        return []
    situation, _ = row["query"].split("\n\nA. ")
    statements = list(dict.fromkeys(row["choices"]))
    return [{"situation": situation, "statements": statements, "gold": statements.index(row["choices"][row["gold"]])}]


def _entailment(label: str) -> int:
    return _position(label, ["entailment", "not_entailment"])


def _position(value: Any, values: list[Any], name: str = "label") -> int:
    """The position of a value in a list; for a label that is the hub's number."""
    if value not in values:
        raise ValueError(f"{name} {value!r} is not one of {', '.join(map(repr, values))}")
    return values.index(value)


# Of the hub's rows: fields that number, and lists of texts.
_NUMBERING = {"id", "idx", "ind", "label", "gold", "start1", "start2", "end1", "end2"}
_LISTS = {"endings", "statements"}

_TRAIN_AND_VAL = {"train": "train", "validation": "val"}
_TRAIN_AND_VALIDATION = {"train": "train", "validation": "validation"}
_TRAIN_TO_TEST = {**_TRAIN_AND_VALIDATION, "test": "test"}

#: By the harness's name of the task.
LOCAL_TASKS = {
    "arc_easy": LocalTask("arc_easy", _TRAIN_TO_TEST, _arc),
    "arc_challenge": LocalTask("arc_challenge", _TRAIN_TO_TEST, _arc),
    "openbookqa": LocalTask("openbookqa", _TRAIN_TO_TEST, _openbookqa),
    "winogrande": LocalTask("winogrande", _TRAIN_AND_VALIDATION, _winogrande),
    "hellaswag": LocalTask(
        "hellaswag",
        _TRAIN_AND_VALIDATION,
        _fields("ind", "activity_label", "ctx_a", "ctx_b", "ctx", "endings", label=["0", "1", "2", "3"]),
    ),
    "piqa": LocalTask("piqa", _TRAIN_AND_VALIDATION, _fields("goal", "sol1", "sol2", label=[0, 1])),
    "copa": LocalTask(
        "copa",
        _TRAIN_AND_VAL,
        _fields("premise", "choice1", "choice2", "idx", question=["cause", "effect"], label=[0, 1]),
    ),
    "multirc": LocalTask("multirc", _TRAIN_AND_VAL, _multirc),
    "rte": LocalTask("rte", _TRAIN_AND_VAL, _rte("sentence1", "sentence2")),
    "sglue_rte": LocalTask("rte", _TRAIN_AND_VAL, _rte("premise", "hypothesis")),
    "wic": LocalTask("wic", _TRAIN_AND_VAL, _wic),
    "qnli": LocalTask("qnli", {"train": "train", "validation": "dev"}, _qnli),
    "lambada_openai": LocalTask("lambada", {"test": "lambada_openai"}, _lambada),
    "logical_deduction_three_objects": LocalTask(
        "logical_deduction", {"test": "bigbench_logical_deduction"}, _three_objects
    ),
}

#: BLiMP's minimal pairs (Warstadt et al. 2020): the harness has a task for each phenomenon, and we a file of its name.
BLIMP, BLIMP_PREFIX = "blimp", "blimp_"


def local_task(name: str) -> LocalTask:
    """The files of a task, by the harness's name of it, which `is_local` knows."""
    if name.startswith(BLIMP_PREFIX):
        file = name.removeprefix(BLIMP_PREFIX)
        return LocalTask(BLIMP, {"validation": file}, _fields("sentence_good", "sentence_bad"))
    return LOCAL_TASKS[name]


def is_local(name: str) -> bool:
    """Whether files can hold a task of this name."""
    return name in LOCAL_TASKS or name == BLIMP or name.startswith(BLIMP_PREFIX)


def names_in(data: Path, name: str) -> list[str]:
    """The tasks that a name stands for: of BLiMP's group those of which the folder has files, otherwise the task alone.

    Raises:
        UserError: where the folder has no file of the group.
    """
    if name != BLIMP:
        return [name]
    files = [path.name for path in (data / BLIMP).glob("[!.]*") if path.name.endswith(SUFFIXES)]
    stems = {name.split(".")[0] for name in files}
    if not stems:
        raise UserError(
            f"--local-data: {name} needs a file for each phenomenon in {data / BLIMP}, such as wh_island.jsonl"
        )
    return [BLIMP_PREFIX + stem for stem in sorted(stems)]
