"""Which rows of a table are used, and how many are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.names import NAME, listed
from metadist_cli.data.readers.table_cells import Column
from metadist_cli.data.readers.table_columns import Table
from metadist_cli.data.readers.table_where import Where


def chosen(table: Table, where: Where) -> Table:
    """The rows for which an expression is true; the column `file` is where a row is from, if no other has this name.

    Raises:
        Problem: CONFIG where there are none, or the expression does not fit the columns.
    """
    if not where.columns:
        return table
    file = Column("file", None, table.file, tuple(one.name for one in table.files))
    kept = np.flatnonzero(where.truth({"file": file} | table.columns).yes)
    if not len(kept):
        message = f"data.where is true for none of {len(table.row):,} rows"
        raise Problem(message, "data.where", "make it wider, or leave it out", CONFIG)
    return table.take(kept)


def left_out(read: Table, chosen: Table, used: Table, columns: Sequence[str]) -> tuple[str, ...]:
    """Notes of the rows that data.where and `missing: drop` left out.

    Args:
        read: all rows.
        chosen: those for which data.where is true.
        used: those of them that `missing` leaves.
        columns: those in which a missing cell counts.
    """
    notes = []
    if len(chosen.row) < len(read.row):
        notes.append(f"data.where keeps {len(chosen.row):,} of {len(read.row):,} rows")
    if lost := len(chosen.row) - len(used.row):
        gaps = {name: int(chosen.columns[name].missing.sum()) for name in dict.fromkeys(columns)}
        ranked = sorted(filter(gaps.__getitem__, gaps), key=lambda name: -gaps[name])
        named = listed([f"{name[:NAME]} {gaps[name]:,}" for name in ranked])
        notes.append(f"missing: drop leaves out {lost:,} of {len(chosen.row):,} rows (missing cells: {named})")
    return tuple(notes)
