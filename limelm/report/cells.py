"""Write values into the cells of tables; None becomes an empty cell."""

from typing import Any

from limelm.report.html import unbroken


def percent(value: float | None) -> str:
    """Write a share in percent with one digit, without the sign."""
    return "" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """Write a difference of shares in percentage points with one digit."""
    return "" if value is None else f"{100 * value:+.1f}"


def thousandths(value: float | None) -> str:
    """Write a loss with three digits."""
    return "" if value is None else f"{value:.3f}"


def signed_thousandths(value: float | None) -> str:
    """Write a difference of losses with its sign and three digits."""
    return "" if value is None else f"{value:+.3f}"


def count(value: int | None) -> str:
    """Write a count with commas between thousands."""
    return "" if value is None else f"{value:,}"


def optional(value: Any) -> str:
    """Write a value as it is."""
    return "" if value is None else str(value)


def in_one_line(value: Any) -> str:
    """Write a value as it is, in a cell that is never broken."""
    return unbroken(optional(value))
