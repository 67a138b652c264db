"""A table of your own: delimited text, ARFF, Parquet or .xlsx; one file, or many in a folder or zip archive.

What is missing stays so here: the partition fills it in with means of training rows alone (scaling.py), so that nothing
of the rows that are held back is in them. One-hot columns are made for every value there is, in whichever row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.groups import cluster, split_roles
from metadist_cli.data.readers.table_features import Choice, columns_of, complete, describe, matrix
from metadist_cli.data.readers.table_format import MISSING, Format
from metadist_cli.data.readers.table_join import check_names, load, open_files
from metadist_cli.data.readers.table_rows import chosen, left_out
from metadist_cli.data.readers.table_target import by_limit, by_value, make_groups, measure, parts
from metadist_cli.data.readers.table_where import parse
from metadist_cli.data.types import Dataset, Group, build

Name = str | int  # of a column: some tables call theirs 2019
Several = Annotated[list[Name], Field(min_length=1)]
Names = Name | Several
Key = Annotated[str, Field(pattern=".")]
Decimal = Literal[".", ","]
Thousands = Literal[",", ".", " ", "'"]
Symbol = Annotated[str, Field(min_length=1, max_length=20)]
Unit = Literal["days", "hours", "parts"]


def table(
    seed: int,
    *,
    path: Annotated[
        str, Field(description="file, folder or zip archive; looked for from here, then below $METADIST_DATA")
    ],
    file: Annotated[
        str | None,
        Field(description='which file of a folder or archive; with "*.csv" all, and each is a group of rows, `file`'),
    ] = None,
    columns: Annotated[
        Several | Literal["numbers"] | None,
        Field(description="names of the columns where the first line does not say them; numbers: 1, 2, 3 ..."),
    ] = None,
    target: Annotated[Name, Field(description="column to predict")],
    kind: Annotated[
        Literal["classification", "regression"], Field(description="whether the target is a class or a measure")
    ] = "classification",
    above: Annotated[
        float | None,
        Field(description="threshold that splits a numeric target into two classes (<=, >); null: one class per value"),
    ] = None,
    classes: Annotated[
        Several | None,
        Field(description="values that the target may have, in order, or the names of both classes; null: as they are"),
    ] = None,
    unit: Annotated[
        float,
        Field(
            gt=0,
            description="the model predicts multiples of it, such as 1000; results are in the data's own unit",
        ),
    ] = 1.0,
    groups: Annotated[
        Names | None, Field(description="columns that say which node a row belongs to; not features")
    ] = None,
    bins: Annotated[
        dict[Key, Annotated[int, Field(ge=2, le=10_000)] | Annotated[list[float], Field(min_length=1)]] | None,
        Field(description="columns of numbers to make groups of: the number of bins of equal size, or where to cut"),
    ] = None,
    split: Annotated[
        Name | None,
        Field(description="column that says what trains: true or false, or 0, 1, 2 for train, validation, test"),
    ] = None,
    features: Annotated[
        Names | None, Field(description="columns to predict from, where * stands for anything; null: all others")
    ] = None,
    drop: Annotated[Names | None, Field(description="columns to leave out, where * stands for anything")] = None,
    one_hot: Annotated[
        Names | None, Field(description="columns whose numbers are only codes; columns of text are one-hot in any case")
    ] = None,
    missing: Annotated[
        Literal["refuse", "mean", "indicator", "drop"],
        Field(
            description="what becomes of missing cells (empty, ?, NA, NaN); mean: that of the node's training rows "
            "with `scale: node`, else of all training nodes'; indicator: the mean, and a feature that marks them; "
            "drop: such rows are left out"
        ),
    ] = "refuse",
    where: Annotated[
        str | None,
        Field(
            min_length=1,
            max_length=2000,
            description="which rows to use, such as age >= 18 and ward in ['A', 'B'] and not (weight is missing)",
        ),
    ] = None,
    absent: Annotated[
        Literal["refuse", "missing"],
        Field(description="columns that some of several files lack: refuse them, or read their cells there as missing"),
    ] = "refuse",
    join: Annotated[
        dict[Key, Name] | None,
        Field(description="further files, each by the column that is in both; its others are called FILE.COLUMN"),
    ] = None,
    missing_marks: Annotated[
        Names | None,
        Field(description="further marks of missing cells, such as - or -999, in addition to empty, ?, NA and NaN"),
    ] = None,
    encoding: Annotated[
        str,
        Field(description="encoding of the files, such as cp1252 or utf-16; a byte order mark takes precedence"),
    ] = "utf-8",
    delimiter: Annotated[
        Literal[",", ";", "\t", "|", " "] | None,
        Field(description="what separates the columns (a blank: one or more); null: recognized from the first line"),
    ] = None,
    decimal: Annotated[
        Decimal | dict[Key, Decimal], Field(description='decimal mark; by column: {price: ",", "weight*": "."}')
    ] = ".",
    thousands: Annotated[
        Thousands | dict[Key, Thousands] | None,
        Field(description="mark between groups of three digits, of all numbers or by column"),
    ] = None,
    symbols: Annotated[
        dict[Key, Symbol | Annotated[list[Symbol], Field(min_length=1)]] | None,
        Field(description="marks before or after the numbers of a column: {price: $, share: %} reads $5 as 5, 3% as 3"),
    ] = None,
    dates: Annotated[
        dict[Key, Unit] | None,
        Field(
            description="columns of dates: days or hours since 1970 (of times alone, since midnight), or parts: year, "
            "month, day, weekday (Monday is 0), hour"
        ),
    ] = None,
    date_format: Annotated[
        Key | dict[Key, Key] | None,
        Field(description="format of all dates, or by column, such as %d.%m.%Y %H:%M; null: like 2026-01-31 12:30"),
    ] = None,
    sheet: Annotated[str | None, Field(description="sheet of a spreadsheet; null: the only one that has cells")] = None,
) -> Dataset:
    """Rows of a table: x (n, D) float32, NaN where a cell is missing; groups by the names of their columns.

    A column holds numbers, dates, or texts, which become one-hot. Classes are in natural order; a regression has one
    class, the target. The seed changes nothing. Raises Problem with file:line:column.
    """
    goal, cuts, keys = str(target), bins or {}, {name: str(key) for name, key in (join or {}).items()}
    _agree(kind, above, classes, unit)
    header = [] if columns == "numbers" else None if columns is None else _strings(columns)
    marks = MISSING | {*_strings(missing_marks)}
    form = Format(header, encoding, delimiter, missing=marks, sheet=sheet, absent=absent == "missing")
    form = _formats(form, decimal, thousands, symbols or {}, dates or {}, date_format)
    opened = open_files(place(path), file, keys, form)
    by_file = len(opened.files) > 1 and "file" not in opened.names
    whose, side = ([name for name in _strings(some) if name != "file" or not by_file] for some in (groups, split))
    number = kind == "regression" or above is not None
    picked = None if features is None else _strings(features)
    condition = parse(where or "", (*opened.names, *(["file"] if by_file else [])))
    choice = Choice(
        *(goal, number, [*whose, *side], list(cuts), list(keys.values()), picked, _strings(drop), _strings(one_hot)),
        where=[*condition.columns],
    )
    asked = {"target": [goal], "groups": whose, "bins": cuts, "split": side}
    asked |= {"features": picked or [], "drop": _strings(drop), "one_hot": choice.one_hot}
    asked |= {option: getattr(form, option) for option in ("decimal", "thousands", "symbols", "dates", "date_format")}
    for option, names in asked.items():
        check_names(option, names, opened.names, opened.files[0].where)

    read = load(opened, choice, missing)
    every = chosen(read, condition)
    used = [name for name in every.columns if choice.feature(name)]
    rows = complete(every, choice, used, missing)
    seen = columns_of([rows.columns[name] for name in used], choice.one_hot, missing == "indicator", form)
    x = matrix(rows.columns, seen, rows.place)
    notes = left_out(read, every, rows, [goal, *choice.groups, *choice.bins, *used])
    found = {"file": Group(rows.file, tuple(one.name for one in rows.files))} if by_file else {}
    found |= make_groups(rows, whose, cuts)
    wanted, y = None if classes is None else _strings(classes), None
    if kind == "regression":
        y, label, names = measure(rows, goal, unit), np.zeros(len(x), dtype=np.int64), (goal,)
    else:
        label, names = by_value(rows, goal, wanted) if above is None else by_limit(rows, goal, above, wanted)
    role, row_role = None, None
    if split is not None:
        values = parts(rows, str(split)) if side else np.array(found["file"].names)[rows.file]
        role, row_role = split_roles(values, label, len(names), lambda row: rows.place(row, str(split)))
    return build(
        kind,
        x,
        label,
        names,
        target=y,
        groups=found,
        cluster=cluster(found, label, len(names)),
        role=role,
        row_role=row_role,
        features=describe(rows, every, seen),
        raw={
            "columns": tuple(seen),
            "others": tuple(name for name in ("file", *opened.names, *every.numbering) if name not in used),
            "missing": "fill" if missing in ("mean", "indicator") else "refuse",
            "marks": tuple(sorted(marks - MISSING)),
            "encoding": encoding,
            "target": goal,
            "unit": unit,
            "above": above,
        },
        notes=notes,
    )


def _formats(
    form: Format,
    decimal: str | Mapping[str, str],
    thousands: str | Mapping[str, str] | None,
    symbols: Mapping[str, str | Sequence[str]],
    dates: Mapping[str, str],
    date_format: str | Mapping[str, str] | None,
) -> Format:
    """The format with options by column. Raises Problem where the same mark means two things."""

    def by_column(option: str | Mapping[str, str] | None) -> Mapping[str, str]:
        return option if isinstance(option, Mapping) else {"*": option} if option else {}

    marks = {name: [one] if isinstance(one, str) else one for name, one in symbols.items()}
    form = form._replace(decimal=by_column(decimal if decimal != "." else None), thousands=by_column(thousands))
    form = form._replace(symbols=marks, dates=dates, date_format=by_column(date_format))
    for name in (*form.decimal, *form.thousands):
        style = form.style(name)
        if style.decimal == style.thousands:
            message = f"{style.decimal!r} cannot be both the decimal mark and the mark of thousands"
            hint = 'write both, for instance decimal: "," and thousands: "."'
            raise Problem(message, "data.thousands", hint, CONFIG)
    return form


def _strings(names: Names | None) -> list[str]:
    return [] if names is None else [str(name) for name in (names if isinstance(names, list) else [names])]


def _agree(kind: str, above: float | None, classes: Sequence[Name] | None, unit: float) -> None:
    """Raises Problem for an option that has no meaning beside the others."""
    regression = kind == "regression"
    idle = {"above": regression and above is not None, "classes": regression and classes is not None}
    idle |= {"unit": unit != 1 and not regression}
    for option in filter(idle.__getitem__, idle):
        message = f"`{option}` has no meaning for a {kind}"
        raise Problem(message, f"data.{option}", "remove it, or change data.kind", CONFIG)
