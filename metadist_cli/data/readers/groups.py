"""What a column of values says of the rows: whose they are, of which class, and whether they train."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import natural, unfit
from metadist_cli.data.types import Group

ROLES = {"train": 0, "val": 1, "validation": 1, "test": 2}


def group(values: np.ndarray, place: Callable[[int], str]) -> Group:
    """The groups that equal values make; values: (n,) whole numbers or text. place: of a row, for messages.

    Names are the values, numbers by size and text in natural order. Raises Problem(DATA) for one that cannot be a name.
    """
    unique, code = np.unique(values, return_inverse=True)
    names = [str(value) for value in unique.tolist()]
    for i, name in enumerate(names):
        if reason := unfit(name):
            row = int(np.flatnonzero(code == i)[0])
            raise Problem(f"the value {reason}", place(row), "give it another name", DATA)
    if values.dtype.kind != "U":
        return Group(code.astype(np.int64), tuple(names))
    order = sorted(range(len(names)), key=lambda i: natural(names[i]))
    rank = np.empty(len(names), dtype=np.int64)
    rank[order] = np.arange(len(names))
    return Group(rank[code], tuple(names[i] for i in order))


def split_roles(
    values: np.ndarray, label: np.ndarray, count: int, place: Callable[[int], str]
) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(role of each of `count` classes or None, role of each row or None) as a data set's own split has it.

    values: (n,) yes/no (trains or not), 0, 1, 2 or train, val, test. Where no class is on two sides the split is one of
    classes, else one of rows. Raises Problem(DATA) for another value, and where nothing trains or nothing is kept.
    """
    if values.dtype.kind == "b":
        role = np.where(values, 0, 2)
    elif values.dtype.kind == "U":
        kinds = group(values, place)
        role = np.array([ROLES.get(name, -1) for name in kinds.names])[kinds.code]
    else:
        role = np.where((values >= 0) & (values <= 2), values.astype(np.int64), -1)
    wrong = np.flatnonzero(role < 0)
    if len(wrong):
        hint = "write true or false, 0, 1, 2 (train, validation, test), or these words"
        raise Problem(f"{str(values[wrong[0]])!r} is not a part of a split", place(int(wrong[0])), hint, DATA)
    for number, what in ((0, "to train on"), (2, "for testing")):
        if not (role == number).any():
            raise Problem(f"the split leaves no rows {what}", "data", "take another split, or leave it out", DATA)
    role = role.astype(np.int8)
    of_class = np.zeros(count, dtype=np.int8)
    of_class[label] = role
    return (of_class, None) if (of_class[label] == role).all() else (None, role)


def cluster(groups: dict[str, Group], label: np.ndarray, count: int) -> str | None:
    """The first group that whole classes belong to, as characters do to alphabets."""
    for name, of in groups.items():
        of_class = np.zeros(count, dtype=np.int64)
        of_class[label] = of.code
        if (of_class[label] == of.code).all():
            return name
    return None
