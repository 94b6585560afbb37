"""The explorer's page: one HTML file that holds its style, its scripts and everything it shows."""

import base64
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

STATIC = Path(__file__).parent / "static"
#: One script in the page, in this order: each file may use what those before it define.
SCRIPTS = (
    "block.js",
    "words.js",
    "model.js",
    "effects.js",
    "difference.js",
    "state.js",
    "palette.js",
    "dom.js",
    "grid.js",
    "routes.js",
    "head.js",
    "sentence.js",
    "maps.js",
    "panel.js",
    "reading.js",
    "lens.js",
    "flow.js",
    "live.js",
    "exports.js",
    "keyboard.js",
    "main.js",
)
TYPES = {"float32": "<f4", "float16": "<f2", "int32": "<i4"}
SLOT = re.compile(r"<!-- (style|data|script) -->")
DATA_START, BLOCK_START, END = (
    '<script type="application/json" id="data">',
    '<script type="text/plain" id="{}">',
    "</script>",
)


def block(array: np.ndarray) -> dict[str, Any]:
    """Write an array as JSON can hold it: `shape`, `type` and the numbers as `base64`, little-endian in C order.

    Args:
        array: of any shape, of float32, float16 or int32.

    Raises:
        TypeError: the numbers are of another type.
    """
    if array.dtype.name not in TYPES:
        raise TypeError(f"a block holds {', '.join(TYPES)}, not {array.dtype.name}")
    content = array.astype(TYPES[array.dtype.name]).tobytes()
    return {"shape": list(array.shape), "type": array.dtype.name, "base64": base64.b64encode(content).decode("ascii")}


def to_json(data: Any) -> str:
    """Write data as JSON in ASCII that may stand inside HTML; numbers that are not finite become null."""
    return json.dumps(_finite(data), allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def page(data: dict[str, Any]) -> str:
    """Assemble the page that shows what was measured.

    Args:
        data: what the explorer measured, with every array as from `block`.

    Returns:
        HTML that needs no other file and no network. Every block stands in an element of its own, so that a browser
        decodes it only when it is looked at.
    """
    blocks: list[str] = []
    content = to_json(_with_blocks_apart(data, blocks))
    elements = [f"{DATA_START}{content}{END}"]
    elements += [f"{BLOCK_START.format(f'block-{number}')}{text}{END}" for number, text in enumerate(blocks)]
    slots = {
        "style": f"<style>\n{_static('style.css')}</style>",
        "data": "\n".join(elements),
        "script": "<script>\n" + _script() + END,
    }
    return SLOT.sub(lambda found: slots[found[1]], _static("page.html"))


def data_of(page: str) -> dict[str, Any]:
    """Read the data back out of a page, with every block as a numpy array.

    Args:
        page: HTML from `page`.

    Raises:
        ValueError: the text is not such a page.
    """
    return _with_arrays(json.loads(_between(page, DATA_START)), page)


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def _script() -> str:
    """Join the scripts in a block of their own, so that their names stay out of the window's."""
    return '"use strict";\n{\n' + "\n".join(map(_static, SCRIPTS)) + "}\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _with_blocks_apart(value: Any, blocks: list[str]) -> Any:
    """Copy the data with the numbers of each block moved to the end of `blocks`."""
    if isinstance(value, (list, tuple)):
        return [_with_blocks_apart(entry, blocks) for entry in value]
    if not isinstance(value, dict):
        return value
    if "base64" not in value:
        return {key: _with_blocks_apart(entry, blocks) for key, entry in value.items()}
    blocks.append(value["base64"])
    return {"shape": value["shape"], "type": value["type"], "element": f"block-{len(blocks) - 1}"}


def _with_arrays(value: Any, page: str) -> Any:
    if isinstance(value, list):
        return [_with_arrays(entry, page) for entry in value]
    if not isinstance(value, dict):
        return value
    if "element" not in value:
        return {key: _with_arrays(entry, page) for key, entry in value.items()}
    content = base64.b64decode(_between(page, BLOCK_START.format(value["element"])))
    return np.frombuffer(content, TYPES[value["type"]]).reshape(value["shape"])


def _between(page: str, start: str) -> str:
    """Find what stands between an element's start and its end."""
    begin = page.find(start)
    if begin < 0:
        raise ValueError("this is no page of the explorer: it has no " + start)
    begin += len(start)
    return page[begin : page.index(END, begin)]
