"""Parquet, by Arrow. Sizes that the file names are checked before its rows are read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import accumulate, count, islice
from typing import TYPE_CHECKING, Any

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_sheet import ROWS, Sheet, named, no_rows, own_header

if TYPE_CHECKING:
    import pyarrow as pa

_CELLS = 500_000_000  # of the columns that are read, 4 GB as numbers
_BYTES = 2 << 30  # that the file names for the same columns, decompressed
_INDEX = "__index_level_0__"  # what pandas calls row names


def parquet(data: bytes, where: str, form: Format) -> Sheet:
    """The table in a Parquet file: columns of numbers, text, true or false, dates and times.

    Raises:
        Problem: DATA for a broken or oversized file, and, when the cells of such a column are read, for another type.
    """
    own_header(form.columns, where, "a Parquet file")
    file = _opened(data, where, [])
    rows = file.metadata.num_rows
    if rows > ROWS:
        raise Problem(f"the file has {rows:,} rows, more than {ROWS:,}", where, "use fewer", DATA)
    if not rows:
        raise no_rows(where)
    head = ["" if name == _INDEX else name.strip() for name in file.schema_arrow.names]
    names, nameless = named(head, f"{where}:1", "rename one of them")
    return Sheet(names, nameless, partial(_cells, data, where, names), partial(islice, count(1), rows))


def _opened(data: bytes, where: str, texts: list[str]) -> Any:
    """The file; texts: columns whose values are kept once each, so that a small file cannot become a large table."""
    import pyarrow as pa
    from pyarrow import parquet as arrow

    try:
        return arrow.ParquetFile(pa.BufferReader(data), read_dictionary=texts)
    except Exception as error:
        raise _broken(error, where) from error


def _broken(error: Exception, where: str) -> Problem:
    message = str(error).partition("\n")[0][: 2 * NAME] or type(error).__name__
    return Problem(f"the Parquet file is broken: {message}", where, "download it or write it again", DATA)


def _cells(data: bytes, where: str, names: Sequence[str], wanted: Sequence[str]) -> dict[str, pa.ChunkedArray]:
    import pyarrow as pa

    types = pa.types
    schema = _opened(data, where, []).schema_arrow
    place = {name: names.index(name) for name in wanted}
    for name, at in place.items():
        if types.is_nested(schema.field(at).type):
            message = f"the column {name[:NAME]!r} holds {schema.field(at).type} in place of single values"
            raise Problem(message, where, "leave it out with data.drop", DATA)
    texts = [field.name for field in schema if types.is_string(field.type) or types.is_large_string(field.type)]
    file = _opened(data, where, texts)
    first = [0, *accumulate(_leaves(field.type) for field in schema)]  # Parquet counts the parts of nested columns
    leaves = [first[at] for at in place.values()]
    _check_size(file.metadata, leaves, where)
    try:
        table = file.reader.read_all(column_indices=leaves, use_threads=False)
        table.validate(full=True)
        found = {name: simple(table.column(schema.field(at).name)) for name, at in place.items()}
    except Exception as error:
        raise _broken(error, where) from error
    if odd := next((name for name, cells in found.items() if cells is None), None):
        message = f"the column {odd[:NAME]!r} is of type {schema.field(place[odd]).type}, which is not read"
        raise Problem(message, where, "leave it out with data.drop", DATA)
    return {name: cells for name, cells in found.items() if cells is not None}


def _leaves(kind: pa.DataType) -> int:
    """How many columns of single values a Parquet file stores for a column of this type."""
    return sum(_leaves(kind.field(i).type) for i in range(kind.num_fields)) or 1


def _check_size(metadata: Any, leaves: Sequence[int], where: str) -> None:
    """Raises Problem where the columns are too much for memory, by what the file itself says of them."""
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    size = sum(group.column(at).total_uncompressed_size for group in groups for at in leaves)
    cells = metadata.num_rows * len(leaves)
    if cells > _CELLS or not 0 <= size <= _BYTES:
        message = f"the columns have {cells:,} cells in {size:,} bytes; at most {_CELLS:,} in {_BYTES:,} are read"
        raise Problem(message, where, "name fewer columns in data.features, or use fewer rows", DATA)


def simple(cells: pa.ChunkedArray) -> pa.ChunkedArray | None:
    """Cells as text or numbers; dates and times as ISO 8601 in UTC. None for another type."""
    import pyarrow as pa

    kind, types = cells.type, pa.types
    if types.is_dictionary(kind):
        return cells if types.is_string(kind.value_type) else simple(cells.cast(kind.value_type))
    if types.is_string(kind) or types.is_integer(kind) or types.is_floating(kind):
        return cells
    if types.is_decimal(kind):
        return cells.cast(pa.float64())
    if types.is_timestamp(kind):
        return cells.cast(pa.timestamp("us"), safe=False).cast(pa.string())
    if types.is_boolean(kind) or types.is_date(kind) or types.is_null(kind) or types.is_large_string(kind):
        return cells.cast(pa.string())
    return None
