"""A table of your own: CSV or TSV, columns parted by blanks, or ARFF; one file, or many in a folder or zip archive.

What is missing stays so here: the partition fills it in with means of training rows alone (scaling.py), so that nothing
of the rows that are held back is in them. One-hot columns are made for every value there is, in whichever row.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.groups import cluster, split_roles
from metadist_cli.data.readers.table_features import Choice, complete, matrix
from metadist_cli.data.readers.table_join import check_names, load, open_files
from metadist_cli.data.readers.table_target import by_limit, by_value, make_groups, measure, parts
from metadist_cli.data.types import Dataset, Group, build

Name = str | int  # of a column: some tables call theirs 2019
Several = Annotated[list[Name], Field(min_length=1)]
Names = Name | Several
Key = Annotated[str, Field(pattern=".")]


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
        float | None, Field(description="makes two classes of a number, at most this and above it; null: one a value")
    ] = None,
    classes: Annotated[
        Several | None,
        Field(description="values that the target may have, in order, or the names of both classes; null: as they are"),
    ] = None,
    unit: Annotated[
        float, Field(gt=0, description="a measure is predicted in so many, such as 1000 for money in thousands")
    ] = 1.0,
    groups: Annotated[
        Names | None, Field(description="columns that say whose a row is, to make nodes of; they are no features")
    ] = None,
    bins: Annotated[
        dict[Key, Annotated[int, Field(ge=2, le=10_000)] | Annotated[list[float], Field(min_length=1)]] | None,
        Field(description="columns of numbers to make groups of: so many bins of equal size, or where to cut"),
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
        Names | None, Field(description="columns whose numbers are mere codes; columns of texts are one-hot anyway")
    ] = None,
    missing: Annotated[
        Literal["refuse", "mean", "indicator", "drop"],
        Field(
            description="of empty cells, ?, NA and NaN; mean: of the node's training rows with `scale: node`, else of "
            "all training nodes'; indicator: the mean and a feature that says so; drop: leaves such rows out"
        ),
    ] = "refuse",
    join: Annotated[
        dict[Key, Name] | None,
        Field(description="further files, each by the column that is in both; its others are called FILE.COLUMN"),
    ] = None,
    encoding: Annotated[
        Literal["utf-8", "latin-1", "cp1252", "utf-16"], Field(description="how the files are written")
    ] = "utf-8",
) -> Dataset:
    """Rows of a table: x (n, D) float32, NaN where a cell is missing; groups by the names of their columns.

    A column is of numbers or of texts, which become one-hot; one without a name is left out. Classes are in natural
    order; a regression has one class, the target. The seed changes nothing. Raises Problem with file:line:column.
    """
    goal, cuts, keys = str(target), bins or {}, {name: str(key) for name, key in (join or {}).items()}
    _agree(kind, above, classes, unit)
    header = [] if columns == "numbers" else None if columns is None else _strings(columns)
    opened = open_files(place(path), file, keys, header, encoding)
    by_file = len(opened.files) > 1 and "file" not in opened.names
    whose, side = ([name for name in _strings(some) if name != "file" or not by_file] for some in (groups, split))
    number = kind == "regression" or above is not None
    picked = None if features is None else _strings(features)
    hidden = [*_strings(drop), *opened.nameless]
    choice = Choice(goal, number, [*whose, *side], list(cuts), list(keys.values()), picked, hidden, _strings(one_hot))
    asked = {"target": [goal], "groups": whose, "bins": cuts, "split": side}
    asked |= {"features": picked or [], "drop": _strings(drop), "one_hot": choice.one_hot}
    for option, names in asked.items():
        check_names(option, names, opened.names, opened.files[0].where)

    rows = load(opened, choice, missing)
    used = [name for name in rows.columns if choice.feature(name)]
    rows = complete(rows, choice, used, missing)
    x = matrix([rows.columns[name] for name in used], choice.one_hot, missing == "indicator")
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
    )


def _strings(names: Names | None) -> list[str]:
    return [] if names is None else [str(name) for name in (names if isinstance(names, list) else [names])]


def _agree(kind: str, above: float | None, classes: Sequence[Name] | None, unit: float) -> None:
    """Raises Problem for an option that has no meaning beside the others."""
    regression = kind == "regression"
    idle = {"above": regression and above is not None, "classes": regression and classes is not None}
    idle |= {"unit": unit != 1 and not regression}
    for option in filter(idle.__getitem__, idle):
        message = f"`{option}` means nothing for a {kind}"
        raise Problem(message, f"data.{option}", "take it out, or change data.kind", CONFIG)
