"""Read what other people wrote: JSON and TOML, checked against a dataclass that says its fields, types and ranges.

A kind of record is a dataclass whose annotations are the whole check:

    @dataclass(frozen=True)
    class Shard:
        file: FileName
        tokens: Count
        sha256: Sha256

    shard = read_json(path, Shard)

Annotations may be `bool`, `int`, `float`, `str`, `None`, `Any`, `Literal`, `list`, `tuple[T, ...]`, `dict[str, T]`,
unions, other records, and `Annotated` with checks of this module. Integers fit into 64 bits, numbers are finite, and
strings hold no control characters, unless an annotation says otherwise. An unknown field is refused, and one without a
default must be there. `__post_init__` may refuse combinations with a `ValueError` or `UserError`.
"""

import difflib
import functools
import json
import math
import re
import stat
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from limelm.errors import UserError
from limelm.text import has_control_characters

T = TypeVar("T")

#: A plain record, which needs no check: one row of results that we measured ourselves, values by column.
Record = dict[str, Any]
#: A table of results. A function that draws takes one, and it stands as CSV beside the figure.
Records = list[Record]

MOST_BYTES = 64 * 2**20  # of one file; the largest that this project writes have some megabytes
MOST_NAMED = 40  # fields in one error
LONGEST_VALUE = 80  # characters of a value in an error
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True)
class Check:
    """A check of a value beside its type; `says` puts it into words, to follow "must be"."""

    holds: Callable[[Any], bool]
    says: str


def at_least(limit: float) -> Check:
    """Check for numbers from `limit` on."""
    return Check(lambda value: value >= limit, f"at least {limit}")


def more_than(limit: float) -> Check:
    """Check for numbers above `limit`."""
    return Check(lambda value: value > limit, f"more than {limit}")


def at_most(limit: float) -> Check:
    """Check for numbers up to `limit`."""
    return Check(lambda value: value <= limit, f"at most {limit}")


def less_than(limit: float) -> Check:
    """Check for numbers below `limit`."""
    return Check(lambda value: value < limit, f"less than {limit}")


def matches(pattern: str, says: str) -> Check:
    """Check for strings that a regular expression matches as a whole; `says` is that expression in words."""
    return Check(lambda value: re.fullmatch(pattern, value) is not None, says)


def not_longer_than(characters: int) -> Check:
    """Check for strings of at most so many characters."""
    return Check(lambda value: len(value) <= characters, f"of at most {characters} characters")


class Unrestricted:
    """A mark for `Annotated`: the number may be infinite or NaN, the string may hold any character."""


Count = Annotated[int, at_least(0)]
Positive = Annotated[int, at_least(1)]
Size = Annotated[int, at_least(1), at_most(2**31 - 1)]
PositiveFloat = Annotated[float, more_than(0)]
NotNegative = Annotated[float, at_least(0)]
Fraction = Annotated[float, at_least(0), at_most(1)]
AnyFloat = Annotated[float, Unrestricted]
AnyText = Annotated[str, Unrestricted]
Label = Annotated[str, matches(r"\S|\S.*\S", "a text that neither begins nor ends with a space"), not_longer_than(100)]
FileName = Annotated[
    str, matches(r"(?!\.{1,2}$)[^/\\:]+", "the name of a file in the same folder"), not_longer_than(255)
]
Sha256 = Annotated[str, matches(r"[0-9a-f]{64}", "64 hexadecimal digits")]


def read_json(path: Path, kind: type[T]) -> T:
    """Read a JSON file as a record.

    Raises:
        UserError: for a file that cannot be read, is no JSON, or is not such a record, by its field.
    """
    return build(kind, load_json(path), str(path))


def load_json(path: Path) -> Any:
    """Read the plain values of a JSON file.

    Raises:
        UserError: for a file that cannot be read, or is no JSON.
    """
    return parse_json(read_text(path), str(path))


def parse_json(text: str, where: str) -> Any:
    """Parse a JSON text into plain values; an error says that the text is in `where`.

    Raises:
        UserError: for what is no JSON.
    """
    try:
        return json.loads(text)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from error
    except RecursionError as error:
        raise UserError(f"{where}: nested too deeply") from error


def load_toml(path: Path) -> dict[str, Any]:
    """Read the plain values of a TOML file.

    Raises:
        UserError: for a file that cannot be read, or is no TOML.
    """
    try:
        return tomllib.loads(read_text(path))
    except ValueError as error:
        raise UserError(f"{path}: not TOML ({error})") from error
    except RecursionError as error:
        raise UserError(f"{path}: nested too deeply") from error


def read_text(path: Path, most_bytes: int = MOST_BYTES) -> str:
    """Read a small UTF-8 file, without a byte-order mark at its beginning.

    Raises:
        UserError: where it is missing, no regular file, larger than `most_bytes`, or not UTF-8.
    """
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise UserError(f"{path}: not a file")
        if found.st_size > most_bytes:
            raise UserError(f"{path}: {found.st_size:,} bytes; at most {most_bytes:,} are read")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 (byte {error.start})") from error
    except ValueError as error:
        raise UserError(f"{path}: no path of a file ({error})") from error
    except OSError as error:
        raise UserError.from_os_error(path, error) from error


def build(kind: Any, value: Any, where: str, name: str = "") -> Any:
    """Build a record, or a value of any other annotated type, from a plain value of JSON, TOML, or a command line.

    Args:
        kind: a record, or what may stand in the annotation of one.
        value: of dictionaries, lists, strings, numbers, true, false and None.
        where: the file, said in errors, or "".
        name: the field, said in errors.

    Raises:
        UserError: for a value that does not fit, such as "PATH: splits.train.tokens=-1 must be at least 0".
    """
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is Annotated:
        return _annotated(arguments[0], arguments[1:], value, where, name)
    if origin in (Union, UnionType):
        return _union(arguments, value, where, name)
    if origin is Literal:
        if not any(value == allowed and type(value) is type(allowed) for allowed in arguments):
            raise _wrong(where, name, value, " or ".join(map(repr, arguments)))
        return value
    if is_dataclass(kind):
        return _record(kind, value, where, name)
    base = origin or kind
    accepted = _ACCEPTED[base]
    if type(value) not in accepted:
        raise _wrong(where, name, value, _NAMES[base])
    if base is dict:
        _, of = arguments or (str, Any)
        return {key: build(of, entry, where, _join(name, key)) for key, entry in value.items()}
    if base in (list, tuple):
        of = arguments[0] if arguments else Any
        return base(build(of, entry, where, f"{name}[{index}]") for index, entry in enumerate(value))
    return _scalar(base, value, where, name)


def unknown_field(name: str, known: Iterable[str], what: str = "field") -> str:
    """An error message for an unknown name, with the nearest known name, or all of them."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    if near:
        return f"unknown {what} {_shown(name)}; did you mean {near[0]!r}?"
    return f"unknown {what} {_shown(name)}" + (f"; allowed: {', '.join(known)}" if len(known) <= MOST_NAMED else "")


_ACCEPTED: dict[Any, tuple[type, ...]] = {
    bool: (bool,),
    int: (int,),
    float: (float, int),
    str: (str,),
    NoneType: (NoneType,),
    list: (list, tuple),
    tuple: (list, tuple),
    dict: (dict,),
}
_NAMES = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    NoneType: "nothing",
    list: "a list",
    tuple: "a list",
    dict: "a table of fields",
}


def _record(kind: Any, values: Any, where: str, name: str) -> Any:
    if isinstance(values, kind):  # it has been built already
        return values
    if type(values) is not dict:
        raise _wrong(where, name, values, _NAMES[dict])
    kinds = _field_kinds(kind)
    found = {key: build(kinds[key], value, where, _join(name, key)) for key, value in values.items() if key in kinds}
    prefix = f"{where}: {name}: " if name else f"{where}: "
    for key in values.keys() - kinds.keys():
        raise UserError(prefix + unknown_field(key, kinds))
    missing = [
        field.name
        for field in fields(kind)
        if field.init and field.default is MISSING and field.default_factory is MISSING and field.name not in found
    ]
    if missing:
        raise UserError(f"{prefix}no value for {', '.join(missing)}")
    try:
        return kind(**found)
    except (UserError, ValueError) as error:
        raise UserError(f"{prefix}{error}") from error


@functools.cache
def _field_kinds(kind: Any) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _annotated(kind: Any, checks: tuple[Any, ...], value: Any, where: str, name: str) -> Any:
    unrestricted = Unrestricted in checks
    built = value if unrestricted and type(value) in _ACCEPTED[kind] else build(kind, value, where, name)
    for check in checks:
        if check is not Unrestricted and not check.holds(built):
            raise _wrong(where, name, value, check.says)
    return built


def _union(kinds: tuple[Any, ...], value: Any, where: str, name: str) -> Any:
    """Build the first kind that fits; if there is only one beside None, its own error says what is wrong."""
    if value is None and NoneType in kinds:
        return None
    others = [kind for kind in kinds if kind is not NoneType]
    errors = []
    for kind in others:
        try:
            return build(kind, value, where, name)
        except UserError as error:
            errors.append(error)
    if len(others) == 1:
        raise errors[0]
    prefix = f"{where}: {name}={_shown(value)} must be "
    raise UserError(prefix + " or ".join(str(error).removeprefix(prefix) for error in errors))


def _scalar(kind: type, value: Any, where: str, name: str) -> Any:
    if kind is int and value not in _INT64:
        raise _wrong(where, name, value, "an integer of at most 64 bits")
    if kind is float:
        if (isinstance(value, int) and value not in _INT64) or not math.isfinite(value):
            raise _wrong(where, name, value, "a finite number")
        return float(value)
    if kind is str and has_control_characters(value):
        raise _wrong(where, name, value, "a text without control characters")
    return value


def _wrong(where: str, name: str, value: Any, allowed: str) -> UserError:
    what = f"{name}={_shown(value)} " if name else ""
    return UserError(f"{where}: {what}must be {allowed}" if where else f"{what}must be {allowed}")


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) or len(value) < LONGEST_VALUE else repr(value[:LONGEST_VALUE])
    return text if len(text) <= 2 * LONGEST_VALUE else text[:LONGEST_VALUE] + "…"


def _join(name: str, key: Any) -> str:
    return f"{name}.{key}" if name else str(key)
