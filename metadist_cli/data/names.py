"""Helpers for names that come with data: their order, the nearest one to a mistyped one, and which are refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Sequence

NAME = 100  # characters of a class name
_LISTED = 5


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorting key that puts 2.png before 10.png."""
    key = []
    for digits, text in re.findall(r"([0-9]+)|([^0-9]+)", name):
        number = digits.lstrip("0")  # compared by length first: int() refuses very long ones
        key.append((not digits, len(number), number or text))
    return key, name


def listed(names: Sequence[str]) -> str:
    """Up to five names, and how many more there are."""
    left = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {left:,} more" if left > 0 else "")


def nearest(word: str, options: Collection[str]) -> str:
    """A hint for a mistyped word: `did you mean ...?`, or else what there is to choose from."""
    plain = {option.lower(): option for option in options}
    match = difflib.get_close_matches(word.lower(), plain, 1, 0.6)
    if match:
        return f"did you mean {plain[match[0]]!r}?"
    named = sorted(filter(str.strip, options), key=natural)
    return f"there are: {', '.join(named[:12])}" + " ..." * (len(named) > 12) if named else "there are none with a name"


def unfit(name: str, longest: int = NAME) -> str:
    """Why a name cannot be used in a report, as "is empty"; an empty text where it can."""
    if not name:
        return "is empty"
    if len(name) > longest:
        return f"has {len(name):,} characters, more than {longest}"
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", name):
        return "has control characters, or is not UTF-8"
    return ""
