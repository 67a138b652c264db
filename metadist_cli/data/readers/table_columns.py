"""From cells to typed columns: numbers, or texts that are numbered as they come."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, natural
from metadist_cli.data.readers.members import Member
from metadist_cli.data.readers.table_lines import sheet

MISSING = frozenset(("", "?", "NA", "N/A", "NaN", "nan", "NULL", "null"))
TEXTS = 100  # different texts of a column that nobody named as one of texts
_ROWS = 100_000_000
_LARGEST = float(np.finfo(np.float32).max)


class Column(NamedTuple):
    """n cells, either numbers (code and texts are then empty) or texts."""

    name: str
    number: np.ndarray | None  # (n,) float64, NaN where missing
    code: np.ndarray  # (n,) int64 places in texts, -1 where missing
    texts: tuple[str, ...]  # in natural order, each somewhere in the column

    @property
    def missing(self) -> np.ndarray:
        """(n,) bool."""
        return np.isnan(self.number) if self.number is not None else self.code < 0

    def take(self, rows: np.ndarray) -> Column:
        """The cells of some rows, without texts that are in none of them; a row -1 is one that is missing."""
        if self.number is not None:
            return self._replace(number=np.where(rows < 0, np.nan, self.number[rows]))
        code = np.where(rows < 0, -1, self.code[rows])
        there = np.isin(np.arange(len(self.texts)), code)
        renumbered = np.append(np.cumsum(there) - 1, -1)
        return self._replace(code=renumbered[code], texts=tuple(np.array(self.texts, dtype=object)[there]))

    def numbers(self) -> np.ndarray | None:
        """(n,) float64, NaN where missing; None where a text is no number."""
        if self.number is not None or not _are_numbers(self.texts):
            return self.number
        return np.array([*map(float, self.texts), math.nan])[self.code]


class Table(NamedTuple):
    """n rows: the columns that were asked for, and where each row stands."""

    columns: dict[str, Column]
    line: np.ndarray  # (n,) int64
    file: np.ndarray  # (n,) int64 places in files
    files: tuple[Member, ...]

    def place(self, row: int | np.integer, column: str) -> str:
        """file:line:column, for messages."""
        return f"{self.files[self.file[row]].where}:{self.line[row]}:{column[:NAME]}"

    def take(self, rows: np.ndarray) -> Table:
        """Some of the rows."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return Table(columns, self.line[rows], self.file[rows], self.files)


def read(
    files: Sequence[Member],
    columns: Sequence[str] | None,
    encoding: str,
    needed: Callable[[str], bool],
    texts: Callable[[str], bool],
) -> Table:
    """The rows of all files below each other, which are to have the same columns, in whatever order.

    needed: which columns to keep, by their names; texts: which of them are texts even where they look like numbers, and
    may have any number of values. Any other column is numbers or texts, not both. Raises Problem(DATA).
    """
    filling: dict[str, _Filling] = {}
    known: tuple[str, ...] | None = None
    line: list[np.ndarray] = []
    place: list[np.ndarray] = []
    total = 0
    for number, file in enumerate(files):
        found = sheet(file, columns, encoding)
        known = known or found.names
        if set(found.names) != set(known):
            odd = sorted(set(found.names) ^ set(known), key=natural)[0]
            where = file.where if odd in found.names else files[0].where
            message = f"the column {odd[:NAME]!r} is in {where} alone"
            raise Problem(message, file.where, "files of one table have the same columns", DATA)
        for name in filter(needed, found.names):
            if name not in filling:
                filling[name] = _Filling(name, texts(name) or name in found.nominal)
        for chunk in found.chunks:
            total += len(chunk.line)
            if total > _ROWS:
                raise Problem(f"there are more than {_ROWS:,} rows", file.where, "use fewer", DATA)
            line.append(chunk.line)
            place.append(np.full(len(chunk.line), number))
            for name, cells in zip(found.names, chunk.cells, strict=True):
                if name in filling:
                    told = _Told(file.where, chunk.line, found.nominal.get(name), name in found.numeric)
                    filling[name].add(cells, told)
    filled = {name: column.done() for name, column in filling.items()}
    return Table(filled, np.concatenate(line), np.concatenate(place), tuple(files))


class _Told(NamedTuple):
    """What is known of a chunk's cells: where they stand, and what an ARFF file says of their column."""

    where: str
    line: np.ndarray
    allowed: frozenset[str] | None
    numeric: bool


class _Filling:
    """A column as it grows: parts of numbers until a text comes, or parts of codes."""

    def __init__(self, name: str, free: bool):
        self.name, self.free = name, free  # free: texts whatever they look like, and any number of them
        self.parts: list[np.ndarray] = []
        self.codes: dict[str, int] = {}  # of the cells as they are written
        self.index: dict[str, int] = {}  # of what they say
        self.kind = "texts" if free else ""  # "" as long as all is missing

    def add(self, cells: tuple[str, ...], told: _Told) -> None:
        numbers = None if self.kind == "texts" else _numbers(cells)
        if numbers is None:
            if not self.free:
                self._of_one_kind(cells, told)
            if self.kind != "texts":
                self.kind, self.parts = "texts", [np.full(len(part), -1) for part in self.parts]
            return self._add_texts(cells, told)
        wrong = np.flatnonzero(np.abs(numbers) > _LARGEST)
        if len(wrong):
            message = f"{cells[wrong[0]].strip()[:NAME]!r} is no finite number, or too large"
            raise self._problem(message, cells[wrong[0]], cells, told, "mend it, or leave it empty if it is missing")
        if not np.isnan(numbers).all():
            self.kind = "numbers"
        self.parts.append(numbers)

    def _of_one_kind(self, cells: tuple[str, ...], told: _Told) -> None:
        """Raises Problem where the column would hold both numbers and texts: the fewer are the odd ones."""
        said = {cell: _is_number(cell) for cell in dict.fromkeys(cells) if cell not in self.codes}
        texts, values = ([cell for cell, one in said.items() if one is kind] for kind in (False, True))
        if told.numeric and texts:
            message = f"{texts[0].strip()[:NAME]!r} is no number, as the header says"
            raise self._problem(message, texts[0], cells, told, "write ? where it is missing")
        odd = {"numbers": texts, "texts": values, "": min(texts, values, key=len)}[self.kind]
        if odd:
            what = "a number, as no other" if odd is values else "no number, as the others"
            message = f"{odd[0].strip()[:NAME]!r} is {what} of this column"
            hint = f"mend it, drop the column, or, if each text is a value, write one_hot: [{self.name[:NAME]}]"
            raise self._problem(message, odd[0], cells, told, hint)

    def _add_texts(self, cells: tuple[str, ...], told: _Told) -> None:
        for cell in dict.fromkeys(cells):
            if cell in self.codes:
                continue
            text = cell.strip()
            missing = text in MISSING
            self.codes[cell] = -1 if missing else self.index.setdefault(text, len(self.index))
            if not missing and told.allowed is not None and text not in told.allowed:
                message = f"{text[:NAME]!r} is none of the values in the header"
                some = ", ".join(sorted(told.allowed, key=natural)[:8])
                raise self._problem(message, cell, cells, told, f"there are: {some}")
            if not self.free and len(self.index) > TEXTS:
                message = f"the column {self.name[:NAME]!r} has more than {TEXTS} different texts"
                comma = re.fullmatch(r"[-+]?[0-9]*,[0-9]+", text)
                hint = "drop it, or, if each is to be a feature of its own, name it in data.one_hot"
                hint = "write numbers with a point, such as 0.5" if comma else hint
                raise self._problem(message, cell, cells, told, hint)
        self.parts.append(np.fromiter(map(self.codes.__getitem__, cells), np.int64, len(cells)))

    def _problem(self, message: str, cell: str, cells: tuple[str, ...], told: _Told, hint: str) -> Problem:
        return Problem(message, f"{told.where}:{told.line[cells.index(cell)]}:{self.name[:NAME]}", hint, DATA)

    def done(self) -> Column:
        """The column, its texts in natural order; 1 and 1.0 are one text where all are numbers."""
        values = np.concatenate(self.parts)
        if self.kind != "texts":
            return Column(self.name, values, np.empty(0, dtype=np.int64), ())
        texts = list(self.index)
        if _are_numbers(texts):
            texts = [_plain(text) for text in texts]
            order = sorted(set(texts), key=lambda text: (float(text), text))
        else:
            order = sorted(set(texts), key=natural)
        rank = {text: i for i, text in enumerate(order)}
        code = np.array([*(rank[text] for text in texts), -1])[values]
        return Column(self.name, None, code, tuple(order))


def _numbers(cells: Sequence[str]) -> np.ndarray | None:
    """(n,) float64, NaN where one is missing; None where a cell is neither."""
    if "_" in "".join(cells):  # Python reads 1_000
        return None
    try:
        return np.fromiter(map(float, cells), np.float64, len(cells))
    except ValueError:
        pass
    try:
        return np.array([math.nan if cell.strip() in MISSING else float(cell) for cell in cells])
    except ValueError:
        return None


def _is_number(cell: str) -> bool | None:
    """None where it is missing."""
    if cell.strip() in MISSING:
        return None
    return _numbers([cell]) is not None


def _are_numbers(texts: Sequence[str]) -> bool:
    return bool(texts) and all(_is_number(text) and math.isfinite(float(text)) for text in texts)


def _plain(text: str) -> str:
    """1.0 as 1, 2.50 as 2.5; 007 and numbers of twenty digits as they are."""
    return f"{float(text):.15g}" if re.search("[.eE]", text) else text
