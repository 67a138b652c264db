"""How the cells of a table are written: names, encoding, and the format of numbers and dates by column."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import NamedTuple, TypeVar

T = TypeVar("T")

MISSING = frozenset(("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"))
_MARKS = {None: "", ",": ",", ".": r"\.", " ": "[ \u00a0\u2009\u202f]", "'": "['’]"}
_BLANK = "[\\s\u00a0\u2009\u202f]"
_ISO = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}(?:[T ][0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:\.[0-9]+)?)?(?:Z|[+-][0-9]{2}:?[0-9]{2})?)?",
    re.ASCII,
)
_DAY = 86_400.0  # seconds


class Format(NamedTuple):
    """How the files of a table are written. In mappings by column a name may be a pattern, where * stands for anything.

    The defaults read plain UTF-8 with a header line, numbers like 0.5 or 1e-3, and dates like 2026-01-31 12:30.
    """

    columns: Sequence[str] | None = None  # their names; [] for 1, 2, 3 ...; None where the first line has them
    encoding: str = "utf-8"  # a byte order mark (UTF-8, UTF-16, UTF-32) goes before it
    delimiter: str | None = None  # None: recognised; " " for runs of blanks
    decimal: Mapping[str, str] = {}  # mark before the fraction
    thousands: Mapping[str, str] = {}  # mark between groups of three digits
    symbols: Mapping[str, Sequence[str]] = {}  # what stands before or after a number, such as $, % or kg
    dates: Mapping[str, str] = {}  # columns of dates, and what becomes of them: days, hours or parts
    date_format: Mapping[str, str] = {}  # as strptime has it; without one ISO 8601
    missing: frozenset[str] = MISSING
    sheet: str | None = None  # of a spreadsheet; None: the only one that has cells
    absent: bool = False  # whether files may lack columns that others have
    prefix: str = ""  # before the names of all columns
    options: bool = True  # whether hints may name options of `data:`; a task's own table has none

    def style(self, name: str) -> Style:
        """How a column writes its numbers."""
        symbols = tuple(self.option("symbols", name) or ())
        return Style(self.option("decimal", name) or ".", self.option("thousands", name), symbols)

    def option(self, option: str, name: str) -> str | None:
        """What a mapping says of a column: under its own name, else under the first pattern that fits."""
        mapping = getattr(self, option)
        if name in mapping:
            return mapping[name]
        return next((value for pattern, value in mapping.items() if fits(name, [pattern])), None)


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns, in which * stands for anything, names the column."""
    return any(name == one or ("*" in one and _expression(one).fullmatch(name)) for one in patterns)


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", pattern))), re.DOTALL)


class Style(NamedTuple):
    """How the numbers of one column are written."""

    decimal: str = "."
    thousands: str | None = None
    symbols: tuple[str, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether a number is what Python, and every program, reads."""
        return self == Style()

    @property
    def pattern(self) -> str:
        """A regular expression for a whole number of this style, for Python's `re` as for RE2."""
        mark, group = _MARKS[self.decimal], _MARKS[self.thousands]
        indian = "|[0-9]{1,2}(?:,[0-9]{2})*,[0-9]{3}" if group == "," else ""
        whole = f"(?:[0-9]{{1,3}}(?:{group}[0-9]{{3}})+{indian}|[0-9]+)" if group else "[0-9]+"
        symbol = f"(?:{self._symbols})?" if self.symbols else ""
        number = f"(?:{whole}(?:{mark}[0-9]*)?|{mark}[0-9]+)(?:[eE][-+]?[0-9]+)?"
        return "^" + f"{_BLANK}*".join(["", symbol, "[-+−]?", symbol, number, symbol, "$"])

    @property
    def noise(self) -> str:
        """A regular expression for what a number is without."""
        return "|".join(filter(None, [_BLANK, _MARKS[self.thousands], self._symbols]))

    @property
    def _symbols(self) -> str:
        longest_first = sorted(self.symbols, key=len, reverse=True)
        return "|".join(re.sub(r"([!-/:-@\[-`{-~])", r"\\\1", symbol) for symbol in longest_first)


def number(text: str, style: Style) -> float | None:
    """What a cell says as a number; None where it is not a number of this style."""
    if not style.plain:
        if not re.match(style.pattern, text, re.ASCII):
            return None
        text = re.sub(style.noise, "", text).replace(style.decimal, ".")
    try:
        return None if "_" in text else float(text.replace("−", "-"))  # Python reads 1_000
    except ValueError:
        return None


def date(text: str, form: str | None) -> float | None:
    """Days since 1970 that a cell says, of a time alone since midnight; None where it is not of this form.

    Args:
        text: A date, a time, or both. A zone other than UTC is turned into it.
        form: As of `datetime.strptime`; None for ISO 8601.
    """
    if form is None and not _ISO.fullmatch(text):
        return None
    try:
        moment = datetime.fromisoformat(text) if form is None else datetime.strptime(text, form)
        origin = datetime(1970 if form is None or re.search("%[YyGcx]", form) else 1900, 1, 1, tzinfo=UTC)
        return (moment.replace(tzinfo=moment.tzinfo or UTC) - origin).total_seconds() / _DAY
    except (ValueError, OverflowError, re.error):
        return None
