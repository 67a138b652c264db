"""What the rows of a table are: the class or number to predict, and the groups to make nodes of."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest, unfit
from metadist_cli.data.readers.table_columns import Table
from metadist_cli.data.types import Group

_CLASSES = 10_000
_MEASURE = 20  # with more different numbers a target is rather a measure than classes


def numbers(table: Table, name: str) -> np.ndarray:
    """(n,) float64. Raises Problem where the column is of texts."""
    found = table.columns[name].numbers()
    if found is None:
        message = f"the column {name[:NAME]!r} holds texts, but numbers are needed"
        raise Problem(message, table.place(0, name), "name another column", DATA)
    return found


def measure(table: Table, name: str, unit: float) -> np.ndarray:
    """The target of a regression, (n, 1) float32 in this unit. Raises Problem where it is of texts, or too large."""
    with np.errstate(over="ignore"):
        target = (numbers(table, name) / unit).astype(np.float32)[:, None]
    if not np.isfinite(target).all():
        raise Problem("the target is too large in this unit", "data.unit", "use a larger one", CONFIG)
    return target


def by_limit(table: Table, name: str, limit: float, names: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(class of each row, names): at most the limit, and above it. Raises Problem where all rows are of one."""
    label = (numbers(table, name) > limit).astype(np.int64)
    plain = (f"at most {limit:.15g}", f"above {limit:.15g}")
    if label.min() == label.max():
        hint = "choose another data.above, or leave it out"
        raise Problem(f"all rows are {plain[label[0]]}", table.place(0, name), hint, DATA)
    names = plain if names is None else _fit(tuple(names), table, name)
    if len(set(names)) != 2:
        raise Problem("with `above` there are two classes", "data.classes", "name both", CONFIG)
    return label, names


def by_value(table: Table, name: str, wanted: Sequence[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """(class of each row, names): those that are wanted in their order, else all in natural order.

    Raises Problem where a row is of none of the former; of the latter, where there is one, or one has a single row.
    """
    column = table.columns[name]
    if wanted is not None:
        return _wanted(table, name, wanted)
    rows, texts = np.bincount(column.code), column.texts
    some = ", ".join(text[:NAME] for text in texts[:6]) + " ..." * (len(texts) > 6)
    if len(texts) < 2:
        raise Problem(f"all rows belong to one class, {some}", table.place(0, name), "name another target", DATA)
    poorest = table.place((column.code == rows.argmin()).argmax(), name)
    if (column.numbers() is not None and len(texts) > _MEASURE and rows.min() < 2) or len(texts) > _CLASSES:
        message = f"the target has {len(texts):,} values ({some})"
        hint = "write kind: regression if it is a measure, or set data.above; else list all in data.classes"
        raise Problem(message, poorest, hint, DATA)
    alike: dict[str, str] = {}
    for code, text in enumerate(texts):
        if (first := alike.setdefault(text.casefold(), text)) != text:
            message = f"the classes {first[:NAME]!r} and {text[:NAME]!r} differ in case alone"
            hint = "write them alike, or, if they are different classes, list all in data.classes"
            raise Problem(message, table.place(int((column.code == code).argmax()), name), hint, DATA)
    if rows.min() < 2:
        message = f"the class {texts[rows.argmin()][:NAME]!r} has one row, which cannot be learnt from and tested on"
        raise Problem(
            message, poorest, "correct it, or leave the row out; if it is right, list all classes in data.classes", DATA
        )
    return column.code, _fit(texts, table, name)


def _wanted(table: Table, name: str, wanted: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    column, place = table.columns[name], {text: i for i, text in enumerate(wanted)}
    if not 2 <= len(place) == len(wanted):
        raise Problem(
            "data.classes must name two or more classes, each once", "data.classes", "correct the list", CONFIG
        )
    for code, text in enumerate(column.texts):
        if text not in place:
            where = table.place((column.code == code).argmax(), name)
            raise Problem(f"{text[:NAME]!r} is none of data.classes", where, nearest(text[:NAME], wanted), DATA)
    label = np.array([place[text] for text in column.texts])[column.code]
    return label, _fit(tuple(wanted), table, name)


def make_groups(table: Table, names: Sequence[str], bins: Mapping[str, int | Sequence[float]]) -> dict[str, Group]:
    """The groups of each of these columns, and of bins of others."""
    groups = {}
    for name in names:
        column = table.columns[name]
        groups[name] = Group(column.code, _fit(column.texts, table, name))
    return groups | {name: cut(numbers(table, name), where) for name, where in bins.items()}


def parts(table: Table, name: str) -> np.ndarray:
    """(n,) what the column of a split says: true or false, a digit, or a word in small letters."""
    column = table.columns[name]
    texts = np.array([text.lower() for text in column.texts])
    if set(texts) <= {"true", "false"}:
        return (texts == "true")[column.code]
    return (texts.astype(np.int64) if all(re.fullmatch("[0-9]", text) for text in texts) else texts)[column.code]


def cut(values: np.ndarray, where: int | Sequence[float]) -> Group:
    """Values in bins by size: a number of bins with about as many rows each, or cut at these places.

    Equal values share a bin, and a cut itself belongs to the bin above it; a bin without rows is none.
    """
    if isinstance(where, int):
        ordered = np.sort(values)
        cuts = ordered[np.arange(1, where) * len(values) // where]
    else:
        cuts = np.sort(where)
    code = np.unique(np.searchsorted(cuts, values, side="right"), return_inverse=True)[1]
    spans = [values[code == i] for i in range(code.max() + 1)]
    ends = [[np.format_float_positional(end, trim="-") for end in (span.min(), span.max())] for span in spans]
    return Group(code, tuple(low if low == high else f"{low} to {high}" for low, high in ends))


def _fit(texts: tuple[str, ...], table: Table, name: str) -> tuple[str, ...]:
    """The texts as names. Raises Problem where one cannot stand in a report."""
    for text in texts:
        if reason := unfit(text):
            raise Problem(f"a name in this column {reason}", table.place(0, name), "give it another name", DATA)
    return texts
