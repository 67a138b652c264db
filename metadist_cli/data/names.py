"""What every reader of a user's own task hands over, and the words that its messages share."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np

ROWS = 1_000_000  # rows of one task
NAME = 100  # characters of a class name
BYTES = 1 << 30  # of all arrays of one task


class Part(NamedTuple):
    """The support or the query rows of a task as the user wrote them, n rows.

    x: (n, *shape) uint8 or float32. y: n class names, or (n, out) float32 targets, or None where the rows carry none.
    names: n of them, for the list of predictions. place: where row i says its label, for messages.
    """

    x: np.ndarray
    y: list[str] | np.ndarray | None
    names: Sequence[str]
    place: Callable[[int], str]


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorting key by which 2.png stands before 10.png."""
    key = []
    for digits, text in re.findall(r"([0-9]+)|([^0-9]+)", name):
        number = digits.lstrip("0")  # compared by length first: int() refuses very long ones
        key.append((not digits, len(number), number or text))
    return key, name


def nearest(word: str, options: Collection[str]) -> str:
    """`did you mean ...?` for a mistyped word, or else what there is."""
    plain = {option.lower(): option for option in options}
    match = difflib.get_close_matches(word.lower(), plain, 1, 0.6)
    some = ", ".join(sorted(options, key=natural)[:12]) + (" ..." if len(options) > 12 else "")
    return f"did you mean {plain[match[0]]!r}?" if match else f"there are: {some}"


def unfit(name: str, longest: int = NAME) -> str:
    """Why a name cannot stand in a report; empty where it can."""
    if not name:
        return "is empty"
    if len(name) > longest:
        return f"has {len(name):,} characters, more than {longest}"
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", name):
        return "has control characters, or is not UTF-8"
    return ""
