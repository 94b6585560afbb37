"""`limelm data prepare`: text to token shards."""

import argparse
from typing import Any

from limelm.cli.options import add_shared
from limelm.cli.output import Output
from limelm.cli.types import existing_path, positive_int
from limelm.errors import UserError

HELP = "prepare text for training, as token shards"
NEEDS = None
KEYS = ("out", "splits", "vocab_size", "dtype", "sha256", "tokens_per_second")
SAVES_MEMORY = "--processes or --vocab-size"
DESCRIPTION = """\
Turn text into memory-mapped token shards with a manifest. The shards hold BOS, document, EOS, one document after the
other. Some documents are held out for validation. A hash of their text chooses them, so that copies of a document are
never on both sides.

Sources are files or folders of .txt (a file is a document), .jsonl, .jsonl.gz and .parquet (a line or row is a
document), or a data set of the Hugging Face hub. Without a source, the .py files of this Python's standard library are
read. Links in folders are followed, and a file that several links lead to is read once. Documents without text (null,
empty) are left out and counted. A document of more than 16 MiB is refused.

A corpus may have any size, because memory stays bounded. The result is the same for every number of processes. After
Ctrl-C, a kill or a full disk, the same command continues from where it was. Until it is done, everything is in the
hidden folder .NAME.partial beside the folder that --out names. When it is done, the same command says so.

Unless --tokenizer or a preset names one, a tokenizer is trained on the first billion characters.
"""

EPILOG = """\
examples:
  limelm data prepare --out tokens                                  the Python library, no network needed
  limelm data prepare corpus/ more.jsonl.gz --out tokens --vocab-size 8192
  limelm data prepare wiki/ --tokenizer gpt2 --out tokens
  limelm data prepare --preset fineweb-edu --max-documents 1000000 --out tokens
"""

PLAIN_PRESET = "python-library"  # where nothing else is named
PRESET_NAMES = (PLAIN_PRESET, "fineweb-edu", "fineweb-edu-small")  # of limelm.data, which takes seconds to import


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("sources", nargs="*", type=existing_path, metavar="SOURCE", help="files or folders of text")
    add_shared(parser, "--out", ": shards, tokenizer and manifest; new, or of an interrupted preparation")
    parser.add_argument(
        "--preset", choices=PRESET_NAMES, metavar="NAME", help=f"text and its settings: {', '.join(PRESET_NAMES)}"
    )
    parser.add_argument(
        "--dataset", metavar="NAME", help="Hugging Face data set, by hub name or local folder; it is streamed"
    )
    parser.add_argument("--dataset-config", metavar="NAME", help="the data set's configuration")
    parser.add_argument("--dataset-split", metavar="NAME", help="the data set's split (train)")
    parser.add_argument("--text-field", metavar="NAME", help="field that holds the text (text)")
    parser.add_argument("--tokenizer", metavar="NAME", help="tokenizer, by hub name or folder (default: train one)")
    add_shared(parser, "--vocab-size", ", if a tokenizer is trained (4096)")
    parser.add_argument("--validation-fraction", type=float, metavar="X", help="share of documents to hold out (0.02)")
    parser.add_argument("--max-documents", type=positive_int, metavar="N", help="stop after so many documents")
    parser.add_argument(
        "--processes", type=positive_int, metavar="N", help="how many tokenize at once (default: all cores)"
    )


def run(options: argparse.Namespace) -> Output:
    """Prepare the data and print a summary."""
    from limelm.data.encode import available_processes
    from limelm.data.listing import find_files
    from limelm.data.prepare import prepare
    from limelm.data.presets import PRESETS, prepare_preset
    from limelm.data.progress import Progress
    from limelm.data.sources import LocalFiles

    if options.sources and not (options.dataset is None and options.preset is None):
        raise UserError("give either SOURCE files or --dataset/--preset, not both")
    for name in ("dataset_config", "dataset_split"):
        value = getattr(options, name)
        if value is not None and options.dataset is None and options.preset is None:
            raise UserError(f"--{name.replace('_', '-')} {value} is for --dataset")
    has_tokenizer = options.tokenizer is not None or PRESETS[options.preset or PLAIN_PRESET].tokenizer is not None
    if options.vocab_size is not None and has_tokenizer:
        raise UserError(f"--vocab-size {options.vocab_size} is for a trained tokenizer; leave it out with another")
    progress = Progress()
    how: dict[str, Any] = {"processes": options.processes or available_processes(), "progress": progress}
    how |= _given(options, "tokenizer", "vocab_size", "validation_fraction", "max_documents")
    field = _given(options, "text_field")
    if options.sources:
        found = find_files(options.sources)
        if found.others:
            progress.say(f"{len(found.others):,} files of other kinds are left out, the first {found.others[0]}")
        manifest = prepare(
            options.out, LocalFiles(found.files, **field), ", ".join(path.name for path in options.sources), **how
        )
    else:
        dataset = _given(options, "dataset", "dataset_config", "dataset_split")
        manifest = prepare_preset(options.preset or PLAIN_PRESET, options.out, **how, **dataset, **field)
    speed = round(progress.tokens / progress.seconds) if progress.tokens else None  # None: it was there already
    lines = [
        f"{name:<11}{split.documents:>12,} documents{split.tokens:>16,} tokens in {len(split.shards)} shards"
        for name, split in manifest.splits.items()
    ]
    if speed is not None:
        lines.append(f"{progress.tokens:,} tokens in {progress.seconds:,.1f} s: {speed:,} tokens/s")
    fingerprint = manifest.content_sha256
    lines.append(f"{options.out}: vocabulary {manifest.vocab_size:,}, {manifest.dtype}, sha256 {fingerprint[:16]}")
    splits = {
        name: {"documents": split.documents, "tokens": split.tokens, "shards": len(split.shards)}
        for name, split in manifest.splits.items()
    }
    return Output(
        "\n".join(lines),
        {
            "out": options.out,
            "splits": splits,
            "vocab_size": manifest.vocab_size,
            "dtype": manifest.dtype,
            "sha256": fingerprint,
            "tokens_per_second": speed,
        },
    )


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}
