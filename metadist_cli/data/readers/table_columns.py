"""The rows of a table: cells of one or several files below each other, as typed columns."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, listed, natural
from metadist_cli.data.readers import table_hints as hints
from metadist_cli.data.readers.members import Member
from metadist_cli.data.readers.table_cells import Cells, Column, Kind, Odd
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_open import sheet
from metadist_cli.data.readers.table_sheet import ROWS, Sheet
from metadist_cli.data.readers.table_types import typed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Column", "Table", "read", "row_lines"]


class Table(NamedTuple):
    """n rows: the columns that were asked for, and where each row is from."""

    columns: dict[str, Column]  # in the order of the first file
    row: np.ndarray  # (n,) int64 rows of their file, from 0
    file: np.ndarray  # (n,) int64 places in files
    files: tuple[Member, ...]
    form: Format
    numbering: tuple[str, ...] = ()  # columns without a name that only number the rows, and are left out

    def line(self, row: int) -> int:
        """The line of its file where a row begins. Reads the file again: for messages."""
        lines = sheet(self.files[self.file[row]], self.form).lines()
        return next(islice(lines, int(self.row[row]), None))

    def place(self, row: int, column: str) -> str:
        """file:line:column, for messages."""
        where = f"{self.files[self.file[row]].where}:{self.line(row)}"
        return f"{where}:{column.removeprefix(self.form.prefix)[:NAME]}"

    def take(self, rows: np.ndarray) -> Table:
        """Some of the rows."""
        columns = {name: column.take(rows) for name, column in self.columns.items()}
        return self._replace(columns=columns, row=self.row[rows], file=self.file[rows])


def row_lines(table: Table) -> np.ndarray:
    """(n,) int64, the line of its file where each row begins, in one reading of the files."""
    lines = [np.fromiter(sheet(file, table.form).lines(), np.int64) for file in table.files]
    return np.array([lines[file][row] for file, row in zip(table.file, table.row, strict=True)], dtype=np.int64)


def read(files: Sequence[Member], form: Format, needed: Callable[[str], bool], kind: Callable[[str], Kind]) -> Table:
    """The rows of all files below each other, with the same columns (unless form.absent), in whatever order.

    Args:
        files: CSV and other delimited text, ARFF, Parquet, .xlsx; each perhaps gzip.
        form: How they are written.
        needed: Which columns to keep, by their names.
        kind: What a column must hold, by its name: "number"; "text", any number of texts even where they look like
            numbers; None: numbers, or at most 100 different texts, not both.

    Raises:
        Problem: DATA with file:line:column for whatever is not as it should be; CONFIG for an option of `form` that
            does not fit the file.
    """
    cells: dict[str, list[pa.ChunkedArray | int]] = {}
    nameless: set[str] = set()
    numeric: set[str] = set()
    rows: list[int] = []
    for file in files:
        found = sheet(file, form)
        wanted = {name: full for name in found.names if needed(full := form.prefix + name)}
        nameless |= {wanted[name] for name in found.nameless & wanted.keys()}
        numeric |= {wanted[name] for name in found.numeric & wanted.keys()}
        read_now = found.cells([*wanted] or found.names[:1])
        rows.append(len(next(iter(read_now.values()))))
        if sum(rows) > ROWS:
            raise Problem(f"there are more than {ROWS:,} rows", file.where, "use fewer", DATA)
        for name, full in wanted.items():
            _in_header(name, read_now[name], found, file, form)
            cells.setdefault(full, [*rows[:-1]]).append(read_now[name])  # the rows before it lack the column
        for full in cells.keys() - wanted.values():
            cells[full].append(rows[-1])
    if not form.absent:
        _check_absent(cells, files, form)
    place = np.repeat(np.arange(len(files)), rows)
    row = np.concatenate([np.arange(count) for count in rows])
    table = Table({}, row, place, tuple(files), form)
    columns = _typed(table, cells, lambda name: "text" if name in nameless else kind(name), numeric, form)
    return _named(table, columns, nameless)


def _check_absent(cells: Mapping[str, Sequence[pa.ChunkedArray | int]], files: Sequence[Member], form: Format) -> None:
    """Raises Problem for a column that some files lack, with those that have it."""
    for name, parts in cells.items():
        lacking = [file for file, part in zip(files, parts, strict=True) if isinstance(part, int)]
        if not lacking:
            continue
        having = listed([file.name for file in files if file not in lacking])
        column = name.removeprefix(form.prefix)[:NAME]
        others = f" (and {listed([file.name for file in lacking[1:]])})" if lacking[1:] else ""
        message = f"the column {column!r} is missing here{others}; the files that have it: {having}"
        drop = (
            "" if files[0] in lacking else f"leave it out with drop: {hints.yaml_list([column])}, "
        )  # it knows no such
        hint = f"add it, {drop}or write absent: missing"
        raise Problem(message, lacking[0].where, hint, DATA)


def _in_header(name: str, cells: pa.ChunkedArray, found: Sheet, file: Member, form: Format) -> None:
    """Raises Problem for a cell that is none of the values that the header of the file allows."""
    if (allowed := found.nominal.get(name)) is None:
        return
    for text in cells.unique().to_pylist():
        if text.strip() not in form.missing | allowed:
            row = next(i for i, cell in enumerate(cells.to_pylist()) if cell == text)
            where = f"{file.where}:{next(islice(found.lines(), row, None))}:{name[:NAME]}"
            some = ", ".join(sorted(allowed, key=natural)[:8])
            message = f"{text.strip()[:NAME]!r} is not one of the values in the header"
            raise Problem(message, where, f"the header has: {some}", DATA)


def _typed(
    table: Table,
    cells: dict[str, list[pa.ChunkedArray | int]],
    kind: Callable[[str], Kind],
    numeric: set[str],
    form: Format,
) -> dict[str, Column]:
    """The columns. Raises Problem for those that look like numbers or dates of another format, all in one hint."""
    import pyarrow as pa

    columns: dict[str, Column] = {}
    odd: dict[str, Odd] = {}
    for name in list(cells):
        parts = _filled(cells.pop(name))
        types = {part.type for part in parts}
        parts = parts if len(types) == 1 else [part.cast(pa.string()) for part in parts]
        joined = pa.chunked_array([chunk for part in parts for chunk in part.chunks], parts[0].type)
        found = typed(
            Cells(name, joined, kind(name), name in numeric, lambda row, name=name: table.place(row, name)), form
        )
        if isinstance(found, Odd):
            odd[name] = found
        else:
            columns[name] = found
    if odd:
        raise _other_format(odd, form)
    return columns


def _filled(parts: Sequence[pa.ChunkedArray | int]) -> list[pa.ChunkedArray]:
    """The cells of a column, file by file; missing ones, of the type of the others, where a file has only rows."""
    import pyarrow as pa

    kind = next(part.type for part in parts if not isinstance(part, int))
    return [pa.chunked_array([pa.nulls(part, kind)]) if isinstance(part, int) else part for part in parts]


def _other_format(odd: dict[str, Odd], form: Format) -> Problem:
    name, first = next(iter(odd.items()))
    more = f" (and so do {len(odd) - 1:,} other columns)" if len(odd) > 1 else ""
    message = f"{first.text[:NAME]!r} and the rest of this column look like {first.what}{more}"
    this = hints.yaml_list([name])
    one_hot = f"one_hot: {this} makes each text a feature, drop: {this} leaves it out"
    if not form.options:
        return Problem(message, first.where, "write numbers like 0.5 or 1e-3", DATA)
    if not first.ways:
        return Problem(message, first.where, f"{first.advice}, or write one of these: {one_hot}", DATA)
    certain = {name: one.ways[0] for name, one in odd.items() if len(one.ways) == 1}
    marks = sorted({mark for one in odd.values() for mark in one.marks} | (form.missing - Format().missing))
    also = f" and missing_marks: {hints.yaml_list(marks)}" if any(one.marks for one in odd.values()) else ""
    if name in certain:
        return Problem(message, first.where, f"write {hints.yaml_lines(certain, form)}{also}; or {one_hot}", DATA)
    ways = [f"if {way.meaning}, write {hints.yaml_lines({name: way}, form)}{also}" for way in first.ways]
    return Problem(message, first.where, "; ".join([*ways, one_hot]), DATA)


def _named(table: Table, columns: dict[str, Column], nameless: set[str]) -> Table:
    """The table without columns that have no name, where they are empty or number the rows.

    Raises:
        Problem: Where another one has values.
    """
    numbering = []
    for full in sorted(nameless, key=natural):
        column, name = columns.pop(full), full.removeprefix(table.form.prefix)
        if column.missing.all():
            continue
        numbers = column.numbers()
        if name == "1" and numbers is not None and all(numbers - numbers[0] == table.row) and numbers[0] in (0, 1):
            numbering.append(full)
            continue
        where = table.place(int((~column.missing).argmax()), full)
        hint = f"name it in the first line, or write drop: {hints.yaml_list([full])}"
        raise Problem(f"column {name} has values but no name", where, hint, DATA)
    return table._replace(columns=columns, numbering=tuple(numbering))
