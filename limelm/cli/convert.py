"""`limelm convert`: from an adapter to a native checkpoint, and back."""

import argparse
from pathlib import Path

from limelm.cli.resources import check_out

DESCRIPTION = """\
Turn an adapter upon a Llama (limelm train --attach, limelm.save_adapter) into a native LIMe checkpoint with equal
logits; or a native checkpoint into a Llama (OUT/base) and its adapter (OUT). SOURCE says which. A LoRA in the adapter
is merged. Both models are compared on random tokens before anything is written. docs/attach.md says what cannot be
converted.
"""

EPILOG = """\
examples:
  limelm convert my-routers --out native
  limelm convert native --out attached
"""

# Of the largest logit; weights of less precision round the routers.
TOLERANCES = {"float32": 1e-4, "float64": 1e-4}
COARSE_TOLERANCE = 5e-2


def add_parser(subparsers, common: argparse.ArgumentParser) -> None:
    """Declare the subcommand."""
    parser = subparsers.add_parser(
        "convert",
        help="an adapter to a native checkpoint, or back",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[common],
    )
    parser.add_argument("source", metavar="SOURCE", help="an adapter, or a native checkpoint; a folder or hub name")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Convert, compare, write."""
    import shutil

    from limelm.adapters import attachment_of, detach, save_adapter
    from limelm.adapters.checkpoint import load_model, load_tokenizer
    from limelm.adapters.convert import largest_difference, to_attached, to_native
    from limelm.cli.quiet import quieten
    from limelm.errors import UserError

    quieten()
    check_out(options.out)
    model, tokenizer = load_model(options.source), load_tokenizer(options.source)
    is_adapter = attachment_of(model) is not None
    if not is_adapter and model.config.model_type != "lime":
        raise UserError(
            f"{options.source}: neither an adapter nor a native LIMe checkpoint (model_type="
            f"{model.config.model_type!r})"
        )
    try:
        converted = to_native(model) if is_adapter else to_attached(model)
    except UserError as error:
        raise UserError(f"{options.source}: cannot be converted: {error}") from error
    difference, largest = largest_difference(model, converted)
    allowed = TOLERANCES.get(str(model.dtype).removeprefix("torch."), COARSE_TOLERANCE)
    if not difference <= allowed * largest:
        raise UserError(f"{options.source}: the logits would differ by {difference:.2g} (the largest is {largest:.3g})")
    partial = options.out.with_name(f".{options.out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if is_adapter:
            converted.save_pretrained(partial)
        else:
            converted.config._name_or_path = "base"
            save_adapter(converted, partial)
            detach(converted).save_pretrained(partial / "base")
            tokenizer.save_pretrained(partial / "base")
        tokenizer.save_pretrained(partial)
        if options.out.exists():
            options.out.rmdir()  # empty
        partial.rename(options.out)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    what = f"native, routing={converted.config.routing!r}" if is_adapter else "a Llama in base/ and its adapter"
    print(f"{options.out}: {what}; the largest difference between logits is {difference:.2g} (of {largest:.3g})")
