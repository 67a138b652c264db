"""From typed columns to a matrix of features: which columns, texts as one-hot columns, and what is missing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.readers.table_columns import Column, Table

_VALUES = 500_000_000  # 2 GB
_SHOWN = 6


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

    def feature(self, name: str) -> bool:
        """Any column but the target and dropped ones; what says whose a row is just if named without a pattern."""
        if name == self.target or fits(name, self.drop):
            return False
        if name in self.groups or name in self.keys:
            return name in (self.features or ())
        return self.features is None or fits(name, self.features)

    def needed(self, name: str) -> bool:
        return name in (self.target, *self.groups, *self.bins, *self.keys) or self.feature(name)

    def texts(self, name: str) -> bool:
        """Whether a column is of texts even where they look like numbers."""
        named = name in self.groups or name in self.keys or fits(name, self.one_hot)
        return named or (name == self.target and not self.number)


def fits(name: str, patterns: Iterable[str]) -> bool:
    """Whether one of the patterns names the column."""
    return any(name == one or ("*" in one and _expression(one).fullmatch(name)) for one in patterns)


def _expression(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, re.split(r"\*+", pattern))))


def complete(table: Table, choice: Choice, features: Sequence[str], missing: str) -> Table:
    """The rows that are used: all of them, or with missing "drop" those where nothing is missing.

    Raises Problem where the target, or whose a row is, is missing; with "refuse" where anything is; where a column is
    empty; where "drop" would leave no row of a file or group.
    """
    needed = dict.fromkeys((choice.target, *choice.groups, *choice.bins))
    gone = {name: table.columns[name].missing for name in (*needed, *(f for f in features if f not in needed))}
    for name, cells in gone.items():
        if cells.all():
            raise Problem("this column is empty", table.place(0, name), "drop it", DATA)
        if missing != "drop" and name in needed and cells.any():
            hint = f"each row needs its {name[:NAME]}: fill it in, or leave such rows out with missing: drop"
            raise Problem("the cell is missing", table.place(cells.argmax(), name), hint, DATA)
    if missing == "drop":
        return _dropped(table, choice, np.any(list(gone.values()), axis=0))
    count = {name: int(cells.sum()) for name, cells in gone.items()}
    if missing == "refuse" and any(count.values()):
        worst = sorted(filter(count.__getitem__, count), key=lambda name: -count[name])
        told = ", ".join(f"{name[:NAME]} {count[name]:,}" for name in worst[:_SHOWN]) + " ..." * (len(worst) > _SHOWN)
        hint = "write missing: mean (of training rows), indicator (says where, too), or drop (leaves the rows out)"
        where = table.place(gone[worst[0]].argmax(), worst[0])
        cells = f"{total:,} cells are" if (total := sum(count.values())) > 1 else "1 cell is"
        raise Problem(f"{cells} missing ({told})", where, hint, DATA)
    return table


def _dropped(table: Table, choice: Choice, gone: np.ndarray) -> Table:
    kept = table.take(np.flatnonzero(~gone))
    lost = {file.name: file.where for i, file in enumerate(table.files) if not (kept.file == i).any()}
    for name in choice.groups:
        before, after = table.columns[name], {*kept.columns[name].texts}
        for code, text in enumerate(before.texts):
            if text not in after:
                lost[text] = table.place((before.code == code).argmax(), name)
    for name, where in lost.items():
        hint = "drop the columns that are empty there, or write missing: mean"
        raise Problem(f"missing: drop leaves no row of {name[:NAME]!r}", where, hint, DATA)
    return kept


def matrix(columns: Sequence[Column], one_hot: Sequence[str], indicator: bool) -> np.ndarray:
    """x (n, D) float32, NaN where a cell is missing: a column for numbers, for texts one a value.

    indicator: after them one for each column with missing cells, 1 where it is missing. Raises Problem where there are
    no columns, or x would take more than 2 GB.
    """
    if not columns:
        raise Problem("no column is a feature", "data", "drop less, or name some in data.features", CONFIG)
    numbers = [None if fits(column.name, one_hot) else column.numbers() for column in columns]
    spread = [len(c.texts) if number is None else 1 for c, number in zip(columns, numbers, strict=True)]
    flagged = [column.missing for column in columns if indicator and column.missing.any()]
    rows, width = len(columns[0].missing), sum(spread) + len(flagged)
    if rows * width > _VALUES:
        widest = columns[int(np.argmax(spread))].name[:NAME]
        message = f"{rows:,} rows of {width:,} features are {rows * width:,} numbers; at most {_VALUES:,} are made"
        hint = f"drop columns or use fewer rows; {widest!r} alone makes {max(spread):,} features"
        raise Problem(message, "data", hint, CONFIG)
    x, at = np.zeros((rows, width), dtype=np.float32), 0
    for column, number, size in zip(columns, numbers, spread, strict=True):
        if number is not None:
            x[:, at] = number
        else:
            x[np.arange(rows), at + np.maximum(column.code, 0)] = 1
            x[column.missing, at : at + size] = np.nan
        at += size
    for gap in flagged:
        x[:, at] = gap
        at += 1
    return x
