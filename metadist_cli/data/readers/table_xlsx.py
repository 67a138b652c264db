"""Excel's .xlsx, by openpyxl: values alone, as the program last saved them; formulas are not computed.

The sizes in the zip directory are checked before anything is decompressed, rows and cells while they are read.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import date, datetime, time
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.readers.folder import zipped
from metadist_cli.data.readers.members import EACH, RATIO, SMALL
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_sheet import EQUAL, Sheet, named, no_rows, not_header

if TYPE_CHECKING:
    import pyarrow as pa

_PARTS = 10_000  # files in the archive that a spreadsheet is
_CELLS = 50_000_000  # of a sheet, empty ones too
_ROWS = 1_048_576  # as many as Excel has
Row = tuple[int, list[str]]  # its number in the sheet, and its cells


def xlsx(data: bytes, where: str, form: Format) -> Sheet:
    """The table in a sheet of a spreadsheet, whose first row names the columns unless `form.columns` does.

    Rows without cells are left out. Raises Problem.
    """
    total = min(EACH, max(SMALL, RATIO * len(data)))
    zipped(data, where, members=_PARTS, each=EACH, total=total)
    rows = partial(_rows, data, where, form.sheet)
    number, head = next(rows(), (1, []))
    while head and not head[-1]:
        head.pop()
    if form.columns is None and len(head) == 1 and all(len(row) > 1 and row[1] for _, row in islice(rows(), 1, 3)):
        raise not_header(head[0], 1, f"{where}:{number}")
    skip = int(form.columns is None or list(form.columns) == head)
    if not skip:
        head = list(form.columns or map(str, range(1, len(head) + 1)))
    names, nameless = named(head, f"{where}:{number}", EQUAL)
    below = partial(_below, rows, skip, where, len(names))

    def cells(wanted: Sequence[str]) -> dict[str, pa.ChunkedArray]:
        found = _cells(below, names, wanted)
        empty = {names.index(name): name for name, column in found.items() if not any(column.to_pylist())}
        if empty:
            _check_formulas(_rows(data, where, form.sheet, values=False), empty, where)
        return found

    return Sheet(names, nameless, cells, lambda: (number for number, _ in below()))


def _check_formulas(rows: Iterator[Row], empty: Mapping[int, str], where: str) -> None:
    """Raises Problem where an empty column has formulas, whose values the file does not have.

    Args:
        rows: With formulas in place of their values.
        empty: Names of columns without values, by their places.
        where: The file.
    """
    for number, row in rows:
        for at, name in empty.items():
            if row[at : at + 1] and row[at].startswith("="):
                message = f"{row[at][:NAME]!r} is a formula, and the file does not have its value"
                hint = "open the file in a spreadsheet program and save it, or replace formulas by their values"
                raise Problem(message, f"{where}:{number}:{name[:NAME]}", hint, DATA)


def _cells(
    below: Callable[[], Iterator[Row]], names: Sequence[str], wanted: Sequence[str]
) -> dict[str, pa.ChunkedArray]:
    import pyarrow as pa

    place = {name: names.index(name) for name in wanted}
    cells: dict[str, list[str]] = {name: [] for name in wanted}
    for _, row in below():
        for name, at in place.items():
            cells[name].append(row[at])
    return {name: pa.chunked_array([pa.array(column, pa.string())]) for name, column in cells.items()}


def _below(rows: Callable[[], Iterator[Row]], skip: int, where: str, width: int) -> Iterator[Row]:
    """The rows below the header, each as wide as it."""
    none = True
    for number, row in islice(rows(), skip, None):
        if any(row[width:]):
            last = max(i for i, cell in enumerate(row, 1) if cell)
            message = f"this row has {last:,} columns, the table has {width:,}"
            raise Problem(message, f"{where}:{number}", "name the column in the first row, or empty the cell", DATA)
        none = False
        yield number, row[:width] + [""] * (width - len(row))
    if none:
        raise no_rows(where)


def _rows(data: bytes, where: str, name: str | None, values: bool = True) -> Iterator[Row]:
    """The rows of a sheet that are not empty. values: of formulas, which otherwise stand for themselves."""
    import openpyxl

    with _readable(where):
        book = openpyxl.load_workbook(io.BytesIO(data), read_only=True, data_only=values, keep_links=False)
        sheet = _sheet(book, where, name)
        cells = 0
        for number, row in enumerate(sheet.iter_rows(values_only=True), 1):
            cells += len(row)
            if number > _ROWS or cells > _CELLS:
                message = f"the sheet has more than {_ROWS:,} rows or {_CELLS:,} cells"
                raise Problem(message, f"{where}:{number}", "save it as CSV or Parquet", DATA)
            texts = [_text(value) for value in row]
            if any(texts):
                yield number, texts


def _sheet(book: Any, where: str, name: str | None) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    for sheet in sheets.values():
        sheet.reset_dimensions()  # what the file says of them need not be true
    if name is not None and name not in sheets:
        message = f"{where} has no sheet {name[:NAME]!r}"
        raise Problem(message, "data.sheet", nearest(name[:NAME], list(sheets)), CONFIG)
    if name is not None:
        return sheets[name]
    filled = [title for title, sheet in sheets.items() if len(sheets) == 1 or next(sheet.iter_rows(), None)]
    if len(filled) != 1:
        some = ", ".join(title[:NAME] for title in filled[:8]) or "none with cells"
        raise Problem(f"the file has {len(filled):,} sheets: {some}", where, "write one of them in data.sheet", DATA)
    return sheets[filled[0]]


def _text(value: object) -> str:
    """A cell as a .csv file would have it; whole numbers without a fraction, dates as ISO 8601."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    if isinstance(value, datetime):
        return value.date().isoformat() if value.time() == time() else value.isoformat(" ")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value).strip()


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Whatever openpyxl raises for a file that is not as it should be, as a Problem."""
    try:
        yield
    except (Problem, GeneratorExit):
        raise
    except Exception as error:
        message = f"the spreadsheet cannot be read: {str(error)[: 2 * NAME] or type(error).__name__}"
        raise Problem(message, where, "open it, save it again as .xlsx, or save it as CSV", DATA) from error
