"""The strict reader: every kind of wrong value is refused in one line that names file, field and value."""

import json
import os
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from limelm.errors import UserError
from limelm.records import (
    MOST_BYTES,
    AnyFloat,
    AnyText,
    Count,
    FileName,
    Fraction,
    Label,
    Sha256,
    at_least,
    build,
    less_than,
    load_toml,
    read_json,
    read_text,
)


@dataclass(frozen=True)
class Shard:
    file: FileName
    tokens: Count


@dataclass(frozen=True)
class Everything:
    version: Literal[1]
    name: Label
    shards: tuple[Shard, ...] = ()
    by_split: dict[str, Shard] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)
    rate: Annotated[float, at_least(0), less_than(1)] = 0.5
    share: Fraction = 0.0
    flag: bool = False
    seed: int | None = None
    either: int | str = 0
    digest: Sha256 = "0" * 64
    prompt: AnyText = ""
    loss: AnyFloat = 0.0
    anything: Any = None


def written(tmp_path, content) -> Any:
    path = tmp_path / "record.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


LEAST = {"version": 1, "name": "a"}


def test_every_kind_of_value_is_read(tmp_path):
    content = LEAST | {
        "shards": [{"file": "a.bin", "tokens": 3}],
        "by_split": {"train": {"file": "b.bin", "tokens": 0}},
        "names": ["x", "日本語 👩‍🔬"],
        "rate": 0,
        "seed": 7,
        "either": "text",
        "prompt": "two\nlines",
        "loss": float("inf"),
        "anything": {"deep": [1, None]},
    }
    found = read_json(written(tmp_path, content), Everything)
    assert found == Everything(
        1,
        "a",
        (Shard("a.bin", 3),),
        {"train": Shard("b.bin", 0)},
        ["x", "日本語 👩‍🔬"],
        rate=0.0,
        seed=7,
        either="text",
        prompt="two\nlines",
        loss=float("inf"),
        anything={"deep": [1, None]},
    )
    assert type(found.rate) is float


WRONG = {
    "version": [2, "1", True, 1.0, None],
    "name": ["", " a", "a ", "x" * 101, "\x1b]0;title\x07", "a\u202eb", 5, None, ["x"]],
    "shards": [None, {}, "x", [1], [{}], [{"file": "a", "tokens": -1}], [{"file": "a", "tokens": 1, "more": 2}]],
    "shards[0].file": ["", ".", "..", "../x", "/etc/passwd", "a/b", "a\\b", "c:d", "x" * 256, "a\x00"],
    "shards[0].tokens": [-1, 1.5, "1", True, None, [], 2**63],
    "by_split": [[], None, {"train": None}, {"train": {"file": "b"}}],
    "names": ["x", [1], [None], ["\x07"]],
    "rate": [-0.1, 1, float("nan"), float("inf"), -float("inf"), "0.5", True, None, 10**400],
    "share": [-1e-9, 1.1],
    "flag": [0, 1, "true", None],
    "seed": ["1", 1.0, True, -(2**63) - 1],
    "either": [None, 1.5, [], {}],
    "digest": ["0" * 63, "G" * 64, "0" * 65, 0],
    "prompt": [1, None],
    "loss": ["nan", None],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_value_is_refused_by_file_field_and_value(tmp_path, name, value):
    if name.startswith("shards[0]."):
        content = LEAST | {"shards": [{"file": "a", "tokens": 1} | {name.removeprefix("shards[0]."): value}]}
    else:
        content = LEAST | {name: value}
    path = written(tmp_path, content)
    with pytest.raises(UserError) as error:
        read_json(path, Everything)
    message = str(error.value)
    assert message.startswith(f"{path}: {name}")
    assert len(message) < len(str(path)) + 400
    assert not any(ord(character) < 32 or character == "\u202e" for character in message)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ("[]", "must be a table of fields"),
        ("null", "must be a table of fields"),
        ("3", "must be a table of fields"),
        ("1" * 10_000, "not JSON"),
        ('{"version": 1}', "no value for name"),
        ('{"version": 1, "nam": "a"}', "unknown field 'nam'; did you mean 'name'?"),
        ('{"version": 1, "name": "a", "zzz": 1}', "unknown field 'zzz'; allowed: anything, "),
    ],
)
def test_a_file_that_is_no_such_record_is_refused(tmp_path, content, said):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=f"^{path}: ") as error:
        read_json(path, Everything)
    assert said in str(error.value)


def test_what_is_no_small_text_file_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with (tmp_path / "large").open("wb") as stream:
        stream.truncate(MOST_BYTES + 1)  # sparse
    for name, said in {
        "missing": "No such file",
        "pipe": "not a file",
        ".": "not a file",
        "latin": "not UTF-8",
        "large": "at most",
        "a\0b": "null",
    }.items():
        with pytest.raises(UserError, match=said):
            read_text(tmp_path / name)


def test_a_byte_order_mark_is_no_text(tmp_path):
    path = tmp_path / "marked.toml"
    path.write_bytes(b"\xef\xbb\xbfsteps = 3\n")
    assert load_toml(path) == {"steps": 3}


def test_broken_toml_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    for content, said in (("steps = ", "not TOML"), ("a = " + "[" * 100_000, "nested too deeply")):
        path.write_text(content)
        with pytest.raises(UserError, match=said):
            load_toml(path)


def test_what_a_record_refuses_itself_names_the_file():
    @dataclass(frozen=True)
    class Pair:
        low: int
        high: int

        def __post_init__(self):
            if self.low > self.high:
                raise ValueError(f"low={self.low} must be at most high={self.high}")

    with pytest.raises(UserError, match=r"^here: low=2 must be at most high=1$"):
        build(Pair, {"low": 2, "high": 1}, "here")
