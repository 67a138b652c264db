"""Tables for other programs, as CSV and as Parquet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def as_csv(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as CSV; a missing value is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def joined_csv(tables: Iterable[bytes]) -> bytes:
    """Tables with the same header as one."""
    found = b""
    for table in tables:
        found += table if not found else table.partition(b"\n")[2]
    return found


def as_parquet(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """The rows as a Parquet file."""
    import pyarrow as pa
    from pyarrow import parquet

    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pylist(list(rows)), sink)
    return sink.getvalue().to_pybytes()
