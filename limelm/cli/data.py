"""`limelm data prepare`: text to token shards."""

import argparse
from pathlib import Path

from limelm.cli.types import positive_int

DESCRIPTION = """\
Turn text into memory-mapped token shards with a manifest: BOS, document, EOS, one document after the other. Some
documents are held out for validation, chosen by a hash of their text, so that copies never stand on both sides.

Sources are files or folders of .txt (a file is a document), .jsonl, .jsonl.gz and .parquet (a line or row is one), a
data set of the Hugging Face hub, or, where none is given, the .py files of this Python's standard library.
"""

EPILOG = """\
examples:
  limelm data prepare --out tokens                                  the Python library, no network needed
  limelm data prepare corpus/ more.jsonl.gz --out tokens --vocab-size 8192
  limelm data prepare wiki/ --tokenizer gpt2 --out tokens
  limelm data prepare --preset fineweb-edu --max-documents 1000000 --out tokens
"""

# The paper's data (its section 5): dataset, config, split, tokenizer, documents.
PRESETS = {
    "fineweb-edu": {
        "dataset": "HuggingFaceTB/smollm-corpus",
        "dataset_config": "fineweb-edu-dedup",
        "tokenizer": "HuggingFaceFW/ablation-model-fineweb-edu",
        "max_documents": 50_000_000,
        "validation_fraction": 0.0005,
    }
}


def add_parser(subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser("data", help="prepare training data")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    prepare = actions.add_parser(
        "prepare",
        help="tokenise text into shards",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    prepare.add_argument("sources", nargs="*", type=Path, metavar="SOURCE", help="files or folders of text")
    prepare.add_argument("--out", type=Path, required=True, help="new folder for shards, tokenizer and manifest")
    prepare.add_argument("--preset", choices=PRESETS, help="a data set and the settings it is used with")
    prepare.add_argument(
        "--dataset", metavar="NAME", help="Hugging Face data set, a hub name or local folder; streamed"
    )
    prepare.add_argument("--dataset-config", metavar="NAME", help="the data set's configuration")
    prepare.add_argument("--dataset-split", metavar="NAME", default="train", help="the data set's split (train)")
    prepare.add_argument("--text-field", metavar="NAME", default="text", help="field that holds the text (text)")
    prepare.add_argument("--tokenizer", metavar="NAME", help="tokenizer, by hub name or folder (default: train one)")
    prepare.add_argument("--vocab-size", type=positive_int, help="entries of the trained tokenizer (4096)")
    prepare.add_argument("--validation-fraction", type=float, help="share of documents to hold out (0.02)")
    prepare.add_argument("--max-documents", type=positive_int, help="stop after so many documents")
    prepare.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Prepare the data and say what came out."""
    from limelm.cli.quiet import quieten
    from limelm.data import HubDataset, list_files, prepare, read_documents, read_hub_dataset, read_python_library
    from limelm.errors import UserError

    quieten()
    for key, value in PRESETS.get(options.preset, {}).items():
        if getattr(options, key) is None:
            setattr(options, key, value)
    if options.sources and options.dataset:
        raise UserError("give either SOURCE files or --dataset/--preset, not both")
    if options.dataset_config and not options.dataset:
        raise UserError(f"--dataset-config {options.dataset_config} is for --dataset")
    if options.tokenizer and options.vocab_size:
        raise UserError(f"--vocab-size {options.vocab_size} is for a trained tokenizer; leave it out with --tokenizer")
    if options.dataset:
        dataset = HubDataset(options.dataset, options.dataset_config, options.dataset_split)
        source = f"{dataset.path}, {dataset.name or 'default'}, {dataset.split}"
        documents = lambda: read_hub_dataset(dataset, options.text_field)  # noqa: E731
    elif options.sources:
        files = list_files(options.sources)
        source = ", ".join(path.name for path in options.sources)
        documents = lambda: read_documents(files, options.text_field)  # noqa: E731
    else:
        source = "the Python standard library"
        documents = read_python_library
    chosen = {key: getattr(options, key) for key in ("vocab_size", "validation_fraction")}
    manifest = prepare(
        options.out,
        documents,
        source,
        tokenizer=options.tokenizer,
        max_documents=options.max_documents,
        **{key: value for key, value in chosen.items() if value is not None},
    )
    for name, split in manifest.splits.items():
        print(f"{name:<11}{split.documents:>12,} documents{split.tokens:>16,} tokens in {len(split.shards)} shards")
    print(f"{options.out}: vocabulary {manifest.vocab_size:,}, {manifest.dtype}, sha256 {manifest.content_sha256[:16]}")
