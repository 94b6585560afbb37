"""`limelm convert`: from an adapter to a native checkpoint, and back."""

import argparse
import copy
from pathlib import Path

from limelm.cli.options import add_shared
from limelm.cli.output import Output
from limelm.cli.resources import check_out
from limelm.errors import UserError
from limelm.files import folder_beside

HELP = "convert an adapter to a native checkpoint, or back"
NEEDS = None
KEYS = ("out", "made", "largest_difference", "largest_logit")
DESCRIPTION = """\
Convert between the two forms of a LIMe model. An adapter for a Llama (from limelm train, or from limelm.save_adapter)
becomes a native LIMe checkpoint with equal logits. A native checkpoint becomes a Llama (OUT/base) and its adapter
(OUT). The kind of CHECKPOINT decides the direction. A LoRA in the adapter is merged. Before anything is written, both
models are compared on random tokens, in float32. docs/attach.md says what cannot be converted.
"""

EPILOG = """\
examples:
  limelm convert my-routers --out native
  limelm convert native --out attached
"""

# Of the largest logit. A conversion is right if it is in float32; weights of less precision then round it.
TOLERANCE, ROUNDING = 1e-4, 5e-2

NATIVE_ORIGIN = "`limelm convert` made it of a model with an adapter; the logits are equal to theirs."
BASE_ORIGIN = (
    "`limelm convert` made it of a LIMe model: it is the base of an adapter, and was not trained to be used without it."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "CHECKPOINT")
    add_shared(parser, "--out", "; it must be new")


def run(options: argparse.Namespace) -> Output:
    """Convert, compare the logits of both models, and write."""
    from limelm.adapters.convert import largest_difference, to_attached, to_native
    from limelm.loading import find_checkpoints, load_adapter_config, load_checkpoint, load_config

    check_out(options.out)
    out = options.out.resolve()
    if out == Path.cwd():
        raise UserError(f"--out: {options.out} is the folder that you are in, and would be replaced; name a new folder")
    if Path(options.checkpoint).resolve() in out.parents:
        raise UserError(f"--out: {options.out} lies in {options.checkpoint}, which is read; name another folder")
    find_checkpoints([options.checkpoint])
    is_adapter, model_type = (
        load_adapter_config(options.checkpoint) is not None,
        load_config(options.checkpoint).model_type,
    )
    if not is_adapter and model_type != "lime":
        raise UserError(
            f"{options.checkpoint}: neither an adapter nor a native LIMe checkpoint (model_type={model_type!r})"
        )
    model, tokenizer = load_checkpoint(options.checkpoint)
    convert = to_native if is_adapter else to_attached
    try:
        converted = convert(model)  # type: ignore[arg-type]  # it is native where it is no adapter
        difference, largest = largest_difference(model, converted)
        worst = difference
        if converted.dtype.itemsize < 4:
            # What rounding does would hide what is wrong: the conversion itself is tried without.
            precise = copy.deepcopy(model).float()
            worst, _ = largest_difference(precise, convert(precise))  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"{options.checkpoint}: cannot be converted: {error}") from error
    if not (worst <= TOLERANCE * largest and difference <= ROUNDING * largest):
        raise UserError(
            f"{options.checkpoint}: the logits would differ by {difference:.2g} (the largest is {largest:.3g}), and by "
            f"{worst:.2g} in float32; allowed are {ROUNDING * largest:.2g} and {TOLERANCE * largest:.2g}"
        )
    with folder_beside(out) as partial:
        _write(converted, tokenizer, partial, model.config.name_or_path)
    what = f"native, routing={converted.config.routing!r}" if is_adapter else "a Llama in base/ and its adapter"
    return Output(
        f"{options.out}: {what}; the largest difference between logits is {difference:.2g} (of {largest:.3g})",
        {
            "out": options.out,
            "made": "checkpoint" if is_adapter else "adapter",
            "largest_difference": difference,
            "largest_logit": largest,
        },
    )


def _write(converted, tokenizer, folder: Path, source: str) -> None:
    """Write a native model, or a Llama in `base/` and its adapter, with cards that say where they come from.

    Args:
        source: what the model that was converted, or its base, was loaded from.
    """
    from safetensors import SafetensorError

    from limelm.adapters import attachment_of, detach, save_adapter
    from limelm.models.card import model_card, write_card

    try:
        tokenizer.save_pretrained(folder)
        if attachment_of(converted) is None:
            write_card(folder, model_card(converted.config, base=source, origin=NATIVE_ORIGIN))
            converted.save_pretrained(folder)
            return
        converted.config._name_or_path = "base"
        save_adapter(converted, folder)
        write_card(folder / "base", model_card(converted.config, base=source, origin=BASE_ORIGIN))
        detach(converted).save_pretrained(folder / "base")
        tokenizer.save_pretrained(folder / "base")
    except SafetensorError as error:  # a full disk
        raise UserError(f"{folder}: cannot be written ({error})") from error
