"""Columns of new rows, by name and written as the data set's are: of a file, or of a mapping in memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, natural, nearest
from metadist_cli.data.preprocessing import Column as Spec
from metadist_cli.data.preprocessing import Preprocessing
from metadist_cli.data.readers.members import Member, members
from metadist_cli.data.readers.table_cells import Cells, Column, Kind, Odd
from metadist_cli.data.readers.table_columns import Table, read
from metadist_cli.data.readers.table_features import matrix
from metadist_cli.data.readers.table_format import MISSING, Format
from metadist_cli.data.readers.table_open import sheet
from metadist_cli.data.readers.table_parquet import simple
from metadist_cli.data.readers.table_types import typed

_SHOWN = 12


class Opened(NamedTuple):
    """A table whose header is known. names: of its columns, but for those that have none in the file."""

    file: Member
    form: Format
    names: list[str]

    @property
    def head(self) -> str:
        """Where the names are, for messages."""
        return f"{self.file.where}:1"


def open_new(path: Path, by: Preprocessing) -> Opened:
    """A table of new rows in any file that a data set may be: UTF-8, or the data set's encoding. Raises Problem."""
    [file] = members(path, "", "table")
    form = _form(by)
    try:
        found = sheet(file, form)
    except Problem:
        if by.encoding == "utf-8":
            raise
        form = form._replace(encoding=by.encoding)
        found = sheet(file, form)
    if found.nameless:  # which just number the rows, or are refused
        read([file], form, found.nameless.__contains__, lambda _: "text")
    return Opened(file, form, [name for name in found.names if name not in found.nameless])


def _form(by: Preprocessing) -> Format:
    """How new rows are written: as the data set's."""
    options = ("decimal", "thousands", "symbols", "dates", "date_format")
    written: dict[str, Any] = {option: {c.name: getattr(c, option) for c in by.columns} for option in options}
    return Format(**written, missing=MISSING | {*by.marks}, options=False)


def feature_names(names: Sequence[str], by: Preprocessing, others: Collection[str], where: str) -> list[str]:
    """The columns that are features, in the order of the data set.

    Args:
        names: Of all columns.
        by: The data set's; where its rows have no named parts, columns are features in their order, or by number where
            they are called f0, f1, ...
        others: Columns that are not features, besides those that the data set has, too.
        where: Where the names are, for messages.

    Raises:
        Problem: DATA for a column that the data set does not have, or one that is missing.
    """
    if not by.columns:
        return _by_place(names, by, others, where)
    wanted = [column.name for column in by.columns]
    known = {*wanted, *by.others, *others}
    for name in names:
        if name not in known:
            message = f"the data set has no column {name[:NAME]!r}"
            raise Problem(message, where, nearest(name[:NAME], [one[:NAME] for one in wanted]), DATA)
    for name in wanted:
        if name not in names:
            some = ", ".join(one[:NAME] for one in wanted[:_SHOWN]) + " ..." * (len(wanted) > _SHOWN)
            raise Problem(f"the column {name[:NAME]!r} is missing", where, f"add it; the features are: {some}", DATA)
    return wanted


def _by_place(names: Sequence[str], by: Preprocessing, others: Collection[str], where: str) -> list[str]:
    features = [name for name in names if name not in others]
    count = int(np.prod(by.shape))
    if len(features) != count:
        rest = f" except {', '.join(sorted(others, key=natural))}" if others else ""
        message = f"a row of this data set has {count:,} features, this table has {len(features):,}"
        raise Problem(message, where, f"every column{rest} is a feature; see `metadist help tasks`", DATA)
    numbered = [f"f{i}" for i in range(count)]
    return numbered if set(numbered) == set(features) else features


def read_new(opened: Opened, by: Preprocessing, features: Sequence[str], others: Mapping[str, Kind]) -> Table:
    """The rows of a table with the columns that are needed. others: what further columns must hold. Raises Problem."""
    texts = {column.name for column in by.columns if _kind(column) == "text"}

    def kind(name: str) -> Kind:
        return others.get(name, "text" if name in texts else "number")

    return read([opened.file], opened.form, {*features, *others}.__contains__, kind)


def _kind(column: Spec) -> Kind:
    return "text" if column.kind == "category" else "number"


def features_of(
    columns: Mapping[str, Column], by: Preprocessing, features: Sequence[str], place: Callable[[int, str], str]
) -> np.ndarray:
    """(n, *shape) float32, NaN where a cell is missing that the data set fills in.

    Args:
        columns: By name, n cells each.
        by: The data set's.
        features: The columns that are features, as `feature_names` gives them.
        place: (row, column) -> where it is, for messages.

    Raises:
        Problem: DATA for a missing cell that the data set would have refused, or a text that it does not have.
    """
    for name in features:
        if by.missing == "refuse" and (gone := columns[name].missing).any():
            hint = "fill it in, or leave the row out: the data set has no gaps" if by.columns else "write it like 0.5"
            message = "the cell is missing" if by.columns else "the number is missing"
            raise Problem(message, place(int(gone.argmax()), name), hint, DATA)
    if by.columns:
        return matrix(columns, by.columns, place)
    numbers = [columns[name].number for name in features]
    return np.stack([n for n in numbers if n is not None], axis=1).astype(np.float32).reshape(-1, *by.shape)


def features_in_memory(given: Any, by: Preprocessing) -> np.ndarray:
    """The same of a mapping of columns, such as a data frame: lists or arrays of numbers, texts or dates."""
    if not by.columns:
        shape = f"(n, {', '.join(map(str, by.shape))})"
        raise Problem("rows of this data set have no columns", "x", f"pass an array of the shape {shape}", DATA)
    form = _form(by)
    names = feature_names(list(map(str, given.keys())), by, (), "x")
    found = {spec.name: _column(given[spec.name], spec, form) for spec in by.columns}
    sizes = {name: len(column.missing) for name, column in found.items()}
    if len({*sizes.values()}) > 1:
        some = ", ".join(f"{name[:NAME]} {size:,}" for name, size in list(sizes.items())[:_SHOWN])
        raise Problem(f"the columns have unlike lengths: {some}", "x", "pass a value of each for every row", DATA)
    return features_of(found, by, names, _place)


def _place(row: int, column: str) -> str:
    return f"x[{column[:NAME]!r}][{row}]"


def _column(values: Any, spec: Spec, form: Format) -> Column:
    import pyarrow as pa

    try:
        cells = simple(pa.chunked_array([pa.array(np.asarray(values), from_pandas=True)]))
    except (pa.ArrowException, TypeError, ValueError):
        cells = None
    if cells is None:
        hint = "pass a list of numbers, of texts, or of dates"
        raise Problem("the column mixes types, or has one that is not read", _place(0, spec.name), hint, DATA)
    column = typed(Cells(spec.name, cells, _kind(spec), False, lambda row: _place(row, spec.name)), form)
    if isinstance(column, Odd):
        raise Problem(f"{column.text[:NAME]!r} is not a number", column.where, "write it like 0.5", DATA)
    return column
