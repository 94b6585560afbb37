"""Logs with one JSON record per line, each with its training `step`: never half a line, never a step twice."""

import json
from pathlib import Path
from typing import Any

from limelm.errors import UserError
from limelm.files import write_text


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Add a record at the end.

    Raises:
        UserError: where it cannot be written.
    """
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(record) + "\n")
    except OSError as error:
        raise UserError.from_os_error(path, error) from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The records of a log; none where there is no file. A last line that a kill cut short is left out.

    Raises:
        UserError: for a file that is broken before its last line, or that cannot be read.
    """
    if not path.exists():
        return []
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError as error:
        raise UserError.from_os_error(path, error) from error
    records = []
    for number, line in enumerate(lines[:-1], start=1):  # the last is empty, or what a kill left of a line
        try:
            record = json.loads(line)
            int(record["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: line {number} is broken ({error!r})") from error
        records.append(record)
    return records


def drop_lines_after(path: Path, step: int) -> dict[str, Any] | None:
    """Leave only records up to `step`, where a training goes on.

    Returns:
        The last record that stays, or None.

    Raises:
        UserError: as `read_lines` does, or where the file cannot be written.
    """
    if not path.exists():
        return None
    kept = [record for record in read_lines(path) if record["step"] <= step]
    write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
    return kept[-1] if kept else None
