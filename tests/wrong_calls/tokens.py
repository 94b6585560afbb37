"""Folders of token shards, texts that are prepared, journals of a preparation, and folders of problems."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path

from tests.wrong_calls.case import (
    NO_OBJECT,
    NONSENSE,
    Case,
    Change,
    broken,
    command,
    cut,
    drop,
    edit,
    fields,
    remove,
    sha256,
    write,
)

TRAIN = "train small.toml --model static --data T --out o"
READERS = (
    TRAIN,
    "reproduce small.toml --data T --out o",
    "analyze M --data T --only collapse --tokens 64 --out o",
    "eval M --domain held=T --out o",
)
MANIFEST, SHARD = "T/manifest.json", "T/train-00000.bin"
MANIFEST_FIELDS = {
    "source": (None, 5, [], "\x1b[2J"),
    "vocab_size": (*NONSENSE, 0, "300", 2**40, 100),
    "bos_token_id": (*NONSENSE, 300),
    "eos_token_id": (*NONSENSE, 300),
    "tokenizer_sha256": (*NONSENSE, "0" * 63, "0" * 64),
    "dtype": (*NONSENSE, "object", "O", "int16", "uint64", "S2", "float32", "V8", "uint32"),
    "splits": NONSENSE,
    "splits.train": NONSENSE,
    "splits.train.documents": (None, -1, "x", 1.5, 10**30),
    "splits.train.tokens": (*NONSENSE, 10**18, 0),
    "splits.train.bytes": (None, -1, "x", 1.5),
    "splits.train.shards": NONSENSE,
    "splits.train.shards.0": NONSENSE,
    "splits.train.shards.0.file": (*NONSENSE, "../../../etc/passwd", "/etc/passwd", "nowhere.bin", ".", "tokenizer"),
    "splits.train.shards.0.tokens": (*NONSENSE, 0, "x", 10**18),
    "splits.train.shards.0.sha256": (*NONSENSE, "x", "0" * 64),
    "format_version": (*NONSENSE, 0, 2, "1"),
    "content_sha256": (*NONSENSE, "0" * 64),
    "surprise": (1,),
}


def cases() -> Iterator[Case]:
    """Every field of a manifest, its shards and tokenizer; then texts, journals and problems."""
    yield from fields("manifest", TRAIN, MANIFEST, MANIFEST_FIELDS, "manifest.json|tokenizer|.bin")
    for field in ("source", "vocab_size", "dtype", "splits", "format_version", "content_sha256"):
        yield command("manifest", TRAIN, field, change=drop(MANIFEST, field), what=f"{MANIFEST} without {field}")
    yield from broken("manifest", TRAIN, MANIFEST, "manifest.json|T")
    for reader in READERS:
        for what, change in SHARDS.items():
            yield command(
                "shards", reader, "train-00000.bin|validation-00000.bin|manifest.json|T:", change=change, what=what
            )
        for what, change in TOKENIZERS.items():
            yield command("tokenizers", reader, "tokenizer", change=change, what=what)
    for arguments, what, change, *names in TEXTS:
        yield command("texts", arguments, *names, change=change, what=what)
    for reader in ("eval M --domain x=bad --out o", "analyze M --data bad --only collapse --out o"):
        for arguments, what, change, *names in TEXTS:
            if arguments == PREPARE and not what.startswith("journal"):
                yield command("texts", reader, *names, change=change, what=what)
    yield from _journals()
    yield from _problems()


def _consistent(dtype: str, content: bytes) -> Change:
    """A folder whose hashes are right, whatever its manifest says."""

    def change() -> None:
        manifest = json.loads(Path(MANIFEST).read_text())
        for split in manifest["splits"].values():
            (shard,) = split["shards"]
            path = Path("T") / shard["file"]
            path.write_bytes(content)
            shard["sha256"] = sha256(str(path))
            shard["tokens"] = split["tokens"] = len(content) // 8 if dtype == "object" else len(content) // 2
        manifest["dtype"] = dtype
        import hashlib

        digest = hashlib.sha256(f"{manifest['tokenizer_sha256']} {dtype}".encode())
        for name in ("train", "validation"):
            for shard in manifest["splits"][name]["shards"]:
                digest.update(f" {name} {shard['tokens']} {shard['sha256']}".encode())
        manifest["content_sha256"] = digest.hexdigest()
        Path(MANIFEST).write_text(json.dumps(manifest))

    return change


def _replace(path: str, make: Change) -> Change:
    def change() -> None:
        Path(path).unlink()
        make()

    return change


SHARDS = {
    "shards of pointers, hashes right": _consistent("object", b"A" * 8 * 4096),
    "ids beyond the vocabulary, hashes right": _consistent("uint16", b"\xff\xff" * 4096),
    "dtype of text, hashes right": _consistent("S2", b"A" * 8192),
    "shards missing": lambda: [path.unlink() for path in Path("T").glob("*.bin")],
    "shards cut off": lambda: [cut(str(path))() for path in Path("T").glob("*.bin")],
    "shards changed": lambda: [
        write(str(path), path.read_bytes()[:-2] + b"\0\0")() for path in Path("T").glob("*.bin")
    ],
    "shards are folders": lambda: [(path.unlink(), path.mkdir()) for path in Path("T").glob("*.bin")],
    "shards are pipes": lambda: [(path.unlink(), os.mkfifo(path)) for path in Path("T").glob("*.bin")],
}
TOKENIZERS = {
    **{
        f"tokenizer.json {what}": write("T/tokenizer/tokenizer.json", NO_OBJECT[what])
        for what in ("empty", "a list", "nested", "null")
    },
    "tokenizer.json {}": write("T/tokenizer/tokenizer.json", "{}"),
    "tokenizer_config.json []": write("T/tokenizer/tokenizer_config.json", "[]"),
    "no tokenizer": remove("T/tokenizer"),
}

PREPARE = "data prepare bad --out o --vocab-size 300 --processes 1"
ROW = b'{"text": "memory layer router head key value"}\n'
TEXTS: list[tuple] = [
    (PREPARE, "an empty folder", lambda: Path("bad").mkdir(), "bad"),
    (PREPARE, "an empty text", write("bad/x.txt", ""), "text"),
    (PREPARE, "binary text", write("bad/x.txt", bytes(range(256)) * 40), "x.txt"),
    (PREPARE, "UTF-16", write("bad/x.txt", "memory layer".encode("utf-16")), "x.txt"),
    (PREPARE, "no JSON", write("bad/x.jsonl", ROW + b"{\n"), "x.jsonl", "2"),
    (PREPARE, "a list", write("bad/x.jsonl", ROW + b"[]\n"), "x.jsonl", "2"),
    (PREPARE, "a number", write("bad/x.jsonl", ROW + b'{"text": 5}\n'), "x.jsonl", "2"),
    (PREPARE, "no such field", write("bad/x.jsonl", ROW + b'{"body": "x"}\n'), "x.jsonl", "2"),
    (PREPARE, "nested", write("bad/x.jsonl", ROW + b'{"text": ' + b"[" * 100_000 + b"\n"), "x.jsonl", "2"),
    (PREPARE, "a lone surrogate", write("bad/x.jsonl", ROW + b'{"text": "\\ud800"}\n'), "x.jsonl", "2"),
    (PREPARE, "no gzip", write("bad/x.jsonl.gz", ROW), "x.jsonl.gz"),
    (PREPARE, "gzip cut off", write("bad/x.jsonl.gz", gzip.compress(ROW * 1000)[:60]), "x.jsonl.gz"),
    (PREPARE, "gzip changed", write("bad/x.jsonl.gz", gzip.compress(ROW)[:-8] + b"\0" * 8), "x.jsonl.gz"),
    (PREPARE, "a line of 300 MiB in 300 KiB", lambda: _bomb("bad/x.jsonl.gz"), "x.jsonl.gz"),
    (PREPARE, "no Parquet", write("bad/x.parquet", b"PAR1" + b"x" * 100), "x.parquet"),
    (PREPARE, "Parquet without the field", lambda: _parquet("bad/x.parquet", {"body": ["a"]}), "x.parquet"),
    (PREPARE, "Parquet of numbers", lambda: _parquet("bad/x.parquet", {"text": [1, 2]}), "x.parquet"),
    (PREPARE, "a file of another kind", write("bad/x.csv", "a,b\n"), "bad"),
    (PREPARE, "a pipe", lambda: (Path("bad").mkdir(), os.mkfifo("bad/x.txt")), "x.txt"),
    (PREPARE, "a link to nowhere", lambda: (Path("bad").mkdir(), Path("bad/x.txt").symlink_to("nowhere")), "x.txt"),
    ("data prepare bad.txt --out o", "a link to itself", lambda: Path("bad.txt").symlink_to("bad.txt"), "bad.txt"),
    ("data prepare a.csv --out o", "another kind", write("a.csv", "x"), "a.csv"),
    ("data prepare a.jsonl --out o --tokenizer bad", "tokenizer {}", write("bad/tokenizer.json", "{}"), "bad"),
    ("data prepare a.jsonl --out o --tokenizer bad", "tokenizer []", write("bad/tokenizer.json", "[]"), "bad"),
    (
        "data prepare a.jsonl --out o --tokenizer T/tokenizer",
        "a tokenizer with code",
        lambda: (
            edit("T/tokenizer/tokenizer_config.json", "auto_map", {"AutoTokenizer": ["evil.Evil", None]})(),
            edit("T/tokenizer/tokenizer_config.json", "tokenizer_class", "Evil")(),
            write("T/tokenizer/evil.py", "open('/dev/tty', 'w').write('evil')")(),
        ),
        "tokenizer",
    ),
]


def _bomb(path: str) -> None:
    Path(path).parent.mkdir()
    with gzip.open(path, "wb") as stream:
        stream.write(ROW * 100 + b'{"text": "')
        for _ in range(300):
            stream.write(b"a" * 2**20)
        stream.write(b'"}\n')


def _parquet(path: str, columns: dict) -> None:
    import pyarrow
    import pyarrow.parquet

    Path(path).parent.mkdir()
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def _journals() -> Iterator[Case]:
    text, path = "data prepare a.jsonl --out o --vocab-size 300 --processes 1", ".o.partial/journal.json"

    def begun() -> None:
        Path(".o.partial/prepared").mkdir(parents=True)
        Path(".o.partial/lock").touch()
        write(path, json.dumps({"format_version": 1, "settings": {}, "hold_out": {}, "documents": 3}))()

    for field, value in [
        ("format_version", 2),
        ("settings", 5),
        ("settings", {"x": 1}),
        ("hold_out", []),
        ("documents", -1),
        ("documents", "x"),
        ("splits", 5),
        ("surprise", 1),
    ]:
        change = _after(begun, edit(path, field, value))
        yield command("journal", text, "journal.json|.o.partial", change=change, what=f"{field} = {value!r}")
    for what, content in NO_OBJECT.items():
        change = _after(begun, write(path, content))
        yield command("journal", text, "journal.json|.o.partial", change=change, what=what)


def _after(*changes: Change) -> Change:
    return lambda: [change() for change in changes]


def _problems() -> Iterator[Case]:
    from limelm.data.problems import ProblemDataset, ProblemFolder, load_problem_tokenizer, read_problems

    def read() -> None:
        folder = Path("S")
        found = ProblemFolder.load(folder)
        read_problems(folder, "test")
        ProblemDataset(folder, "train", 64)
        load_problem_tokenizer(folder)
        assert found.train

    wrong = {
        "task": (None, 5, [], "nope\x07"),
        "worked_steps": (None, "x", 2),
        "train": (None, -1, "x", 1.5),
        "test": (None, -1, "x", 1.5),
        "delimiter": (None, 5, []),
        "chance": (None, "x", -1, 2),
        "content_sha256": (None, 5, "0" * 64),
        "surprise": (1,),
    }
    for field, values in wrong.items():
        for value in values:
            change = edit("S/problems.json", field, value)
            yield Case("problems", ("read", "S"), ("S",), change, f"problems.json: {field} = {value!r}", read)
    for what, content in NO_OBJECT.items():
        for name in ("problems.json", "test.jsonl", "tokenizer/tokenizer.json"):
            yield Case("problems", ("read", "S"), ("S",), write(f"S/{name}", content), f"{name}: {what}", read)
