"""Progress bars: one style for all work that takes long."""

from collections.abc import Iterable
from typing import Any

from tqdm import tqdm

INTERVAL = 0.5  # seconds between two drawings


def progress_bar(
    label: str | None,
    unit: str,
    iterable: Iterable[Any] | None = None,
    total: int | None = None,
    stays: bool = False,
    kind: type[tqdm] = tqdm,
    **more: Any,
) -> tqdm:
    """Make a bar on stderr, as wide as the window: a context manager, and an iterator if it is given an iterable.

    Args:
        label: said before the bar; None says nothing.
        unit: one of what is counted, such as "step".
        total: how many there are, where that is known.
        stays: whether the bar is still there when it is done, as a record of work that leaves something.
        more: for `tqdm`.
    """
    style = {"leave": stays, "mininterval": INTERVAL, "dynamic_ncols": True}
    return kind(iterable, desc=label, unit=f" {unit}", total=total, **{**style, **more})
