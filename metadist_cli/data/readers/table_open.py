"""Which reader a file of a table is for, by what it begins with and by its name."""

from __future__ import annotations

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers.members import Member
from metadist_cli.data.readers.table_arff import arff
from metadist_cli.data.readers.table_bytes import unpacked, utf8
from metadist_cli.data.readers.table_format import Format
from metadist_cli.data.readers.table_parquet import parquet
from metadist_cli.data.readers.table_sheet import Sheet
from metadist_cli.data.readers.table_text import delimited
from metadist_cli.data.readers.table_xlsx import xlsx

_OTHERS = {b"\xd0\xcf\x11\xe0": "an old Excel file (.xls)", b"ARROW1": "an Arrow file", b"\x89HDF": "an HDF5 file"}


def sheet(file: Member, form: Format) -> Sheet:
    """The header of a table: Parquet or .xlsx by how the file begins, .arff by its name, else delimited text.

    Raises:
        Problem: DATA or CONFIG, where the file, or its first line, is not as it should be.
    """
    data = unpacked(file)
    if data.startswith(b"PAR1"):
        return parquet(data, file.where, form)
    if data.startswith(b"PK\x03\x04"):
        return xlsx(data, file.where, form)
    if kind := next((kind for start, kind in _OTHERS.items() if data.startswith(start)), None):
        raise Problem(f"this is {kind}, which is not read", file.where, "save it as .xlsx, Parquet or CSV", DATA)
    text = utf8(data, form.encoding, file.where, form.options)
    if file.where.lower().removesuffix(".gz").endswith(".arff"):
        return arff(text, file.where, form)
    return delimited(text, file.where, form)
