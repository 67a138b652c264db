"""Hostile and damaged files of a table: each ends in a Problem, with little memory and no traceback."""

from __future__ import annotations

import gzip
import io
import re
import resource
import zipfile
from pathlib import Path

import numpy as np
import openpyxl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from metadist_cli.core.errors import Problem
from metadist_cli.data.readers import table_parquet, table_xlsx
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset

CSV = b"x,y\n" + b"".join(b"%d,%s\n" % (i, b"ab"[i % 2 : i % 2 + 1]) for i in range(8))


def read(path: Path) -> Dataset:
    return DATASETS["table"](0, path=str(path), target="y", missing="mean")


def refused(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(Problem, match=message) as caught:
        read(path)
    assert caught.value.hint


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def spreadsheet() -> bytes:
    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in [["x", "y"], *[[i, "ab"[i % 2]] for i in range(8)]]:
        book.active.append(row)  # pyright: ignore
    book.save(out)
    return out.getvalue()


def with_sheet(xml: str) -> bytes:
    """A spreadsheet whose sheet says this between <worksheet> and </worksheet>."""
    return replaced(
        spreadsheet(), "xl/worksheets/sheet1.xml", lambda old: re.sub(rb"<sheetData>.*</sheetData>", xml.encode(), old)
    )


def replaced(data: bytes, name: str, change) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            content = old.read(info)
            new.writestr(info.filename, change(content) if info.filename == name else content)
    return out.getvalue()


def table(**columns: object) -> bytes:
    out = io.BytesIO()
    parquet.write_table(pa.table(columns), out)
    return out.getvalue()


def test_gzip_is_decompressed_up_to_a_limit(tmp_path: Path) -> None:
    before = peak()
    refused(
        tmp_path / "t.csv.gz",
        gzip.compress(b"x,y\n" + bytes(100 << 20)),
        "more than 67,108,864 bytes when decompressed",
    )
    assert peak() - before < 400


@pytest.mark.parametrize("cut", [3, 12, -9, -3])
def test_broken_gzip_is_refused(cut: int, tmp_path: Path) -> None:
    refused(tmp_path / "t.csv.gz", gzip.compress(CSV)[:cut], "the gzip file is broken")


def test_a_long_text_repeated_in_parquet_is_kept_once(tmp_path: Path) -> None:
    """100 GB as plain text; the file has 100 kB."""
    texts = pa.DictionaryArray.from_arrays(pa.array(np.zeros(1_000_000, np.int32)), pa.array(["long" * 25_000]))
    label = pa.array(np.arange(1_000_000) % 2)
    before = peak()
    path = tmp_path / "t.parquet"
    path.write_bytes(table(t=texts, x=label, y=label))
    assert read(path).x.shape == (1_000_000, 2)
    assert peak() - before < 400


def test_parquet_that_names_too_much_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = table(x=list(range(8)), y=list("abababab"))
    monkeypatch.setattr(table_parquet, "_CELLS", 15)
    monkeypatch.setattr(table_parquet, "_opened", lambda *given, opened=table_parquet._opened: Metadata(opened(*given)))
    refused(tmp_path / "t.parquet", data, "the columns have 16 cells")


class Metadata:
    """A Parquet file whose rows may not be read."""

    def __init__(self, file: parquet.ParquetFile):
        self.metadata, self.schema_arrow = file.metadata, file.schema_arrow


def test_parquet_without_single_values_is_refused(tmp_path: Path) -> None:
    y = list("abababab")
    refused(tmp_path / "t.parquet", table(x=[[i] for i in range(8)], y=y), "holds list")
    refused(tmp_path / "t.parquet", table(x=[b"\xff"] * 8, y=y), "is of type binary, which is not read")
    refused(
        tmp_path / "t.parquet", table(x=pa.array([], pa.int64()), y=pa.array([], pa.string())), "the table has no rows"
    )


def test_a_spreadsheet_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    data = replaced(spreadsheet(), "xl/worksheets/sheet1.xml", lambda old: old + bytes(70 << 20))
    refused(tmp_path / "t.xlsx", data, "more than 67,108,864 bytes unpacked")


def test_entities_of_a_spreadsheet_do_not_grow(tmp_path: Path) -> None:
    """Billion laughs."""
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<!DOCTYPE x [<!ENTITY l0 "ha">{levels}]>'.encode()
    cell = b'<row r="1"><c r="A1" t="str"><v>&l9;</v></c></row>'
    data = replaced(
        spreadsheet(), "xl/worksheets/sheet1.xml", lambda old: bomb + re.sub(b"<sheetData>", b"<sheetData>" + cell, old)
    )
    before = peak()
    refused(tmp_path / "t.xlsx", data, "the spreadsheet cannot be read")
    assert peak() - before < 400


def test_rows_and_columns_of_a_spreadsheet_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far = '<sheetData><row r="99999999999"><c r="A99999999999"><v>1</v></c></row></sheetData>'
    refused(tmp_path / "t.xlsx", with_sheet(far), "more than 1,048,576 rows")
    monkeypatch.setattr(table_xlsx, "_CELLS", 1_000)
    wide = '<sheetData><row r="1"><c r="XFD1"><v>1</v></c></row></sheetData>'
    refused(tmp_path / "t.xlsx", with_sheet(wide), "or 1,000 cells")


def test_formulas_are_not_computed(tmp_path: Path) -> None:
    rows = [["x", "y"], *[['=WEBSERVICE("http://example.org")', "ab"[i % 2]] for i in range(8)]]
    book, out = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        book.active.append(row)  # pyright: ignore
    book.save(out)
    refused(tmp_path / "t.xlsx", out.getvalue(), "is a formula, and the file does not have its value")


def test_other_formats_are_named(tmp_path: Path) -> None:
    refused(tmp_path / "t.csv", b"\xd0\xcf\x11\xe0" + bytes(100), r"an old Excel file \(\.xls\)")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("t.csv", CSV)
    refused(tmp_path / "t.csv", out.getvalue(), "the spreadsheet cannot be read")


def test_links_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "t.csv").write_bytes(CSV)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "t.csv").symlink_to(tmp_path / "secret" / "t.csv")
    with pytest.raises(Problem, match="symbolic link"):
        read(tmp_path / "d")


def test_lines_of_far_too_many_columns_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "t.csv", b"x," * 200_000 + b"y\n", "200,001 columns; a table has at most 100,000")
    refused(tmp_path / "t.csv", CSV + b"1," * 200_000 + b"a\n", "200,001 columns; a table has at most 100,000")
    refused(tmp_path / "t.csv", CSV.replace(b"3,b", b"9" * 200_000 + b",b"), "more than 131,072 characters")


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(["parquet", "xlsx", "csv.gz"]),
    at=st.floats(0, 1),
    junk=st.binary(min_size=1, max_size=8),
    cut=st.booleans(),
)
def test_any_damage_is_a_problem_or_a_table(
    kind: str, at: float, junk: bytes, cut: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    good = {
        "parquet": table(x=list(range(8)), y=list("abababab")),
        "xlsx": spreadsheet(),
        "csv.gz": gzip.compress(CSV),
    }[kind]
    place = int(at * len(good))
    path = tmp_path_factory.mktemp("t") / f"t.{kind}"
    path.write_bytes(good[:place] + junk + (b"" if cut else good[place + len(junk) :]))
    try:
        data = read(path)
    except Problem as problem:
        assert str(path) in str(problem) or problem.where.startswith("data")  # noqa: PT017
    else:
        assert not np.isinf(data.x).any()
