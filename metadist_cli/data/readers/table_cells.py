"""The cells of a column before and after they are typed."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from metadist_cli.data.readers import table_hints as hints

if TYPE_CHECKING:
    import pyarrow as pa

Kind = Literal["number", "text"] | None


class Column(NamedTuple):
    """n cells, either numbers (code and texts are then empty) or texts."""

    name: str
    number: np.ndarray | None  # (n,) float64, NaN where missing
    code: np.ndarray  # (n,) int64 places in texts, -1 where missing
    texts: tuple[str, ...]  # in natural order, each somewhere in the column
    worth: np.ndarray | None = None  # (len(texts),) float64 where all texts are numbers
    date: str = ""  # days or hours where the numbers are these, or parts where they are days to be taken apart
    symbols: tuple[str, ...] = ()  # that stood beside its numbers

    @property
    def missing(self) -> np.ndarray:
        """(n,) bool."""
        return np.isnan(self.number) if self.number is not None else self.code < 0

    def take(self, rows: np.ndarray) -> Column:
        """The cells of some rows, without texts that are in none of them; a row -1 is one that is missing."""
        if self.number is not None:
            return self._replace(number=np.where(rows < 0, np.nan, self.number[rows]))
        code = np.where(rows < 0, -1, self.code[rows])
        there = np.isin(np.arange(len(self.texts)), code)
        renumbered = np.append(np.cumsum(there) - 1, -1)
        texts = tuple(np.array(self.texts, dtype=object)[there])
        worth = None if self.worth is None or not texts else self.worth[there]
        return self._replace(code=renumbered[code], texts=texts, worth=worth)

    def numbers(self) -> np.ndarray | None:
        """(n,) float64, NaN where missing; None where a text is not a number."""
        if self.number is not None or self.worth is None:
            return self.number
        return np.append(self.worth, math.nan)[self.code]


class Cells(NamedTuple):
    """The cells of one column, of all files."""

    name: str
    cells: pa.ChunkedArray  # text, or numbers as a file stores them
    kind: Kind
    numeric: bool  # whether a header says that they are numbers
    place: Callable[[int], str]  # file:line:column of a row


class Odd(NamedTuple):
    """A column that looks like numbers or dates of another format."""

    where: str  # of a cell
    text: str  # in it
    what: str
    ways: list[hints.Way]
    marks: list[str]  # texts beside them that rather mean a missing cell
    advice: str = "convert the column to one unit"  # if `ways` is empty
