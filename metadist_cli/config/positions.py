"""Where the values of a config stand in the text that they came from, and problems that show the place."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from typing import NamedTuple

from metadist_cli.core.errors import CONFIG, Problem

MAX_SHOWN = 20  # problems of one reading that are shown one by one
_WIDTH = 100  # columns of a source line that a snippet shows
_BREAK = re.compile("\r\n|[\r\n\x85\u2028\u2029]")  # where PyYAML ends a line

Path = tuple[str | int, ...]


class Place(NamedTuple):
    """Line and column count from 1."""

    line: int
    column: int
    width: int = 1


class Source(NamedTuple):
    """A text that was read: a file, or one argument of the command line."""

    name: str
    lines: tuple[str, ...]
    argument: bool = False

    @classmethod
    def of(cls, text: str, name: str, argument: bool = False) -> Source:
        return cls(name, tuple(_BREAK.split(text)), argument)

    def problem(self, place: Place, message: str, hint: str = "") -> Problem:
        where = self.name if self.argument else f"{self.name}:{place.line}:{place.column}"
        return Problem(message, where, _wrap(hint), CONFIG, self.snippet(place))

    def snippet(self, place: Place) -> str:
        """The line before, the line, and carets under the place; long lines are cut around it."""
        line, column, width = place
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


class Spot(NamedTuple):
    source: Source
    key: Place
    value: Place


class Marks:
    """Where each key and value of a tree stands: `spots` by path; the empty path is the whole."""

    def __init__(self, source: Source, start: int = 0):
        self.spots: dict[Path, Spot] = {(): Spot(source, Place(1, 1), Place(1, start + 1))}

    def problem(self, path: Path, message: str, hint: str = "", at: str = "value") -> Problem:
        """A Problem at the key or value of path, or at the nearest section around it that is written."""
        written = self.written(path)
        spot = self.spots[written]
        return spot.source.problem(spot.value if at == "value" and written == path else spot.key, message, hint)

    def written(self, path: Path) -> Path:
        """The path itself, or that of the nearest section around it that is written."""
        return next(path[:end] for end in range(len(path), -1, -1) if path[:end] in self.spots)

    def overlay(self, path: Path, other: Marks, key: Place) -> None:
        """The value at path was replaced by the tree that the other marks belong to; its key stands at `key`."""
        self.spots = {p: spot for p, spot in self.spots.items() if p[: len(path)] != path}
        self.spots |= {path + p: spot for p, spot in other.spots.items()}
        self.spots[path] = other.spots[()]._replace(key=key)


def raise_all(problems: list[Problem]) -> None:
    """Raise all problems as one; return if there are none."""
    hidden = len(problems) - MAX_SHOWN
    more = [Problem(f"{hidden} more problems are not shown", code=CONFIG)] if hidden > 0 else []
    if problems:
        raise Problem.combined([*problems[:MAX_SHOWN], *more])


def clip(text: str, width: int = 40) -> str:
    """Text that is cut to a width."""
    return text if len(text) <= width else text[: width - 3] + "..."


def _wrap(hint: str) -> str:
    return textwrap.fill(hint, 112, subsequent_indent="     ", break_long_words=False, break_on_hyphens=False)


def _cells(text: str) -> int:
    """Columns of a terminal that the text takes."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
