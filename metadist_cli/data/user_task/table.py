"""A task as a table: a row per example, columns `part` (support or query), the label or target, and the features."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.new_columns import Opened, feature_names, features_of, open_new, read_new
from metadist_cli.data.readers.table_cells import Kind
from metadist_cli.data.readers.table_columns import Table, row_lines
from metadist_cli.data.user_task.types import BYTES, PARTS, ROWS, Part, TaskFormat


class _Layout(NamedTuple):
    """The names of the columns, beside `part`."""

    labels: list[str]  # label, or the targets, or what the data set calls its target
    features: list[str]


def read_table(path: Path, wanted: TaskFormat) -> tuple[Part, Part]:
    """(support, query) of any file that the data set `table` reads, in the data set's columns and units.

    Query rows may all leave their label empty. Raises Problem(DATA) with file:line:column.
    """
    opened = open_new(path, wanted.rows)
    layout = _layout(opened, wanted)
    others: dict[str, Kind] = {"part": "text"}
    others |= {name: "number" if _numeric(layout, wanted) else "text" for name in layout.labels}
    table = read_new(opened, wanted.rows, layout.features, others)
    rows = len(table.row)
    if rows > ROWS or rows * int(np.prod(wanted.rows.shape)) * 4 > BYTES:
        message = f"{rows:,} rows of {len(layout.features):,} features are too many for a task"
        raise Problem(message, str(path), f"use at most {ROWS:,} rows and {BYTES:,} bytes, 4 per feature", DATA)
    support, query = (_part(table, some, layout, wanted) for some in _rows_by_part(table, path))
    if support.y is None:
        raise Problem("the label is empty", support.at(0), "give every support row a label", DATA)
    return support, query


def _numeric(layout: _Layout, wanted: TaskFormat) -> bool:
    """Whether the labels are numbers: of a regression, or those that a threshold splits into classes."""
    by = wanted.rows
    return wanted.regression or (by.above is not None and layout.labels == [by.target])


def _layout(opened: Opened, wanted: TaskFormat) -> _Layout:
    by, names = wanted.rows, opened.names
    targets = (wanted.outputs or 0) if wanted.regression else 0
    labels = [f"target_{i}" for i in range(targets)] if targets else ["label"]
    if targets == 1 and "target" in names:
        labels = ["target"]
    if targets <= 1 and by.target in names and labels[0] not in names:
        labels = [by.target]
    for name in ("part", *labels):
        if name not in names:
            hint = f"the first line must name the columns; {nearest(name, [n[:NAME] for n in names])}"
            raise Problem(f"the column {name!r} is missing", opened.head, hint, DATA)
    return _Layout(labels, feature_names(names, by, {"part", *labels}, opened.head))


def _rows_by_part(table: Table, path: Path) -> list[np.ndarray]:
    """The rows of the support and those of the query."""
    column = table.columns["part"]
    for code, name in [(-1, ""), *enumerate(column.texts)]:
        if name not in PARTS and (column.code == code).any():
            where = table.place(int((column.code == code).argmax()), "part")
            raise Problem(f"{name[:NAME]!r} is neither support nor query", where, nearest(name[:NAME], PARTS), DATA)
    rows = [np.flatnonzero(np.array([*column.texts, ""])[column.code] == part) for part in PARTS]
    for name, some in zip(PARTS, rows, strict=True):
        if not len(some):
            raise Problem(f"there are no {name} rows", str(path), f"write {name} into the column part of some", DATA)
    return rows


def _part(table: Table, rows: np.ndarray, layout: _Layout, wanted: TaskFormat) -> Part:
    def at(row: int) -> str:
        return table.place(int(rows[row]), layout.labels[0])

    part = table.take(rows)
    empty = np.stack([part.columns[name].missing for name in layout.labels], axis=1).all(axis=1)
    if empty.any() and not empty.all():
        hint = "give all rows of the support or the query a label, or none of the query"
        raise Problem("the label is empty, others are not", at(int(empty.argmax())), hint, DATA)
    x = features_of(part.columns, wanted.rows, layout.features, part.place)
    names = [f"line {line}" for line in row_lines(part)]
    if empty.all():
        return Part(x, None, names, at)
    if _numeric(layout, wanted):
        y = np.stack([_numbers(part, name) for name in layout.labels], axis=1)
        return Part(x, wanted.rows.from_units(y) if wanted.regression else _by_limit(y, wanted), names, at)
    label = part.columns[layout.labels[0]]
    return Part(x, [label.texts[code] for code in label.code], names, at)


def _by_limit(values: np.ndarray, wanted: TaskFormat) -> list[str]:
    """The class of each value, on either side of the data set's threshold."""
    return [wanted.rows.classes[int(value > wanted.rows.above)] for value in values[:, 0]]


def _numbers(part: Table, name: str) -> np.ndarray:
    """(n,) float64."""
    column = part.columns[name]
    if column.missing.any():
        where = part.place(int(column.missing.argmax()), name)
        raise Problem("the number is missing", where, "write it like 0.5 or 1e-3", DATA)
    assert column.number is not None
    return column.number
