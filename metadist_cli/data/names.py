"""Helpers for names that come with data: their order, the nearest one to a mistyped one, and which are refused."""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection

NAME = 100  # characters of a class name


def natural(name: str) -> tuple[list[tuple[bool, int, str]], str]:
    """Sorting key that puts 2.png before 10.png."""
    key = []
    for digits, text in re.findall(r"([0-9]+)|([^0-9]+)", name):
        number = digits.lstrip("0")  # compared by length first: int() refuses very long ones
        key.append((not digits, len(number), number or text))
    return key, name


def nearest(word: str, options: Collection[str]) -> str:
    """A hint for a mistyped word: `did you mean ...?`, or else what there is to choose from."""
    plain = {option.lower(): option for option in options}
    match = difflib.get_close_matches(word.lower(), plain, 1, 0.6)
    some = ", ".join(sorted(options, key=natural)[:12]) + (" ..." if len(options) > 12 else "")
    return f"did you mean {plain[match[0]]!r}?" if match else f"there are: {some}"


def unfit(name: str, longest: int = NAME) -> str:
    """Why a name cannot be used in a report, as "is empty"; an empty text where it can."""
    if not name:
        return "is empty"
    if len(name) > longest:
        return f"has {len(name):,} characters, more than {longest}"
    if re.search("[\0-\x1f\x7f-\x9f\ud800-\udfff]", name):
        return "has control characters, or is not UTF-8"
    return ""
