"""How values are written in the cells of tables; None becomes an empty cell."""

from typing import Any

from limelm.report.html import unbroken


def percent(value: float | None) -> str:
    """A share, in percent with one digit, without the sign."""
    return "" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """A difference of shares, in points with one digit."""
    return "" if value is None else f"{100 * value:+.1f}"


def thousandths(value: float | None) -> str:
    """A loss, with three digits."""
    return "" if value is None else f"{value:.3f}"


def signed_thousandths(value: float | None) -> str:
    """A difference of losses, with three digits."""
    return "" if value is None else f"{value:+.3f}"


def count(value: int | None) -> str:
    """With a comma between thousands."""
    return "" if value is None else f"{value:,}"


def optional(value: Any) -> str:
    """As it is."""
    return "" if value is None else str(value)


def in_one_line(value: Any) -> str:
    """As it is, never broken."""
    return unbroken(optional(value))
