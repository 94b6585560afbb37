"""A wrong call, and the changes that break a file."""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Change = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """A call that must fail in one line.

    Attributes:
        subject: what it is about, for the table.
        arguments: of the command line; of a call in Python a description.
        names: what the line must name; alternatives are separated by `|`.
        change: what is broken before, in the working folder.
        what: the change in words.
        call: a function of the Python API instead of the command line.
        code: the exit code.
    """

    subject: str
    arguments: tuple[str, ...]
    names: tuple[str, ...] = ()
    change: Change | None = None
    what: str = ""
    call: Change | None = None
    code: int = 2

    def __str__(self) -> str:
        words = " ".join(argument if len(argument) < 60 else f"{argument[:60]}..." for argument in self.arguments)
        return f"{words}  # {self.what}" if self.what else words


def command(subject: str, text: str, *names: str, change: Change | None = None, what: str = "") -> Case:
    """A call whose arguments hold no spaces; an empty argument is written as ''."""
    arguments = tuple("" if word == "''" else word for word in text.split())
    return Case(subject, arguments, names, change, what)


DEEP = "DEEP"  # stands for nesting that Python's own JSON writer could not write
#: Values that no field of a file takes, whatever its type.
NONSENSE: tuple[Any, ...] = (None, -1, 1.5, "", "\x1b]0;pwned\x07", [], {}, [[1]], 10**30, DEEP)


def write(path: str, content: str | bytes) -> Change:
    """Replace a file, or make it."""

    def change() -> None:
        target = Path(path)
        if target.is_dir():
            shutil.rmtree(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def remove(path: str) -> Change:
    """Remove a file or folder."""
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def cut(path: str, keep: float = 0.5) -> Change:
    """Keep only the beginning of a file."""

    def change() -> None:
        content = Path(path).read_bytes()
        Path(path).write_bytes(content[: int(len(content) * keep)])

    return change


def edit(path: str, field: str, value: Any, then: Change | None = None) -> Change:
    """Change one value of a JSON file; a field may be inside others, as in `splits.train.shards.0.file`."""

    def change() -> None:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        *outer, last = field.split(".")
        place = content
        for name in outer:
            place = place[int(name)] if isinstance(place, list) else place[name]
        place[int(last) if isinstance(place, list) else last] = value
        text = json.dumps(content).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000)
        Path(path).write_text(text, encoding="utf-8")
        if then:
            then()

    return change


def drop(path: str, field: str) -> Change:
    """Leave one field of a JSON file out."""

    def change() -> None:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        del content[field]
        Path(path).write_text(json.dumps(content), encoding="utf-8")

    return change


#: Contents that are no JSON object of any kind.
NO_OBJECT: dict[str, bytes] = {
    "empty": b"",
    "cut off": b'{"format_version": 1, "',
    "a list": b"[]",
    "a number": b"5",
    "null": b"null",
    "binary": bytes(range(256)),
    "nested": b"[" * 100_000,
    "nested objects": b'{"a":' * 100_000,
    "NaN": b'{"a": NaN',
    "a pickle": b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
}


def broken(subject: str, text: str, path: str, *names: str, contents: Iterable[str] = NO_OBJECT) -> Iterator[Case]:
    """A command with a file that is no JSON object, or a folder in its place."""
    for what in contents:
        yield command(subject, text, *names, change=write(path, NO_OBJECT[what]), what=f"{path}: {what}")


def fields(
    subject: str, text: str, path: str, values: dict[str, Iterable[Any]], *names: str, then: Change | None = None
) -> Iterator[Case]:
    """A command with each of the values in each of the fields of a JSON file; the line must name field or file."""
    for field, wrong in values.items():
        for value in wrong:
            what = f"{path}: {field} = {value!r}"
            named = names or (f"{field.rsplit('.', 1)[-1]}|{Path(path).name}",)
            yield command(subject, text, *named, change=edit(path, field, value, then), what=what)


def sha256(path: str) -> str:
    """The hash of a file, as manifests hold it."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()
