"""From the bytes of a table to cells: CSV and TSV, columns parted by blanks, and ARFF."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.readers.members import Member

_ROWS = 512  # of a chunk; with more, Python's garbage collector takes most of the time: 1 s or 4 s a million rows
_COLUMNS = 100_000
_FIRST = "rename one of them; if this line is data already, name the columns in data.columns"
_ATTRIBUTE = re.compile(r"""\s*@attribute\s+("[^"]*"|'(?:[^'\\]|\\.)*'|[^\s{"']+)\s*(.*)""", re.I | re.S)
_NUMERIC = ("numeric", "real", "integer")


class Chunk(NamedTuple):
    """Some hundred rows: their lines in the file, and the cells of each column."""

    line: np.ndarray  # (n,) int64
    cells: list[tuple[str, ...]]


class Sheet(NamedTuple):
    """A table as text. Its chunks raise Problem(DATA) with file:line where a row is not as it should be."""

    names: tuple[str, ...]  # of the columns; one without a name is called by its number
    nameless: frozenset[str]
    nominal: dict[str, frozenset[str]]  # the values that an ARFF file allows in a column
    numeric: frozenset[str]  # the columns that it says hold numbers
    chunks: Iterator[Chunk]


def sheet(file: Member, columns: Sequence[str] | None, encoding: str) -> Sheet:
    """The table in a file: an .arff file names its columns, another one does in its first line unless `columns` does.

    columns: their names; none at all stands for 1, 2, 3 ... Columns are parted by whichever of , ; tab and | is in the
    first line most often (with `columns`: as often as need be), else by blanks. Raises Problem.
    """
    data = file.read()
    text = _decoded(data, encoding, file.where)
    if file.where.lower().endswith(".arff"):
        if columns is not None:
            hint = "leave data.columns out"
            raise Problem(f"{file.where} is an ARFF file, which names its columns", "data.columns", hint, CONFIG)
        return _arff(lines(text, file.where, _COLUMNS, quote=""), file.where)
    first = next((line for line in lines(text, file.where, _COLUMNS, "\0", "") if line.strip()), "")
    comma = _comma(first, len(columns) if columns else None)

    def reader() -> _Reader:
        rest = lines(_decoded(data, encoding, file.where), file.where, _COLUMNS, comma)
        rest = rest if comma != " " else (" ".join(line.split()) for line in rest)
        return _Reader(rest, file.where, delimiter=comma, skipinitialspace=comma != " ", strict=True)

    rows = reader()
    head: list[str] = []
    while not any(head) and (row := rows.take(1)):
        head = [cell.strip() for cell in row[0]]
    if columns is not None and (not columns or list(columns) != head):
        rows, head = reader(), list(columns) or [str(i + 1) for i in range(len(head))]
    nameless = frozenset(str(i + 1) for i, name in enumerate(head) if not name)
    names = _distinct([name or str(i + 1) for i, name in enumerate(head)], f"{file.where}:1", _FIRST)
    return Sheet(names, nameless, {}, frozenset(), rows.chunks(len(names)))


def lines(text: Iterable[str], where: object, commas: int, comma: str = ",", quote: str = '"') -> Iterator[str]:
    """Lines with their ends: no row goes on in the next one, and far too many columns never become a list.

    commas: at most so many a line. quote: "" for no look at quotation marks. Raises Problem(DATA).
    """
    for number, line in enumerate(text, 1):
        if line.count(comma) > commas:
            message = f"this line has {line.count(comma) + 1:,} columns, far more than a row of this data set"
            raise Problem(message, f"{where}:{number}", "is this the right file?", DATA)
        if quote and line.count(quote) % 2:
            hint = f"close it; within quotes write {quote * 2}"
            raise Problem("a quotation mark is open at the end of this line", f"{where}:{number}", hint, DATA)
        yield line


def _decoded(data: bytes, encoding: str, where: str) -> Iterator[str]:
    try:
        yield from io.TextIOWrapper(io.BytesIO(data), "utf-8-sig" if encoding == "utf-8" else encoding, newline="")
    except UnicodeError as error:
        try:
            data.decode(encoding)  # the whole text says where
            line = 1
        except UnicodeDecodeError as exact:
            line = data.count(b"\n", 0, exact.start) + 1
        hint = "write encoding: latin-1 or cp1252, or save the table as UTF-8"
        message = f"this is no {encoding.upper()} text"
        raise Problem(message, f"{where}:{line}", hint, DATA) from error


def _comma(line: str, count: int | None) -> str:
    """What parts the columns of a line, " " for runs of blanks; count: how many columns there should be."""
    bare = re.sub(r'"[^"]*"', "x", line.strip("\r\n"))
    number = {comma: bare.count(comma) + 1 for comma in ",;\t|"} | {" ": len(bare.split())}
    if count in number.values():
        return next(comma for comma, columns in number.items() if columns == count)
    found = max(",;\t|", key=lambda comma: number[comma])
    return found if number[found] > 1 or number[" "] == 1 else " "


class _Reader:
    """Rows of a CSV file, whose errors are Problems. before: lines of the file before the first."""

    def __init__(self, text: Iterator[str], where: str, before: int = 0, **dialect: Any):
        self.rows, self.where, self.before = csv.reader(text, **dialect), where, before

    def take(self, count: int) -> list[list[str]]:
        """The next rows, none at the end."""
        try:
            return list(islice(self.rows, count))
        except csv.Error as error:
            hint = "are quotation marks where they should be?"
            place = f"{self.where}:{self.before + self.rows.line_num}"
            raise Problem(f"this is no table: {error}", place, hint, DATA) from error

    def chunks(self, columns: int) -> Iterator[Chunk]:
        """The rest, without blank lines. Raises Problem where a row has not so many columns, or there is no row."""
        empty = True
        while chunk := self.take(_ROWS):
            line = np.arange(self.before + self.rows.line_num + 1 - len(chunk), self.before + self.rows.line_num + 1)
            if set(map(len, chunk)) != {columns}:
                filled = [i for i, row in enumerate(chunk) if any(map(str.strip, row))]
                line, chunk = line[filled], [chunk[i] for i in filled]
                for number, row in zip(line, chunk, strict=True):
                    if len(row) != columns:
                        message = f"this row has {len(row):,} columns, the table has {columns:,}"
                        hint = "add or remove some, or quote text with commas"
                        raise Problem(message, f"{self.where}:{number}", hint, DATA)
            if chunk:
                empty = False
                yield Chunk(line, list(zip(*chunk, strict=True)))
        if empty:
            raise Problem("the table has no rows", self.where, "leave the file out, or fetch it again", DATA)


def _arff(text: Iterator[str], where: str) -> Sheet:
    """https://waikato.github.io/weka-wiki/formats_and_processing/arff_stable/, but for sparse rows and relations."""
    names: list[str] = []
    nominal: dict[str, frozenset[str]] = {}
    numeric: set[str] = set()
    before, quote = 0, "'"
    for before, line in enumerate(text, 1):
        keyword = line.strip().partition(" ")[0].lower()
        if keyword == "@data":
            break
        match = _ATTRIBUTE.match(line)
        if not match:
            if keyword and not keyword.startswith(("%", "@relation")):
                message = f"{line.strip()[:NAME]!r} is no line of an ARFF header"
                raise Problem(message, f"{where}:{before}", "write @attribute NAME TYPE, or @data", DATA)
            continue
        name, kind = re.sub(r"""^(["'])(.*)\1$""", r"\2", match[1]), match[2].strip()
        names.append(name)
        if kind.startswith("{") and kind.endswith("}"):
            quote = '"' if '"' in kind else quote
            values = next(csv.reader([kind[1:-1]], quotechar='"' if '"' in kind else "'", skipinitialspace=True))
            nominal[name] = frozenset(value.strip() for value in values)
        elif kind.partition(" ")[0].lower() in _NUMERIC:
            numeric.add(name)
        elif kind.partition(" ")[0].lower() not in ("string", "date"):
            message = f"{kind[:NAME]!r} is no type of a column that is read"
            raise Problem(message, f"{where}:{before}", "there are numeric, string, date and {a, b}", DATA)
    known = _distinct(names, where, "rename one of them")
    rest = ("" if line.startswith("%") else line for line in text)
    rows = _Reader(rest, where, before, quotechar=quote, skipinitialspace=True, escapechar="\\")
    return Sheet(known, frozenset(), nominal, frozenset(numeric), rows.chunks(len(known)))


def _distinct(names: Sequence[str], where: str, hint: str) -> tuple[str, ...]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Problem(f"there are two columns {name[:NAME]!r}", where, hint, DATA)
        seen.add(name)
    if not names:
        raise Problem("the file is empty", where, "leave it out, or fetch it again", DATA)
    return tuple(names)
