"""From typed columns to a matrix of features: which columns, texts as one-hot columns, and what is missing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.preprocessing import Column as Spec
from metadist_cli.data.readers.table_cells import Column, Kind
from metadist_cli.data.readers.table_columns import Table
from metadist_cli.data.readers.table_format import Format, fits
from metadist_cli.data.readers.table_hints import TOTAL
from metadist_cli.data.types import Feature

_VALUES = 500_000_000  # 2 GB
_SHOWN = 6
_FEW, _LOOK = 3, 10_000  # values shown of a feature, and rows searched for them


class Choice(NamedTuple):
    """What each column is for. features, drop and one_hot are patterns, in which * stands for anything."""

    target: str
    number: bool  # whether the target is to be a number
    groups: Sequence[str]
    bins: Sequence[str]
    keys: Sequence[str]  # by which tables are joined
    features: Sequence[str] | None
    drop: Sequence[str]
    one_hot: Sequence[str]
    where: Sequence[str] = ()  # the columns by which rows are chosen

    def feature(self, name: str) -> bool:
        """Any column but the target and dropped ones; what says whose a row is just if named without a pattern."""
        if name == self.target or fits(name, self.drop):
            return False
        if name in self.groups or name in self.keys:
            return name in (self.features or ())
        return self.features is None or fits(name, self.features)

    def needed(self, name: str) -> bool:
        return name in (self.target, *self.groups, *self.bins, *self.keys, *self.where) or self.feature(name)

    def kind(self, name: str) -> Kind:
        """What a column must hold: texts even where they look like numbers, numbers, or (None) either."""
        named = name in self.groups or name in self.keys or fits(name, self.one_hot)
        if named or (name == self.target and not self.number):
            return "text"
        if name == self.target or name in self.bins:
            return "number"
        return "text" if name in self.where and not self.feature(name) else None


def complete(table: Table, choice: Choice, features: Sequence[str], missing: str) -> Table:
    """The rows that are used: all of them, or with missing "drop" those where nothing is missing.

    Raises Problem where the target, or whose a row is, is missing; with "refuse" where anything is; where a column is
    empty; where "drop" would leave no row of a file or group.
    """
    needed = dict.fromkeys((choice.target, *choice.groups, *choice.bins))
    gone = {name: table.columns[name].missing for name in (*needed, *(f for f in features if f not in needed))}
    _check_totals(table, np.any(list(gone.values()), axis=0))
    for name, cells in gone.items():
        if cells.all():
            raise Problem("this column is empty", table.place(0, name), "drop it", DATA)
        if missing != "drop" and name in needed and cells.any():
            hint = f"each row needs its {name[:NAME]}: fill it in, or leave such rows out with missing: drop"
            raise Problem("the cell is missing", table.place(int(cells.argmax()), name), hint, DATA)
    if missing == "drop":
        return _dropped(table, choice, gone)
    count = {name: int(cells.sum()) for name, cells in gone.items()}
    if missing == "refuse" and any(count.values()):
        worst = sorted(filter(count.__getitem__, count), key=lambda name: -count[name])
        told = ", ".join(f"{name[:NAME]} {count[name]:,}" for name in worst[:_SHOWN]) + " ..." * (len(worst) > _SHOWN)
        hint = "write missing: mean (of training rows), indicator (says where, too), or drop (leaves the rows out)"
        where = table.place(int(gone[worst[0]].argmax()), worst[0])
        cells = f"{total:,} cells are" if (total := sum(count.values())) > 1 else "1 cell is"
        raise Problem(f"{cells} missing ({told})", where, hint, DATA)
    return table


def _check_totals(table: Table, gone: np.ndarray) -> None:
    """Raises Problem where the last row of a file has an empty cell, and a word such as Total that no other row has."""
    for row in np.append(np.flatnonzero(np.diff(table.file)), len(table.file) - 1):
        for name, column in table.columns.items() if gone[row] else ():
            code = -1 if column.number is not None else int(column.code[row])
            if code >= 0 and TOTAL.fullmatch(column.texts[code]) and (column.code == code).sum() == 1:
                message = f"{column.texts[code]!r} and empty cells: this row looks like a total of the others"
                raise Problem(message, table.place(int(row), name), "remove it from the file", DATA)


def _dropped(table: Table, choice: Choice, missing: Mapping[str, np.ndarray]) -> Table:
    kept = table.take(np.flatnonzero(~np.any(list(missing.values()), axis=0)))
    hint = "drop the columns that are empty there, or write missing: mean"
    lost = {file.name: (file.where, hint) for i, file in enumerate(table.files) if not (kept.file == i).any()}
    for name in choice.groups:
        before, after = table.columns[name], {*kept.columns[name].texts}
        for code, text in enumerate(before.texts):
            if text not in after:
                rows = before.code == code
                bare = [one for one in (choice.target, *choice.groups, *choice.bins) if missing[one][rows].all()]
                remove = f"remove its rows, where {bare[0][:NAME]} is always missing" if bare else hint
                lost[text] = table.place(int(rows.argmax()), name), remove
    for name, (where, hint) in lost.items():
        raise Problem(f"missing: drop leaves no row of {name[:NAME]!r}", where, hint, DATA)
    return kept


def columns_of(columns: Sequence[Column], one_hot: Sequence[str], indicator: bool, form: Format) -> list[Spec]:
    """What the model sees of a data set's columns, and how they are written.

    Args:
        columns: Numbers become one feature, texts one for each, dates in parts one for each part.
        one_hot: Patterns for columns of numbers that are codes.
        indicator: Whether each column that has missing cells gets a feature that says so.
        form: How the data set's files are written.

    Raises:
        Problem: CONFIG for no columns at all, and where the features would take more than 2 GB.
    """
    if not columns:
        raise Problem("no column is a feature", "data", "drop less, or name some in data.features", CONFIG)
    found = [_spec(column, one_hot, indicator, form) for column in columns]
    rows, width = len(columns[0].missing), sum(spec.size + spec.indicator for spec in found)
    if rows * width > _VALUES:
        widest = max(found, key=lambda spec: spec.size)
        message = f"{rows:,} rows of {width:,} features are {rows * width:,} numbers; the limit is {_VALUES:,}"
        hint = f"drop columns or use fewer rows; {widest.name[:NAME]!r} alone makes {widest.size:,} features"
        raise Problem(message, "data", hint, CONFIG)
    return found


def _spec(column: Column, one_hot: Sequence[str], indicator: bool, form: Format) -> Spec:
    flag = indicator and bool(column.missing.any())
    number = None if fits(column.name, one_hot) else column.numbers()
    if number is None:
        return Spec(name=column.name, kind="category", values=column.texts, indicator=flag)
    style = form.style(column.name)
    marks: dict[str, Any] = {"decimal": style.decimal, "thousands": style.thousands, "symbols": style.symbols}
    if not column.date:
        return Spec(name=column.name, indicator=flag, **marks)
    parts = tuple(part for part, values in _parts(number).items() if part != "hour" or np.nan_to_num(values).any())
    written = form.option("date_format", column.name)
    parts = parts if column.date == "parts" else ()
    return Spec(name=column.name, kind="date", dates=column.date, parts=parts, indicator=flag, date_format=written)  # pyright: ignore[reportArgumentType]


def matrix(columns: Mapping[str, Column], specs: Sequence[Spec], place: Callable[[int, str], str]) -> np.ndarray:
    """What the model sees of rows: x (n, D) float32, NaN where a cell is missing; indicators come last.

    Args:
        columns: By name, n cells each.
        specs: As `columns_of` found them in the data set.
        place: (row, column) -> where it is, for messages.

    Raises:
        Problem: DATA for a text that is not one of the column's in the data set.
    """
    spread, flagged = [spec.size for spec in specs], [spec.name for spec in specs if spec.indicator]
    rows = len(columns[specs[0].name].missing)
    x, at = np.zeros((rows, sum(spread) + len(flagged)), dtype=np.float32), 0
    for spec, size in zip(specs, spread, strict=True):
        column = columns[spec.name]
        if spec.kind == "category":
            x[np.arange(rows), at + np.maximum(_codes(column, spec, place), 0)] = 1
            x[column.missing, at : at + size] = np.nan
        elif spec.dates == "parts":
            x[:, at : at + size] = np.stack([_parts(_numbers(column))[part] for part in spec.parts], axis=1)
        else:
            x[:, at] = _numbers(column)
        at += size
    for name in flagged:
        x[:, at] = columns[name].missing
        at += 1
    return x


def _numbers(column: Column) -> np.ndarray:
    found = column.numbers()
    assert found is not None, "columns of numbers and dates are read as such"
    return found


def _codes(column: Column, spec: Spec, place: Callable[[int, str], str]) -> np.ndarray:
    """(n,) places of the cells among the column's values, -1 where missing."""
    if column.texts == spec.values:
        return column.code
    known = {text: i for i, text in enumerate(spec.values)}
    for code, text in enumerate(column.texts):
        if text not in known:
            where = place(int((column.code == code).argmax()), spec.name)
            message = f"{text[:NAME]!r} is not one of this column's values in the data set"
            raise Problem(message, where, nearest(text[:NAME], [value[:NAME] for value in spec.values]), DATA)
    return np.array([*(known[text] for text in column.texts), -1])[column.code]


def describe(table: Table, before: Table, specs: Sequence[Spec]) -> tuple[Feature, ...]:
    """The features of `matrix` by name, then those that are left out. before: the table with all rows."""
    found = []
    for spec in specs:
        column = table.columns[spec.name]
        share = float(before.columns[spec.name].missing.mean())
        unit = spec.dates or " ".join(column.symbols)
        found.append(Feature(spec.name, spec.kind, spec.size, unit, share, _first(column)))
    found += [Feature(f"{spec.name} is missing", "indicator", 1, "", 0.0, ()) for spec in specs if spec.indicator]
    return (*found, *(Feature(name, "row number", 0, "", 0.0, ()) for name in before.numbering))


def _parts(days: np.ndarray) -> dict[str, np.ndarray]:
    """Year, month (from 1), day (from 1), weekday (from Monday, 0) and hour; NaN stays."""
    gone = np.isnan(days)
    second = np.round(np.where(gone, 0, days) * 86_400).astype("datetime64[s]")
    day, month = second.astype("datetime64[D]"), second.astype("datetime64[M]")
    parts = {
        "year": second.astype("datetime64[Y]").astype(np.int64) + 1970,
        "month": month.astype(np.int64) % 12 + 1,
        "day": (day - month).astype(np.int64) + 1,
        "weekday": (day.astype(np.int64) + 3) % 7,  # 1970 began on a Thursday
    }
    parts |= {"hour": (second - day).astype(np.float64) / 3600}
    return {name: np.where(gone, np.nan, values) for name, values in parts.items()}


def _first(column: Column) -> tuple[str, ...]:
    """Its first few different values."""
    if column.number is None:
        code = column.code[:_LOOK][column.code[:_LOOK] >= 0]
        return tuple(column.texts[i] for i in dict.fromkeys(code.tolist()))[:_FEW]
    few = list(dict.fromkeys(column.number[:_LOOK][~np.isnan(column.number[:_LOOK])].tolist()))[:_FEW]
    if column.date:
        seconds = 3600 if column.date == "hours" else 86_400
        return tuple(str(np.datetime64(round(value * seconds), "s")).removesuffix("T00:00:00") for value in few)
    return tuple(f"{value:.6g}" for value in few)
