"""Source positions of config keys and values, and error messages that show them."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from typing import NamedTuple

from metadist_cli.core.errors import CONFIG, Problem

MAX_SHOWN = 20  # problems listed one by one
_WIDTH = 100  # columns of a source line in a snippet
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # PyYAML's line ends

Path = tuple[str | int, ...]


class Span(NamedTuple):
    """A stretch of one line; line and column count from 1."""

    line: int
    column: int
    width: int = 1


class Source(NamedTuple):
    """A text that was parsed: a file, or one argument of the command line."""

    name: str
    lines: tuple[str, ...]
    argument: bool = False

    @classmethod
    def of(cls, text: str, name: str, argument: bool = False) -> Source:
        return cls(name, tuple(_BREAK.split(text)), argument)

    def problem(self, span: Span, message: str, hint: str = "") -> Problem:
        """A Problem(CONFIG) that shows this span."""
        where = self.name if self.argument else f"{self.name}:{span.line}:{span.column}"
        return Problem(message, where, _wrap(hint), CONFIG, self.snippet(span))

    def snippet(self, span: Span) -> str:
        """The line, the one before it, and carets under the span; long lines are cut around the span."""
        line, column, width = span
        first = max(0, column - _WIDTH * 2 // 3) if column > _WIDTH - 20 else 0
        margin = len(str(line)) + 2
        rows = []
        for number in (line - 1, line):
            text = self._line(number)[first : first + _WIDTH]
            if number == line or text.strip():
                label = "" if self.argument else number
                rows.append(f"{label:>{margin}} | {text}".rstrip())
        indent = " " * _cells(self._line(line)[first : column - 1].ljust(column - 1 - first))
        carets = "^" * max(1, min(width, len(self._line(line)) - column + 1, first + _WIDTH - column + 1))
        return "\n".join([*rows, f"{'':>{margin}} | {indent}{carets}"])

    def _line(self, number: int) -> str:
        return self.lines[number - 1].replace("\t", " ") if 0 < number <= len(self.lines) else ""


class Location(NamedTuple):
    """Where a key and its value are written."""

    source: Source
    key: Span
    value: Span


class SourceMap:
    """The location of every key and value of a config tree.

    Attributes:
        locations: Locations by path, such as ("train", "outer", "lr"); the empty path is the whole tree.
    """

    def __init__(self, source: Source, start: int = 0):
        self.locations: dict[Path, Location] = {(): Location(source, Span(1, 1), Span(1, start + 1))}

    def problem(self, path: Path, message: str, hint: str = "", at: str = "value") -> Problem:
        """A Problem(CONFIG) that shows where a setting is written.

        Args:
            path: Path of the setting; for one that is not written, the innermost section around it is shown.
            message: What is wrong.
            hint: How to fix it.
            at: "value" or "key": the part to underline.
        """
        written = self.written(path)
        location = self.locations[written]
        span = location.value if at == "value" and written == path else location.key
        return location.source.problem(span, message, hint)

    def written(self, path: Path) -> Path:
        """The path itself if it is written, otherwise that of the innermost section around it that is."""
        return next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self.locations)

    def overlay(self, path: Path, other: SourceMap, key: Span) -> None:
        """Record that the value at `path` was replaced by another tree, and its key by the one at `key`."""
        self.locations = {p: location for p, location in self.locations.items() if p[: len(path)] != path}
        self.locations |= {path + p: location for p, location in other.locations.items()}
        self.locations[path] = other.locations[()]._replace(key=key)


def raise_all(problems: list[Problem]) -> None:
    """Raise all problems as one; return if there are none."""
    hidden = len(problems) - MAX_SHOWN
    more = [Problem(f"{hidden} more problems are not shown", code=CONFIG)] if hidden > 0 else []
    if problems:
        raise Problem.combined([*problems[:MAX_SHOWN], *more])


def clip(text: str, width: int = 40) -> str:
    """Text shortened to a width."""
    return text if len(text) <= width else text[: width - 3] + "..."


def _wrap(hint: str) -> str:
    return textwrap.fill(hint, 112, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False)


def _cells(text: str) -> int:
    """Terminal columns that a text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
