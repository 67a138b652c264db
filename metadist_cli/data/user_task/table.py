"""A task as a table: a row per example, columns `part` (support or query), `label` or `target`, and the features."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.members import members
from metadist_cli.data.readers.table_columns import Table, read, row_lines
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_open import sheet
from metadist_cli.data.user_task.types import BYTES, PARTS, ROWS, Part, TaskFormat


class _Layout(NamedTuple):
    """The names of the columns, beside `part`."""

    labels: list[str]  # ["label"], or the targets
    features: list[str]


def read_table(path: Path, wanted: TaskFormat) -> tuple[Part, Part]:
    """(support, query) of any file that the data set `table` reads, features in the data set's units.

    Query rows may all leave their label empty. Raises Problem(DATA) with file:line:column.
    """
    [file] = members(path, "", "task")
    form = Format(options=False)
    layout = _layout(list(sheet(file, form).names), wanted, path)
    texts = {"part"} if wanted.kind == "regression" else {"part", *layout.labels}
    table = read([file], form, lambda name: True, lambda name: "text" if name in texts else "number")
    rows = len(table.row)
    if rows > ROWS or rows * len(layout.features) * 4 > BYTES:
        message = f"{rows:,} rows of {len(layout.features):,} features are too many for a task"
        raise Problem(message, str(path), f"use at most {ROWS:,} rows and {BYTES:,} bytes, 4 per feature", DATA)
    support, query = (_part(table, some, layout, wanted) for some in _rows_by_part(table, path))
    if support.y is None:
        raise Problem("the label is empty", support.at(0), "give every support row a label", DATA)
    return support, query


def _layout(names: list[str], wanted: TaskFormat, path: Path) -> _Layout:
    targets = (wanted.outputs or 0) if wanted.kind == "regression" else 0
    labels = [f"target_{i}" for i in range(targets)] if targets else ["label"]
    if targets == 1 and "target" in names:
        labels = ["target"]
    for name in ("part", *labels):
        if name not in names:
            hint = f"the first line must name the columns; {nearest(name, [n[:NAME] for n in names])}"
            raise Problem(f"the column {name!r} is missing", f"{path}:1", hint, DATA)
    known = {"part", *labels}
    features = [name for name in names if name not in known]
    count = int(np.prod(wanted.shape))
    if len(features) != count:
        hint = f"every column except {', '.join(sorted(known))} is a feature; see `metadist help tasks`"
        message = f"a row of this data set has {count:,} features, this table has {len(features):,}"
        raise Problem(message, f"{path}:1", hint, DATA)
    numbered = [f"f{i}" for i in range(count)]
    ordered = (list(known) for known in (wanted.names, numbered) if set(known) == set(features))
    return _Layout(labels, next(ordered, features))  # these names give the order wherever the columns are


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
    x = _numbers(part, layout.features).reshape(len(rows), *wanted.shape)
    names = [f"line {line}" for line in row_lines(part)]
    if empty.all():
        return Part(x, None, names, at)
    if wanted.kind == "regression":
        return Part(x, _numbers(part, layout.labels), names, at)
    label = part.columns["label"]
    return Part(x, [label.texts[code] for code in label.code], names, at)


def _numbers(part: Table, names: list[str]) -> np.ndarray:
    """(n, columns) float32."""
    out = np.empty((len(part.row), len(names)), dtype=np.float32)
    for i, name in enumerate(names):
        column = part.columns[name]
        if column.missing.any():
            where = part.place(int(column.missing.argmax()), name)
            raise Problem("the number is missing", where, "write it like 0.5 or 1e-3", DATA)
        out[:, i] = column.number
    return out
