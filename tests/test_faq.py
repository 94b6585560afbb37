"""docs/faq.md explains messages that there are, word for word."""

import ast
import re
from pathlib import Path

import limelm

ROOT = Path(limelm.__file__).parents[1]
FAQ = (ROOT / "docs/faq.md").read_text(encoding="utf-8")
MESSAGES = re.findall(r"^### `(.+)`$", FAQ, re.MULTILINE)


def texts() -> set[str]:
    """Every text in the code, with `...` in the place of what is filled in."""
    found = set()
    for path in (ROOT / "limelm").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "..." for part in node.values]
                found.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value)
    return found


def test_messages_are_those_of_the_code():
    known = texts()
    assert len(MESSAGES) >= 20
    for message in MESSAGES:
        assert message in known, message
