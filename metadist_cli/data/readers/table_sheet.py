"""A table whose header is known: what every kind of file becomes before its cells are read."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = 100_000
EQUAL = "rename one of them; if this line is data already, name the columns in data.columns"
ROWS = 100_000_000


class Sheet(NamedTuple):
    """The columns of a file, and how to read the cells of some."""

    names: tuple[str, ...]  # distinct; a column without a name is called by its number
    nameless: frozenset[str]
    cells: Callable[[Sequence[str]], dict[str, pa.ChunkedArray]]  # of columns: text, or typed as the file stores them
    lines: Callable[[], Iterator[int]]  # for each row the line of the file where it begins
    nominal: Mapping[str, frozenset[str]] = {}  # the values that an ARFF file allows in a column
    numeric: frozenset[str] = frozenset()  # the columns that it says hold numbers


def named(head: Sequence[str], where: str, hint: str) -> tuple[tuple[str, ...], frozenset[str]]:
    """(names, those that are only numbers of columns without one).

    Args:
        head: Names as they are written, stripped; may be empty.
        where: file:line of the header.
        hint: What to do about two equal ones.

    Raises:
        Problem: DATA for equal names, more than 100,000, and none.
    """
    if not head:
        raise Problem("the file is empty", where, "leave it out, or download it again", DATA)
    if len(head) > COLUMNS:
        raise too_wide(len(head), where)
    names = tuple(name or str(i + 1) for i, name in enumerate(head))
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise Problem(f"two columns are called {name[:NAME]!r}", where, hint, DATA)
        seen.add(name)
    return names, frozenset(name for name, written in zip(names, head, strict=True) if not written)


def not_header(line: str, lines: int, where: str) -> Problem:
    """What to raise for a title or comment above the header. lines: how many there are."""
    hint = f"remove the {lines} lines above the header" if lines > 1 else "remove this line"
    return Problem(f"{line[:NAME]!r} stands above the columns and does not name them", where, hint, DATA)


def too_wide(columns: int, where: str) -> Problem:
    """What to raise for far more columns than a table has."""
    message = f"this line has {columns:,} columns; a table has at most {COLUMNS:,}"
    return Problem(message, where, "is this the right file?", DATA)


def own_header(columns: Sequence[str] | None, where: str, kind: str) -> None:
    """Raises Problem(CONFIG) where data.columns is given for a file that names its columns itself."""
    if columns is not None:
        message = f"{where} is {kind}, which names its columns"
        raise Problem(message, "data.columns", "leave data.columns out", CONFIG)


def no_rows(where: str) -> Problem:
    """What to raise for a header without rows."""
    return Problem("the table has no rows", where, "leave the file out, or download it again", DATA)
