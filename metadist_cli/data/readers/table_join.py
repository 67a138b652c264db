"""All rows of a table with the columns that are needed, those of further files joined to them among them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.members import Member
from metadist_cli.data.readers.table_cells import Kind
from metadist_cli.data.readers.table_columns import Table, read
from metadist_cli.data.readers.table_features import Choice
from metadist_cli.data.readers.table_files import choose, list_files
from metadist_cli.data.readers.table_format import Format, fits
from metadist_cli.data.readers.table_open import sheet


class Opened(NamedTuple):
    """Files whose headers are known."""

    files: list[Member]
    joined: list[tuple[str, Member]]  # each with the column that is its key and the table's
    names: tuple[str, ...]  # of all columns; a joined one is called FILE.COLUMN
    form: Format


def open_files(path: Path, file: str | None, join: Mapping[str, str], form: Format) -> Opened:
    """The files of a table and those to be joined to it. join: {file: column}. Raises Problem."""
    there = list_files(path, file, join)
    files = choose(there, file)
    heads = files if form.absent else files[:1]
    names, joined = [*dict.fromkeys(name for file in heads for name in sheet(file, form).names)], []
    check_names("join", join.values(), names, files[0].where)
    for name, key in join.items():
        other = choose(there, name)[0]
        known = sheet(other, _beside(form)).names
        check_names("join", [key], known, other.where)
        joined.append((key, other))
        names += [f"{other.name}.{column}" for column in known if column != key]
    return Opened(files, joined, tuple(names), form)


def _beside(form: Format) -> Format:
    """How a joined file is written: like the table, but that it names its columns and has its own delimiter."""
    return form._replace(columns=None, delimiter=None, sheet=None)


def check_names(option: str, wanted: Iterable[str], known: Sequence[str], where: str) -> None:
    """Raises Problem(CONFIG) where an option names a column that is not there. where: the file that names them."""
    patterns = option not in ("target", "groups", "bins", "split", "join")
    for name in wanted:
        if name not in known and name != "*" and not (patterns and any(fits(column, [name]) for column in known)):
            hint = nearest(name[:NAME], [column[:NAME] for column in known])
            numbers = sum(bool(re.fullmatch(r"[-+]?[0-9.]+|\?", column)) for column in known)
            if 2 * numbers > len(known):
                hint = "its first line looks like data; if it is, name the columns: columns: [a, b, c]"
            elif numbers:
                hint += "; or, if its first line is data already, name the columns: columns: [a, b, c]"
            raise Problem(f"{where} has no column {name[:NAME]!r}", f"data.{option}", hint, CONFIG)


def load(opened: Opened, choice: Choice, missing: str) -> Table:
    """The table with its joined columns; with missing "refuse" every row must have its row in each joined file."""
    table = read(opened.files, opened.form, choice.needed, choice.kind)
    for key, file in opened.joined:
        table = _joined(table, key, file, choice, missing)
    return table


def _joined(table: Table, key: str, file: Member, choice: Choice, missing: str) -> Table:
    full = f"{file.name}.{key}"

    def needed(name: str) -> bool:
        return name == full or choice.needed(name)

    def kind(name: str) -> Kind:
        return "text" if name == full else choice.kind(name)

    other = read([file], _beside(table.form)._replace(prefix=f"{file.name}."), needed, kind)
    rows = _rows(table, other, key, full)
    if (rows < 0).all():
        message = f"no {key[:NAME]!r} of this table is in {file.where}"
        raise Problem(message, table.place(0, key), "check that it is the right file and the right column", DATA)
    if missing == "refuse" and (rows < 0).any():
        row, column = int((rows < 0).argmax()), table.columns[key]
        text = ("", *column.texts)[column.code[row] + 1]
        hint = "add it there, or write missing: mean, indicator or drop"
        raise Problem(f"{text[:NAME]!r} is not in {file.where}", table.place(row, key), hint, DATA)
    found = {name: column.take(rows) for name, column in other.columns.items() if name != full}
    return table._replace(columns=table.columns | found)


def _rows(table: Table, other: Table, key: str, full: str) -> np.ndarray:
    """(n,) for each row of the table its row in the other, -1 where it has none. Raises Problem for a second one."""
    mine, yours = table.columns[key], other.columns[full]
    there = np.flatnonzero(yours.code >= 0)
    first = np.full(len(yours.texts), -1)
    first[yours.code[there][::-1]] = there[::-1]
    again = there[first[yours.code[there]] != there]
    if len(again):
        text = yours.texts[yours.code[again[0]]][:NAME]
        hint = "a row is joined to one other: keep one of them, or leave the file out"
        message = f"{text!r} is here again; it was first in line {other.line(int(first[yours.code[again[0]]]))}"
        raise Problem(message, other.place(int(again[0]), full), hint, DATA)
    at = dict(zip(yours.texts, first, strict=True))
    return np.array([*(at.get(text, -1) for text in mine.texts), -1])[mine.code]
