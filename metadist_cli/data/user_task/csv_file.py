"""A task as a table: a row an example, columns `part` (support or query), `label` or `target`, and the features."""

from __future__ import annotations

import csv
import io
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, ROWS, Part, nearest

_BYTES = 64 << 20
_SPARE = 200  # commas of a line beyond its columns: those in quoted text


class _Columns(NamedTuple):
    """Which column holds what."""

    names: list[str]
    part: int
    label: list[int]  # one, or the targets
    features: list[int]


class _Rows(NamedTuple):
    """Rows of one part as they are read."""

    x: array[float]
    targets: array[float]
    labels: list[str]
    lines: array[int]


def read_csv(path: Path, kind: str, shape: tuple[int, ...], outputs: int) -> tuple[Part, Part]:
    """(support, query) of a table with a header line, features in the data set's units.

    Query rows may all leave their label empty. Raises Problem(DATA) with file:line:column.
    """
    try:
        text = files.read(os.path.realpath(path), _BYTES, "task").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Problem("the table is not UTF-8 text", str(path), "save it as CSV with UTF-8", DATA) from error
    features, targets = int(np.prod(shape)), outputs if kind == "regression" else 0
    reader = csv.reader(_lines(io.StringIO(text, newline=""), path, features + targets + _SPARE), strict=True)
    parts = {name: _Rows(array("f"), array("f"), [], array("L")) for name in ("support", "query")}
    try:
        columns = _columns([name.strip() for name in next(reader, [])], features, targets, path)
        for row in reader:
            if row:
                _take(row, columns, parts, f"{path}:{reader.line_num}", reader.line_num, targets)
    except csv.Error as error:
        hint = "are quotation marks where they should be?"
        raise Problem(f"this is no CSV: {error}", f"{path}:{reader.line_num}", hint, DATA) from error
    for name, rows in parts.items():
        if not rows.lines:
            hint = f"write {name} into the column part of some"
            raise Problem(f"there are no {name} rows", str(path), hint, DATA)
    support, query = (_part(rows, columns, shape, targets, path) for rows in parts.values())
    return support, query


def _lines(text: Iterable[str], where: object, commas: int) -> Iterator[str]:
    for number, line in enumerate(text, 1):
        if line.count(",") > commas:
            message = f"this line has {line.count(',') + 1:,} columns, far more than a row of this data set"
            raise Problem(message, f"{where}:{number}", "is this the right file?", DATA)
        if line.count('"') % 2:
            hint = 'close it; within quotes write ""'
            raise Problem("a quotation mark is open at the end of this line", f"{where}:{number}", hint, DATA)
        yield line


def _columns(names: list[str], features: int, targets: int, path: Path) -> _Columns:
    if len(names) == 1 and names[0].count(";") > 1:
        raise Problem("the columns are parted by semicolons", f"{path}:1", "save it with commas", DATA)
    place = {name: i for i, name in enumerate(names)}
    for i, name in enumerate(names):
        if place[name] != i:
            raise Problem(f"there are two columns {name[:NAME]!r}", f"{path}:1", "rename one of them", DATA)
    labels = [f"target_{i}" for i in range(targets)] if targets else ["label"]
    if targets == 1 and "target" in names:
        labels = ["target"]
    for name in ("part", *labels):
        if name not in names:
            hint = f"the first line must name the columns; {nearest(name, [n[:NAME] for n in names])}"
            raise Problem(f"the column {name!r} is missing", f"{path}:1", hint, DATA)
    known = {"part", *labels}
    rest = [name for name in names if name not in known]
    if len(rest) != features:
        hint = f"besides {', '.join(sorted(known))} every column is a feature"
        message = f"there are {len(rest):,} columns of features, a row of this data set has {features:,}"
        raise Problem(message, f"{path}:1", hint, DATA)
    numbered = [f"f{i}" for i in range(features)]
    ordered = numbered if set(rest) == set(numbered) else rest  # f0, f1 mean an order wherever they stand
    return _Columns(names, place["part"], [place[name] for name in labels], [place[name] for name in ordered])


def _take(row: list[str], columns: _Columns, parts: dict[str, _Rows], where: str, line: int, targets: int) -> None:
    """Append one row of the table to its part."""
    if len(row) != len(columns.names):
        message = f"this row has {len(row):,} columns, the header has {len(columns.names):,}"
        raise Problem(message, where, "add or remove some, or quote text with commas", DATA)
    name = row[columns.part].strip()
    if name not in parts:
        raise Problem(f"{name[:NAME]!r} is no part", f"{where}:part", nearest(name[:NAME], parts), DATA)
    rows = parts[name]
    label = [row[i].strip() for i in columns.label]
    first = f"{where}:{columns.names[columns.label[0]]}"
    if not any(label) and name == "support":
        raise Problem("the label is empty", first, "every support row needs one", DATA)
    if rows.lines and any(label) != bool(rows.labels or rows.targets):
        raise Problem("some query rows have a label, others none", first, "fill in all of them, or none", DATA)
    if sum(len(r.lines) for r in parts.values()) >= ROWS:
        raise Problem(f"there are more than {ROWS:,} rows", where, "use fewer", DATA)
    rows.lines.append(line)
    _extend(rows.x, row, columns.features, columns.names, where)
    if targets and any(label):
        _extend(rows.targets, row, columns.label, columns.names, where)
    elif any(label):
        rows.labels.append(label[0])


def _extend(out: array[float], row: list[str], places: Sequence[int], names: list[str], where: str) -> None:
    cells = [row[i] for i in places]
    try:
        if "_" not in "".join(cells):  # Python reads 1_000
            return out.extend(map(float, cells))
    except ValueError:
        pass
    for i, cell in zip(places, cells, strict=True):
        try:
            float("no" if "_" in cell else cell)
        except ValueError:
            message = f"{cell[:NAME]!r} is no number" if cell.strip() else "the number is missing"
            raise Problem(message, f"{where}:{names[i]}", "write it like 0.5 or 1e-3", DATA) from None


def _part(rows: _Rows, columns: _Columns, shape: tuple[int, ...], targets: int, path: Path) -> Part:
    def numbers(values: array[float], places: list[int]) -> np.ndarray:
        out = np.frombuffer(values, dtype=np.float32).reshape(-1, len(places))
        wrong = np.argwhere(~np.isfinite(out))
        if len(wrong):
            where = f"{path}:{rows.lines[wrong[0, 0]]}:{columns.names[places[wrong[0, 1]]]}"
            raise Problem("this is no finite number, or too large", where, "mend or leave out the row", DATA)
        return out

    label = columns.names[columns.label[0]]
    x = numbers(rows.x, columns.features).reshape(len(rows.lines), *shape)
    y = numbers(rows.targets, columns.label) if rows.targets else rows.labels or None
    names = [f"line {line}" for line in rows.lines]
    return Part(x, y, names, lambda i: f"{path}:{rows.lines[i]}:{label}")
