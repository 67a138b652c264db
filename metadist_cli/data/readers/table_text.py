"""Delimited text: CSV and TSV, and columns separated by runs of blanks.

Arrow's parser reads the cells (https://arrow.apache.org/docs/cpp/csv.html), five to twenty times as fast as Python's
`csv`. The latter settles whatever is unusual: blanks before a quotation mark, marks within a cell, rows of another
length; and it finds the line of a row. Both read the quoting of RFC 4180, with line breaks within quotes.
"""

# pyright: reportAttributeAccessIssue=false
# Arrow makes the functions of pyarrow.compute when it is imported

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_sheet import COLUMNS, EQUAL, Sheet, named, no_rows, not_header, too_wide

if TYPE_CHECKING:
    import pyarrow as pa

_DELIMITERS = ",;\t|"
_SAMPLE = 20  # rows that decide what separates the columns
_ABOVE = 10  # lines of a title or comments that are recognised above a header
_BATCH = 4096  # rows that are lists of Python at once


class Text(NamedTuple):
    """Rows of delimited text."""

    data: bytes  # UTF-8
    where: str
    start: int  # byte where the rows begin
    before: int  # lines above
    names: tuple[str, ...]
    dialect: dict[str, Any]  # as of Python's csv.reader
    comment: str = ""  # what lines that say nothing begin with


def delimited(data: bytes, where: str, form: Format) -> Sheet:
    """The table in UTF-8 text, which names its columns in its first line unless `form.columns` does.

    Columns are separated by whichever of , ; tab and | splits the first rows evenly, else by blanks. Raises Problem.
    """
    count = len(form.columns) if form.columns else None
    if form.columns is None:
        _check_title(data, where)
    delimiter = form.delimiter or _delimiter(data, where, count)
    if delimiter == " ":
        text = io.StringIO(data.decode(), newline=None)
        data = "\n".join(" ".join(line.split()) for line in text).encode()
    dialect = {"delimiter": delimiter, "skipinitialspace": delimiter != " ", "strict": True}
    reader = _rows(Text(data, where, 0, 0, (), dialect))
    begin, head, end, line = next((row for row in reader if any(map(str.strip, row[1]))), (1, [], 0, 0))
    head = [cell.strip() for cell in head]
    if form.columns is not None and (not form.columns or list(form.columns) != head):
        head, end, line = list(form.columns) or [str(i + 1) for i in range(len(head))], 0, 0
    else:
        following = [row for _, row, _, _ in islice((row for row in reader if any(map(str.strip, row[1]))), 2)]
        head = _as_wide(head, following)
    names, nameless = named(head, f"{where}:{begin}", EQUAL)
    text = Text(data, where, end, line, names, dialect)
    return Sheet(names, nameless, partial(_cells, text), partial(lines_of_rows, text))


def _as_wide(head: list[str], following: list[list[str]]) -> list[str]:
    """The header as wide as the first rows: with the last column that a separator at the end of a line makes, and
    with a first column for row names, which R writes without a name."""
    widths = {len(row) for row in following}
    if widths == {len(head) + 1}:
        return ["", *head] if any(row[-1].strip() for row in following) else [*head, ""]
    return head[:-1] if widths == {len(head) - 1} and not head[-1] else head


def _sample(data: bytes, where: str) -> list[tuple[int, str]]:
    """(number, text) of the first lines that are not blank."""
    lines = enumerate(_lines_of(Text(data, where, 0, 0, (), {"delimiter": "\0"})), 1)
    filled = ((number, line.strip("\r\n")) for number, (line, _) in lines if line.strip())
    return list(islice(filled, _SAMPLE))


def _unquoted(line: str) -> str:
    """The line with x for what is in quotation marks."""
    return re.sub(r'"[^"]*"', "x", line)


def _check_title(data: bytes, where: str) -> None:
    """Raises Problem where the first lines are a title or comments: the lines below, not they, have columns."""
    sample = _sample(data, where)
    lines = [_unquoted(line) for _, line in sample]
    if len({len(line.split()) for line in lines}) == 1 and " " in lines[0].strip():
        return  # blanks separate the columns
    for above in range(1, min(_ABOVE, len(lines) - 2) + 1):
        header, *rows = lines[above:]
        for mark in _DELIMITERS:
            between_digits = rf"(?<=\d){re.escape(mark)}(?=\d)"  # perhaps decimal commas, which no header has
            even = {line.count(mark) for line in rows} == {header.count(mark)}
            titles = (_is_title(line, header, mark) for line in lines[:above])
            if even and mark in re.sub(between_digits, "", header) and all(titles):
                raise not_header(sample[0][1], above, f"{where}:{sample[0][0]}")


def _is_title(line: str, header: str, mark: str) -> bool:
    """Whether a line above a header is not one itself: it may have marks at its end, as programs write them."""
    if re.fullmatch(r"(?i)sep=.\s*", line):
        return True
    line = line.rstrip(mark + " ")
    as_wide = any(line.count(other) and line.count(other) == header.count(other) for other in _DELIMITERS)
    return not as_wide and (line.startswith("#") or mark not in line)


def _delimiter(data: bytes, where: str, count: int | None) -> str:
    """What separates the columns, " " for runs of blanks. count: how many columns there should be."""
    sample = [_unquoted(line) for _, line in _sample(data, where)]
    first = sample[0] if sample else ""
    columns = {mark: first.count(mark) + 1 for mark in _DELIMITERS} | {" ": len(first.split())}
    fitting = [mark for mark, number in columns.items() if number == count]
    even = {mark for mark in _DELIMITERS if first.count(mark) and len({line.count(mark) for line in sample}) == 1}
    found = fitting[0] if fitting else max(_DELIMITERS, key=lambda mark: (columns[mark], mark in even))
    others = (even.intersection(fitting) if fitting else even) - {","}
    if found == "," and others and all(len(re.findall(r"(?<=\d),(?=\d)", line)) == line.count(",") for line in sample):
        found = max(others, key=lambda mark: columns[mark])  # the commas are decimal commas
    return found if fitting or columns[found] > 1 or columns[" "] == 1 else " "


def _lines_of(text: Text) -> Iterator[tuple[str, int]]:
    """(line with its end, byte where the next one begins). Raises Problem where one has far too many columns."""
    source = io.BytesIO(text.data)
    source.seek(text.start)
    end = text.start
    for number, line in enumerate(io.TextIOWrapper(source, "utf-8", newline=""), text.before + 1):
        if line.count(text.dialect["delimiter"]) >= COLUMNS:
            raise too_wide(line.count(text.dialect["delimiter"]) + 1, f"{text.where}:{number}")
        end += len(line.encode())
        yield line, end


def _rows(text: Text) -> Iterator[tuple[int, list[str], int, int]]:
    """(line where it begins, cells, byte where the next begins, line where it ends) of each row, blank ones too."""
    end = text.start

    def lines() -> Iterator[str]:
        nonlocal end
        for line, end in _lines_of(text):  # noqa: B007
            yield "" if text.comment and line.startswith(text.comment) else line

    reader = csv.reader(lines(), **text.dialect)
    begin = text.before + 1
    while True:
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise _unreadable(str(error), f"{text.where}:{begin}") from error
        last = text.before + reader.line_num
        yield begin, row, end, last
        begin = last + 1


def _unreadable(error: str, where: str) -> Problem:
    if "field larger" in error:
        hint = "shorten it; if it runs over many lines, close its quotation mark"
        return Problem(f"a cell of this row has more than {csv.field_size_limit():,} characters", where, hint, DATA)
    if "unexpected end" in error:
        hint = 'close it; within quotes write ""'
        return Problem("a quotation mark in this row is never closed", where, hint, DATA)
    hint = 'put quotation marks around whole cells, and write "" for one within them'
    return Problem(f"a quotation mark in this row is out of place: {error}", where, hint, DATA)


def _filled(text: Text) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of each row that is not blank. Raises Problem where a row has another number of columns."""
    width, none = len(text.names), True
    for begin, row, _, _ in _rows(text):
        if len(row) == width:
            none = False
            yield begin, row
        elif any(map(str.strip, row)):
            message = f"this row has {len(row):,} columns, the table has {width:,}"
            hint = "add or remove some; put text that contains the separator in quotation marks"
            raise Problem(message, f"{text.where}:{begin}", hint, DATA)
    if none:
        raise no_rows(text.where)


def lines_of_rows(text: Text) -> Iterator[int]:
    """The line where each row begins, without blank ones."""
    return (line for line, _ in _filled(text))


def _cells(text: Text, wanted: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    if _plainly_quoted(text) and (found := _by_arrow(text, wanted)) is not None:
        return found
    return by_csv(text, wanted)


def by_csv(text: Text, wanted: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    """The cells of some columns by Python's csv. Raises Problem with file:line for a row that is not as it should."""
    import pyarrow as pa

    place = {name: text.names.index(name) for name in wanted}
    batches: dict[str, list[pa.Array]] = {name: [] for name in wanted}
    rows = _filled(text)
    while batch := list(islice(rows, _BATCH)):
        columns = list(zip(*(row for _, row in batch), strict=True))
        for name, at in place.items():
            batches[name].append(pa.array(columns[at], pa.string()))
    return {name: pa.chunked_array(arrays, pa.string()) for name, arrays in batches.items()}


def _by_arrow(text: Text, wanted: Sequence[str]) -> dict[str, pa.ChunkedArray] | None:
    """The cells of some columns by Arrow; None where there is a row that it does not read."""
    import pyarrow as pa
    from pyarrow import compute
    from pyarrow import csv as arrow

    delimiter = text.dialect["delimiter"]
    body = pa.py_buffer(text.data).slice(text.start)
    quoted = b'"' in text.data
    blank = "skip", "error"
    try:
        table = arrow.read_csv(
            pa.BufferReader(body),
            arrow.ReadOptions(use_threads=False, column_names=list(text.names), block_size=1 << 22),
            arrow.ParseOptions(
                delimiter=delimiter,
                newlines_in_values=quoted,
                invalid_row_handler=lambda row: blank[bool((row.text or "").strip(f' \t"{delimiter}'))],
            ),
            arrow.ConvertOptions(
                include_columns=list(wanted),
                column_types=dict.fromkeys(wanted, pa.string()),
                strings_can_be_null=False,
                check_utf8=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    longest = [compute.max(compute.binary_length(column)).as_py() or 0 for column in table.columns]
    if not len(table) or max(longest) > csv.field_size_limit():
        return None
    return dict(zip(table.column_names, table.columns, strict=True))


def _plainly_quoted(text: Text) -> bool:
    """Whether each quotation mark begins or ends a whole cell, or is doubled within one."""
    if b'"' not in text.data:
        return True
    view = np.frombuffer(text.data, np.uint8, offset=text.start)
    at = np.flatnonzero(view == ord('"'))
    if len(at) % 2:
        return False
    edge = np.zeros(256, dtype=bool)
    edge[[ord(text.dialect["delimiter"]), ord("\n"), ord("\r")]] = True
    opening, closing = at[0::2], at[1::2]
    doubled = closing[:-1] + 1 == opening[1:]  # two marks in a row say one within the cell
    begins = (opening == 0) | edge[view[opening - 1]]
    ends = (closing == len(view) - 1) | edge[view[np.minimum(closing + 1, len(view) - 1)]]
    begins[1:] |= doubled
    ends[:-1] |= doubled
    return bool(begins.all() and ends.all())
