"""`limelm explore`: a page on what models do with a sentence, as a file or live."""

import argparse
import signal
from contextlib import suppress
from pathlib import Path

from limelm.cli.options import add_shared
from limelm.cli.output import Output, note
from limelm.cli.resources import check_out, find_device
from limelm.cli.types import any_text, host_name, integer, ip_address
from limelm.errors import Stopped, UserError
from limelm.extras import require_extra

HELP = "show what every layer reads of a sentence, and how much it matters"
NEEDS = None
KEYS = ("out", "page", "models", "tokens")
SAVES_MEMORY = "the length of --text"
PAGE = "explorer.html"
DEFAULT_OUT, DEFAULT_PORT = Path("explorer"), 8377
OPEN = "Warning: whoever reaches this machine can open it, without a password, and keep its processor busy."
DESCRIPTION = """\
Show what models do with one text, layer by layer: what each head reads of the layers before, how the prediction changes
when it does not read it, and what each representation would predict. The command writes OUT/explorer.html, one file
that opens in any browser, without a network. With --serve the page is live on this machine: you can enter other
sentences, and cut routes by a click.

Several CHECKPOINTs are shown side by side, with their differences. Several checkpoint-N folders of one training make a
slider over its steps. docs/explore.md explains the page.
"""

EPILOG = """\
examples:
  limelm explore demo/seed-42/dynamic --text "def main(argv):"
  limelm explore demo/seed-42/static demo/seed-42/dynamic --text "import os" --out both
  limelm explore demo/seed-42/kv --text "import os" --serve
  limelm explore demo/seed-42/kv --text "import os" --serve --host 0.0.0.0 --name my-machine.example
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_shared(parser, "CHECKPOINT", nargs="+")
    add_shared(
        parser, "--out", ", new or of an earlier page (explorer); not with --serve", required=False, default=None
    )
    parser.add_argument("--text", type=any_text, required=True, metavar="TEXT", help="what the models read")
    parser.add_argument("--serve", action="store_true", help="serve a live page on this machine, until Ctrl-C")
    parser.add_argument(
        "--port", type=integer(1024, 65535), metavar="N", help=f"where a live page is served: its port ({DEFAULT_PORT})"
    )
    parser.add_argument(
        "--host",
        type=ip_address,
        metavar="ADDRESS",
        help="the address that a live page listens on (127.0.0.1: this machine alone); 0.0.0.0 lets others in",
    )
    parser.add_argument(
        "--name",
        type=host_name,
        metavar="NAME",
        help="another name of a live page, under which others open it, such as OWNER-SPACE.hf.space",
    )
    add_shared(parser, "--device")


def run(options: argparse.Namespace) -> Output | None:
    """Measure the models, and write or serve the page."""
    if options.serve:
        _serve(options)
        return None
    for option in ("port", "host", "name"):
        if getattr(options, option) is not None:
            raise UserError(f"--{option}: only with --serve")
    out = options.out or DEFAULT_OUT
    check_out(out, marker=PAGE)
    _check_page(out / PAGE)
    from limelm.explorer import explore_subjects
    from limelm.explorer.checkpoints import load_subjects

    try:
        subjects = load_subjects(options.checkpoints, find_device(options.device))
        exploration = explore_subjects(subjects, options.text)
    except KeyboardInterrupt:
        raise Stopped("interrupted; nothing was written", signal.SIGINT) from None
    path = exploration.save(out / PAGE)
    models = exploration.data["models"]
    tokens = {model["label"]: len(model["tokens"]) for model in models}
    return Output(f"Page: {path}", {"out": out, "page": path, "models": list(tokens), "tokens": tokens})


def _check_page(path: Path) -> None:
    """Refuse to write over a file of that name which is no page of the explorer."""
    from limelm.explorer.page import data_of

    if path.exists():
        try:
            data_of(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"--out: {path} is another file of that name; name a new folder") from error


def _serve(options: argparse.Namespace) -> None:
    if options.json:
        raise UserError("--json: not with --serve, which has no results to print")
    if options.out is not None:
        raise UserError("--out: not with --serve, which writes no file; the live page saves what it shows")
    from limelm.explorer.checkpoints import load_subjects
    from limelm.explorer.server import LOOPBACK, Address, Explorer, check_port, serve

    require_extra("explore", "--serve")
    names = () if options.name is None else (options.name,)
    address = Address(options.port or DEFAULT_PORT, options.host or LOOPBACK, names)
    check_port(address.port, address.host)
    explorer = Explorer(load_subjects(options.checkpoints, find_device(options.device)), options.text)
    with suppress(KeyboardInterrupt):  # that is how it ends
        who = OPEN if address.is_open else "Only this machine can open it."
        note(f"The page is at {address.url} until you press Ctrl-C here. {who}")
        serve(explorer, address)
