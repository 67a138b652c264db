"""Tables of the kinds that people have: read right, or refused with a hint that, followed to the letter, works."""

from __future__ import annotations

import gzip
import io
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import openpyxl
import pyarrow as pa
import pytest
import yaml
from pyarrow import parquet

from metadist_cli.core.errors import Problem
from metadist_cli.data.sets import DATASETS
from metadist_cli.data.types import Dataset

X = [1.5, -2.25, 3.0, 4.0, 1.5, 0.5]
PLAIN = ["x,y", *[f"{value},{'ab'[i % 2]}" for i, value in enumerate(X)]]
DAY = [
    date(2024, 2, 28),
    date(2024, 2, 29),
    date(2024, 3, 1),
    date(2023, 12, 31),
    date(1969, 12, 31),
    date(2024, 2, 29),
]
DAYS = [(day - date(1970, 1, 1)).days for day in DAY]


class Kind(NamedTuple):
    """A file, and what must come of it."""

    name: str  # of the file
    data: bytes
    x: Sequence[Any]  # (n,) or (n, D), NaN where missing
    refused: Sequence[str] = ()  # what each message says until the table is read; its hint is followed
    meaning: str = ""  # of a cell that could mean two things: which alternative of the hint to follow
    options: Mapping[str, Any] = MappingProxyType({})  # what a person writes who knows the file
    edit: Callable[[bytes], bytes] | None = None  # what the hint says to do to the file


def lines(rows: Sequence[str], end: str = "\n", encoding: str = "utf-8") -> bytes:
    return (end.join(rows) + end).encode(encoding)


def column(cells: Sequence[str], delimiter: str = ",") -> list[str]:
    """A table of one feature: x and a class."""
    return [f"x{delimiter}y", *[f"{cell}{delimiter}{'ab'[i % 2]}" for i, cell in enumerate(cells)]]


def book(rows: Sequence[Sequence[Any]]) -> bytes:
    found, out = openpyxl.Workbook(), io.BytesIO()
    for row in rows:
        found.active.append(row)  # pyright: ignore
    found.save(out)
    return out.getvalue()


def columns(**arrays: Any) -> bytes:
    """A Parquet file."""
    out = io.BytesIO()
    parquet.write_table(pa.table(arrays), out)
    return out.getvalue()


def comma(values: Sequence[float]) -> list[str]:
    return [str(value).replace(".", ",") for value in values]


def replaced(texts: Mapping[str, str]) -> Callable[[bytes], bytes]:
    def edit(data: bytes) -> bytes:
        for old, new in texts.items():
            data = data.replace(old.encode(), new.encode())
        return data

    return edit


GERMAN = ["preis;umsatz;y", "1,50;1.234;a", "2,50;950;b", "3,25;12.345;a", "4,00;1.000;b"]
MANY = [i + 0.25 for i in range(150)]
NAN = float("nan")
KINDS: dict[str, Kind] = {
    "plain": Kind("t.csv", lines(PLAIN), X),
    "semicolons": Kind("t.csv", lines(column(list(map(str, X)), ";")), X),
    "tabs": Kind("t.tsv", lines(column(list(map(str, X)), "\t")), X),
    "bars": Kind("t.txt", lines(column(list(map(str, X)), " | ")), X),
    "blanks": Kind("t.data", lines(column(list(map(str, X)), "   ")), X),
    "mixed line ends": Kind("t.csv", (b"x,y\r\n1,a\n2,b\r3,a\r\n4,b"), [1, 2, 3, 4]),
    "separators at the end of every line": Kind(
        "t.csv", lines([f"{line};" for line in column(list("1234"), ";")]), [1, 2, 3, 4]
    ),
    "separators at the end of rows": Kind("t.csv", lines(["x,y", "1,a,", "2,b,", "3,a,", "4,b,"]), [1, 2, 3, 4]),
    "a separator at the end of the header": Kind("t.csv", lines(["x,y,", "1,a", "2,b", "3,a", "4,b"]), [1, 2, 3, 4]),
    "line breaks in quotes": Kind(
        "t.csv",
        b'x,"note,\nlong",y\n1,"Ulm,\r\nMitte",a\n2,"say ""no""",b\n3,"",a\n4,"\n",b\n',
        [1, 2, 3, 4],
        options={"drop": "note*"},
    ),
    "marks within cells": Kind(
        "t.csv", lines(["x,y", '1,5" pipe', '2,a "b" c', '3,5" pipe', '4,a "b" c']), [1, 2, 3, 4]
    ),
    "quotes after blanks": Kind("t.csv", lines(["x, y", '1, "a, b"', "2, c", '3, "a, b"', "4, c"]), [1, 2, 3, 4]),
    "gzip": Kind("t.csv.gz", gzip.compress(lines(PLAIN)), X),
    "Parquet": Kind("t.parquet", columns(x=X, y=list("ababab")), X),
    "Parquet of many types": Kind(
        "t.parquet",
        columns(
            x=pa.array([1, None, 3, 4], pa.int16()),
            b=[True, False, True, False],
            d=DAY[:4],
            y=pa.array(list("abab")).dictionary_encode(),
        ),
        [[1, 0, 1, DAYS[0]], [NAN, 1, 0, DAYS[1]], [3, 0, 1, DAYS[2]], [4, 1, 0, DAYS[3]]],
        ["look like dates", "1 cell is missing"],
    ),
    "a spreadsheet": Kind("t.xlsx", book([["x", "y"], *[[value, "ab"[i % 2]] for i, value in enumerate(X)]]), X),
    "a spreadsheet with dates and gaps": Kind(
        "t.xlsx",
        book(
            [
                [],
                ["d", "x", "y"],
                *[[datetime(2024, 2, i, 12), None if i == 2 else i, "ab"[i % 2]] for i in range(1, 5)],
            ]
        ),
        [[19754 + i + 0.5, NAN if i == 1 else i + 1] for i in range(4)],
        ["look like dates", "1 cell is missing"],
    ),
    "no header": Kind("t.csv", lines(PLAIN[1:]), X, ["has no column 'y'"], edit=lambda data: b"x,y\n" + data),
    "no header, named in YAML": Kind("t.csv", lines(PLAIN[1:]), X, options={"columns": ["x", "y"]}),
    "no header, decimal commas": Kind(
        "t.csv", lines(column(comma(X), ";")[1:]), X, options={"columns": ["x", "y"], "decimal": ","}
    ),
    "categories": Kind("t.csv", lines(column(["red", "blue", "red", "blue"])), [[0, 1], [1, 0], [0, 1], [1, 0]]),
    "true and false": Kind(
        "t.csv", lines(column(["True", "False", "True", "False"])), [[0, 1], [1, 0], [0, 1], [1, 0]]
    ),
    "known marks of missing cells": Kind(
        "t.csv", lines(column(["NA", "1", "?", "", "nan", "2"])), [NAN, 1, NAN, NAN, NAN, 2], ["4 cells are missing"]
    ),
    "a dash for missing cells": Kind(
        "t.csv", lines(column(["-", "1", "2", "-"])), [NAN, 1, 2, NAN], ["'-' is not a number"]
    ),
    "errors of a spreadsheet": Kind(
        "t.csv", lines(column(["#N/A", "1", "2", "#N/A"])), [NAN, 1, 2, NAN], ["'#N/A' is not a number"]
    ),
    "decimal commas": Kind("t.csv", lines(column(comma(MANY), ";")), MANY, ["',' as decimal mark"]),
    "decimal commas of few values": Kind("t.csv", lines(column(comma(X), ";")), X, ["',' as decimal mark"]),
    "decimal commas in quotes": Kind(
        "t.csv", lines(column([f'"{cell}"' for cell in comma(X)])), X, ["',' as decimal mark"]
    ),
    "decimal commas and gaps": Kind(
        "t.csv",
        lines(column(["1,5", "n/a", "2,5", "3"], ";")),
        [1.5, NAN, 2.5, 3],
        ["',' as decimal mark", "1 cell is missing"],
    ),
    "decimal commas beside points": Kind(
        "t.csv",
        lines(["a;b;y", "1,5;2.5;a", "2,5;3.5;b", "3;4.5;a", "4;5;b"]),
        [[1.5, 2.5], [2.5, 3.5], [3, 4.5], [4, 5]],
        ["',' as decimal mark"],
    ),
    "points where all else has commas": Kind(
        "t.csv",
        lines(["a;b;y", "1,5;2.5;a", "2,5;3.5;b", "3;4.5;a", "4;5;b"]),
        [[1.5, 2.5], [2.5, 3.5], [3, 4.5], [4, 5]],
        ["'.' as decimal mark"],
        options={"decimal": ","},
    ),
    "German numbers": Kind(
        "t.csv",
        lines(column(["1.234,50 €", "2.000 €", "12,25 €", "7 €"], ";")),
        [1234.5, 2000, 12.25, 7],
        ["between thousands and '€'"],
    ),
    "blanks between thousands": Kind(
        "t.csv", lines(column(["1 234", "12", "2 000 000", "5"])), [1234, 12, 2e6, 5], ["' ' between thousands"]
    ),
    "narrow blanks between thousands": Kind(
        "t.csv", lines(column(["1\u202f234", "12", "2\u202f000", "5"])), [1234, 12, 2000, 5], ["' ' between thousands"]
    ),
    "$50,000": Kind(
        "t.csv",
        lines(column(['"$50,000"', '"$60,500"', "-$7", '"$1,000"'])),
        [50000, 60500, -7, 1000],
        ["decimals or of thousands"],
        meaning="50000",
    ),
    "50,000 that are fifty": Kind(
        "t.csv",
        lines(column(["50,000", "60,500", "7,125", "1,000"], ";")),
        [50, 60.5, 7.125, 1],
        ["decimals or of thousands"],
        meaning="50,",
    ),
    "3.5%": Kind("t.csv", lines(column(["3.5%", "2%", "0.25 %", "10%"])), [3.5, 2, 0.25, 10], ["numbers with '%'"]),
    "one unit": Kind(
        "t.csv", lines(column(["5 mg/dl", "6.5 mg/dl", "7mg/dl", "8 mg/dl"])), [5, 6.5, 7, 8], ["numbers with 'mg/dl'"]
    ),
    "two units": Kind(
        "t.csv",
        lines(column(["5 kg", "600 g", "7 kg", "600 g"])),
        [[1, 0, 0], [0, 0, 1], [0, 1, 0], [0, 0, 1]],
        ["numbers with 'g', 'kg'"],
        meaning="one_hot",
    ),
    "dates": Kind("t.csv", lines(column([day.isoformat() for day in DAY])), DAYS, ["look like dates"]),
    "dates with a day first": Kind(
        "t.csv", lines(column([day.strftime("%d.%m.%Y") for day in DAY])), DAYS, ["look like dates"]
    ),
    "dates of two meanings": Kind(
        "t.csv",
        lines(column(["01/02/2024", "03/04/2024", "05/06/2024", "07/08/2024"])),
        [19724, 19786, 19849, 19912],
        ["look like dates"],
        meaning="2024-01-02",
    ),
    "dates with times": Kind(
        "t.csv",
        lines(column(["2024-02-28 12:00", "2024-02-29T06:00:00Z", "2024-02-29 00:00:00+06:00", "2024-03-01"])),
        [19781.5, 19782.25, 19781.75, 19783],
        ["look like dates"],
    ),
    "dates in parts": Kind(
        "t.csv",
        lines(column(["28.02.2024 12:30", "29.02.2024 00:00", "01.03.2023 06:00", "31.12.1969 00:00"])),
        [[2024, 2, 28, 2, 12.5], [2024, 2, 29, 3, 0], [2023, 3, 1, 2, 6], [1969, 12, 31, 2, 0]],
        options={"dates": {"x": "parts"}, "date_format": "%d.%m.%Y %H:%M"},
    ),
    "dates as whole numbers": Kind(
        "t.csv",
        lines(column([day.strftime("%Y%m%d") for day in DAY])),
        DAYS,
        options={"dates": {"x": "days"}, "date_format": "%Y%m%d"},
    ),
    "hours since 1970": Kind(
        "t.csv",
        lines(column(["1970-01-02", "1970-01-01 00:30", "1969-12-31", "1970-01-01"])),
        [24, 0.5, -24, 0],
        options={"dates": {"x": "hours"}},
    ),
    "times of a day": Kind(
        "t.csv", lines(column(["00:00", "12:30", "06:00", "23:45"])), [0, 12.5, 6, 23.75], ["look like dates or times"]
    ),
    "UTF-8 with a mark": Kind("t.csv", lines(["größe,y", *PLAIN[1:]], "\r\n", "utf-8-sig"), X),
    "UTF-16 with a mark": Kind("t.csv", lines(["größe,y", *PLAIN[1:]], "\r\n", "utf-16"), X),
    "UTF-16 without a mark": Kind(
        "t.csv", lines(["größe,y", *PLAIN[1:]], "\r\n", "utf-16-le"), X, ["looks like UTF-16"]
    ),
    "cp1252": Kind("t.csv", lines(["größe,y", *PLAIN[1:]], "\r\n", "cp1252"), X, ["not UTF-8 text"]),
    "GBK": Kind(
        "t.csv",
        lines(["城市,y", "北京,a", "上海,b", "北京,a", "上海,b"], encoding="gbk"),
        [[0, 1], [1, 0], [0, 1], [1, 0]],
        options={"encoding": "gbk"},
    ),
    "an unnamed column with values": Kind(
        "t.csv",
        lines(["x,,y", "1,5,a", "2,6,b", "3,5,a", "4,9,b"]),
        [1, 2, 3, 4],
        ["column 2 has values but no name"],
        meaning="drop",
    ),
    "an unnamed column that is empty": Kind("t.csv", lines(["x,,y", "1,,a", "2,,b", "3,,a", "4,,b"]), [1, 2, 3, 4]),
    "an unnamed column of row numbers": Kind(
        "t.csv", lines([",x,y", "0,1,a", "1,2,b", "2,3,a", "3,4,b"]), [1, 2, 3, 4]
    ),
    "row names of R": Kind(
        "t.csv", lines(['"x","y"', '"1",1,"a"', '"2",2,"b"', '"3",3,"a"', '"4",4,"b"']), [1, 2, 3, 4]
    ),
    "two columns of one name": Kind(
        "t.csv",
        lines(["x,x,y", "1,5,a", "2,6,b", "3,7,a", "4,8,b"]),
        [[1, 5], [2, 6], [3, 7], [4, 8]],
        ["two columns are called 'x'"],
        edit=lambda data: data.replace(b"x,x", b"x,z"),
    ),
    "ids with zeros in front": Kind(
        "t.csv",
        lines(column(["01234", "02345", "01234", "12345"])),
        [[1, 0, 0], [0, 1, 0], [1, 0, 0], [0, 0, 1]],
        ["looks like codes"],
        meaning="one_hot",
    ),
    "ids that lost their zeros": Kind(
        "t.csv",
        lines(column(["01234", "987", "01234", "12345"])),
        [[0, 1, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]],
        ["looks like codes"],
        meaning="one_hot",
    ),
    "short numbers with zeros in front": Kind("t.csv", lines(column(["007", "12", "0", "5"])), [7, 12, 0, 5]),
    "a long zero": Kind("t.csv", lines(column(["0000", "12", "987", "5"])), [0, 12, 987, 5]),
    "zeros in front of measures": Kind("t.csv", lines(column(["0123", "1.5", "-2", "1e3"])), [123, 1.5, -2, 1000]),
    "German thousands beside decimal commas": Kind(
        "t.csv",
        lines(GERMAN),
        [[1.5, 1234], [2.5, 950], [3.25, 12345], [4, 1000]],
        ["'.' between thousands, beside a column with decimal commas"],
        meaning="is 1234,",
        options={"decimal": {"preis": ","}},
    ),
    "points of three digits beside decimal commas": Kind(
        "t.csv",
        lines(GERMAN),
        [[1.5, 1.234], [2.5, 950], [3.25, 12.345], [4, 1]],
        ["'.' between thousands, beside a column with decimal commas"],
        meaning="is 1.234",
        options={"decimal": {"preis": ","}},
    ),
    "small fractions beside decimal commas": Kind(
        "t.csv",
        lines([line.replace("1.234", "0.234") for line in GERMAN]),
        [[1.5, 0.234], [2.5, 950], [3.25, 12.345], [4, 1]],
        ["',' as decimal mark"],
    ),
    "Indian thousands": Kind(
        "t.csv",
        lines(column(['"1,23,456"', '"12,345"', "950", '"12,34,567.50"'])),
        [123456, 12345, 950, 1234567.5],
        ["',' between thousands"],
    ),
    "durations": Kind(
        "t.csv",
        lines(column(["26:15:00", "1:30:00", "0:45:00", "-2:00:00"])),
        [26.25, 1.5, 0.75, -2],
        ["look like durations"],
        edit=replaced({"26:15:00": "26.25", "1:30:00": "1.5", "0:45:00": "0.75", "-2:00:00": "-2"}),
    ),
    "durations in a spreadsheet": Kind(
        "t.xlsx",
        book([["x", "y"], *[[timedelta(hours=20 + 3 * i), "ab"[i % 2]] for i in range(4)]]),
        np.eye(4)[[2, 3, 0, 1]].tolist(),
        ["look like durations"],
        meaning="one_hot",
    ),
    "negative numbers in parentheses": Kind(
        "t.csv",
        lines(column(['"($1,000)"', '"$1,500"', "($20)", "$30"])),
        [-1000, 1500, -20, 30],
        ["some in parentheses", "decimals or of thousands"],
        meaning="is -1000",
        edit=replaced({"($1,000)": "-$1,000", "($20)": "-$20"}),
    ),
    "one letter for a unit": Kind(
        "t.csv", lines(column(["4G", "16G", "8G", "2G"])), [4, 16, 8, 2], ["numbers with 'G'"]
    ),
    "two ways to write one unit": Kind(
        "t.csv",
        lines(column(["4G", "16GB", "8G", "2GB"])),
        [4, 16, 8, 2],
        ["numbers with 'G', 'GB'", "numbers with 'G'"],
        edit=replaced({"GB": "G"}),
    ),
    "an unknown unit": Kind(
        "t.csv", lines(column(["12px", "14px", "9px", "8px"])), [12, 14, 9, 8], ["numbers with 'px'"]
    ),
    "ranges": Kind("t.csv", lines(column(["18-24", "25-34", "18-24", "25-34"])), [[1, 0], [0, 1], [1, 0], [0, 1]]),
    "versions": Kind("t.csv", lines(column(["1.2.3", "1.2.4", "1.2.3", "1.2.4"])), [[1, 0], [0, 1], [1, 0], [0, 1]]),
    "ordinals": Kind("t.csv", lines(column(["1st", "2nd", "1st", "2nd"])), [[1, 0], [0, 1], [1, 0], [0, 1]]),
    "dates of two formats": Kind(
        "t.csv",
        lines(column(["1970-01-02", "31.12.1969", "1970-01-03", "30.12.1969"])),
        [1, -1, 2, -2],
        ["several formats", "look like dates"],
        edit=replaced({"31.12.1969": "1969-12-31", "30.12.1969": "1969-12-30"}),
    ),
    "categories that differ in case": Kind(
        "t.csv",
        lines(column(["TRUE", "true", "FALSE", "FALSE"])),
        [[0, 1], [0, 1], [1, 0], [1, 0]],
        ["'true' and 'TRUE' in this column differ in case alone"],
        edit=replaced({"true": "TRUE"}),
    ),
    "categories whose case matters": Kind(
        "t.csv",
        lines(column(["a", "A", "a", "A"])),
        [[0, 1], [1, 0], [0, 1], [1, 0]],
        ["'A' and 'a' in this column differ in case alone"],
        meaning="one_hot",
    ),
    "classes that differ in case": Kind(
        "t.csv",
        lines(["x,y", "1,Yes", "2,yes", "3,No", "4,No"]),
        [1, 2, 3, 4],
        ["the classes 'Yes' and 'yes' differ in case alone"],
        edit=replaced({"yes": "Yes"}),
    ),
    "a total below": Kind(
        "t.csv",
        lines(["city,x,y", "Ulm,1,a", "Ulm,2,b", "Ulm,3,a", "Ulm,4,b", "Total,10,"]),
        [1, 2, 3, 4],
        ["looks like a total"],
        options={"groups": "city", "missing": "drop"},
        edit=replaced({"Total,10,\n": ""}),
    ),
    "a last row of a group without classes": Kind(
        "t.csv",
        lines(["city,x,y", "Ulm,1,a", "Ulm,2,b", "Ulm,3,a", "Ulm,4,b", "All,10,"]),
        [1, 2, 3, 4],
        ["leaves no row of 'All'"],
        options={"groups": "city", "missing": "drop"},
        edit=replaced({"All,10,\n": ""}),
    ),
    "formulas without values": Kind(
        "t.xlsx",
        book([["x", "y"], *[[f"={i}+1", "ab"[i % 2]] for i in range(4)]]),
        [1, 2, 3, 4],
        ["'=0+1' is a formula, and the file does not have its value"],
        edit=lambda _: book([["x", "y"], *[[i + 1, "ab"[i % 2]] for i in range(4)]]),
    ),
    "a title in a spreadsheet": Kind(
        "t.xlsx",
        book([["Report"], ["x", "y"], *[[i, "ab"[i % 2]] for i in range(4)]]),
        [0, 1, 2, 3],
        ["'Report' stands above the columns"],
        edit=lambda _: book([["x", "y"], *[[i, "ab"[i % 2]] for i in range(4)]]),
    ),
    **{
        f"above the header: {' / '.join(title)}": Kind(
            "t.csv",
            lines([*title, *PLAIN]),
            X,
            [f"{title[0]!r} stands above the columns and does not name them"],
            edit=lambda data, title=title: data.removeprefix(lines(title)),
        )
        for title in (
            ["sep=,"],
            ["# exported, today, by me"],
            ["Report 2024"],
            ["Report 2024,"],
            ['"Sales, 2024"'],
            ["# a", "", "# b, c, d"],
        )
    },
    "a header that begins with #": Kind("t.csv", lines(["#x,y", *PLAIN[1:]]), X),
    "minus signs of typographers": Kind("t.csv", lines(column(["−1.5", "2", "−3", "4"])), [-1.5, 2, -3, 4]),
    "a row that is too short": Kind(
        "t.csv",
        lines([*PLAIN, "7"]),
        [*X, 7],
        ["this row has 1 columns"],
        edit=lambda data: data.replace(b"\n7\n", b"\n7,a\n"),
    ),
}


def read(path: Path, options: dict[str, Any]) -> Dataset:
    return DATASETS["table"](0, path=str(path), target="y", **options)


def follow(hint: str, meaning: str) -> dict[str, Any]:
    """The options that a hint says to write: those of the alternative with this meaning, or the first."""
    parts = [part for part in re.split(r"; (?:or )?|, or ", hint) if meaning in part]
    text = parts[0].rpartition("write ")[2] if "write " in parts[0] else parts[0]
    text = re.sub(r" (?:makes|leaves|to make|\().*|one of these: ", "", text)
    options: dict[str, Any] = {}
    for line in re.split(r" and (?=\w+: )", text):
        options |= yaml.safe_load(line)
    return options


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_is_read_right_or_its_hint_works(kind: str, tmp_path: Path) -> None:
    path, case = tmp_path / KINDS[kind].name, KINDS[kind]
    path.write_bytes(case.data)
    options = dict(case.options)
    for message in case.refused:
        with pytest.raises(Problem, match=re.escape(message)) as caught:
            read(path, options)
        assert caught.value.hint
        if case.edit and (edited := case.edit(path.read_bytes())) != path.read_bytes():
            path.write_bytes(edited)
        else:
            options |= follow(caught.value.hint, case.meaning)
    data = read(path, options)
    wanted = np.array(case.x, dtype=np.float32).reshape(len(case.x), -1)
    np.testing.assert_array_equal(data.x, wanted)
    assert len(data.classes) == 2
    assert sum(feature.size for feature in data.features) == data.x.shape[1]


def test_there_are_twenty_kinds() -> None:
    assert len(KINDS) >= 20


def test_wrong_cells_are_named_by_the_line_of_the_file(tmp_path: Path) -> None:
    """Line breaks in quotes, blank lines and a header of two lines are counted."""
    path = tmp_path / "t.csv"
    path.write_bytes(b'"x\n(m)",note,y\n1,"two\nlines",a\n\n2,b,b\n5Z,"three\n\nlines",a\n4,d,b\n')
    with pytest.raises(Problem, match="'5Z' is not a number") as caught:
        read(path, {"drop": "note"})
    assert caught.value.where == f"{path}:7:x\n(m)"
    path.write_bytes(path.read_bytes().replace(b"5Z", b"3"))
    assert read(path, {"drop": "note"}).x.tolist() == [[1], [2], [3], [4]]


def test_cells_of_spreadsheets_and_parquet_are_named_by_their_row(tmp_path: Path) -> None:
    rows = [["x", "y"], [1, "a"], [], [2, "b"], ["5Z", "a"], [3, "b"]]
    (tmp_path / "t.xlsx").write_bytes(book(rows))
    (tmp_path / "t.parquet").write_bytes(columns(x=["1", "2", "5Z", "3"], y=list("abab")))
    for name, row in (("t.xlsx", 5), ("t.parquet", 3)):
        with pytest.raises(Problem, match="'5Z' is not a number") as caught:
            read(tmp_path / name, {})
        assert caught.value.where == f"{tmp_path / name}:{row}:x"


@pytest.mark.parametrize(
    ("good", "odd"),
    [
        ([f"{i % 3},{i % 7}" for i in range(20)], "1,,2"),
        ([f"{i % 3},{i % 7}" for i in range(20)], "l4,2"),
        ([f"${i},000" for i in range(1, 21)], "(5,000)"),
        ([f"2024-02-{i:02}" for i in range(1, 21)], "2024-02-30"),
        ([f"2024-02-{i:02}" for i in range(1, 21)], "21.02.2024"),
        ([f"{i}.02.2024" for i in range(1, 21)], "0.0.0000"),
    ],
)
def test_one_odd_cell_does_not_make_categories_of_a_column(good: list[str], odd: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [f"{cell};{'ab'[i % 2]}" for i, cell in enumerate([*good[:7], odd, *good[7:]])]
    path.write_text("\n".join(["x;y", *rows]))
    with pytest.raises(Problem, match=rf"'{re.escape(odd)}' is unlike the rest of this column") as caught:
        read(path, {})
    assert caught.value.where == f"{path}:9:x"
    assert read(path, follow(caught.value.hint, "one_hot")).x.shape == (21, len({*good, odd}))
    path.write_text("\n".join(["x;y", *(row for row in rows if odd not in row)]))
    with pytest.raises(Problem, match="the rest of this column look"):
        read(path, {})


@pytest.mark.parametrize("missing", ["", "NA", " "])
def test_codes_are_codes_beside_missing_cells_and_in_parquet(missing: str, tmp_path: Path) -> None:
    x = [missing, "98765", "01234 ", "10001"]
    (tmp_path / "t.csv").write_text("\n".join(["x,y", *map(",".join, zip(x, "abab", strict=True))]))
    (tmp_path / "t.parquet").write_bytes(columns(x=x, y=list("abab")))
    for name, row in (("t.csv", 4), ("t.parquet", 3)):
        with pytest.raises(Problem, match="'01234' has zeros in front") as caught:
            read(tmp_path / name, {"missing": "mean"})
        assert caught.value.where == f"{tmp_path / name}:{row}:x"


def test_texts_that_are_all_missing_in_parquet_are_an_empty_column(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(columns(x=pa.nulls(4), z=[1.0, 2, 3, 4], y=list("abab")))
    with pytest.raises(Problem, match="this column is empty"):
        read(tmp_path / "t.parquet", {})
    assert read(tmp_path / "t.parquet", {"drop": "x"}).x.tolist() == [[1], [2], [3], [4]]


def test_columns_after_nested_ones_of_parquet_are_read(tmp_path: Path) -> None:
    nested = pa.array([{"p": 7, "q": {"r": 8, "s": [9]}}] * 4)
    pairs = pa.array([[("k", 5)]] * 4, pa.map_(pa.string(), pa.int64()))
    (tmp_path / "t.parquet").write_bytes(columns(n=nested, x=[1, 2, 3, 4], m=pairs, y=list("abab"), z=[5, 6, 7, 8]))
    with pytest.raises(Problem, match="in place of single values"):
        read(tmp_path / "t.parquet", {})
    assert read(tmp_path / "t.parquet", {"drop": ["n", "m"]}).x.tolist() == [[1, 5], [2, 6], [3, 7], [4, 8]]


def test_a_sheet_is_chosen_by_name(tmp_path: Path) -> None:
    out, found = io.BytesIO(), openpyxl.Workbook()
    found.active.append(["nothing"])  # pyright: ignore
    other = found.create_sheet("data")
    for row in [["x", "y"], [1, "a"], [2, "b"], [3, "a"], [4, "b"]]:
        other.append(row)
    found.create_sheet("empty")
    found.save(out)
    (tmp_path / "t.xlsx").write_bytes(out.getvalue())
    with pytest.raises(Problem, match="the file has 2 sheets: Sheet, data"):
        read(tmp_path / "t.xlsx", {})
    with pytest.raises(Problem, match="no sheet 'dat'"):
        read(tmp_path / "t.xlsx", {"sheet": "dat"})
    assert len(read(tmp_path / "t.xlsx", {"sheet": "data"}).x) == 4


def test_features_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text(
        "id,age,city,when,price,y\n,61,Ulm,2024-01-31,$5,a\n,?,Bonn,2024-02-01,$6,b\n,50,Ulm,2024-02-02,$7,a\n"
    )
    path.write_text(path.read_text().replace("id,", "").replace("\n,", "\n"))
    options = {"dates": {"when": "days"}, "symbols": {"price": "$"}, "missing": "indicator", "classes": ["a", "b"]}
    found = {feature.name: feature[1:] for feature in read(path, options).features}
    assert found == {
        "age": ("number", 1, "", 1 / 3, ("61", "50")),
        "city": ("category", 2, "", 0.0, ("Ulm", "Bonn")),
        "when": ("date", 1, "days", 0.0, ("2024-01-31", "2024-02-01", "2024-02-02")),
        "price": ("number", 1, "$", 0.0, ("5", "6", "7")),
        "age is missing": ("indicator", 1, "", 0.0, ()),
    }
    plain = read(path, options | {"one_hot": ["age"]})
    assert plain.features[0].kind == "category"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decimal": ",", "thousands": ","}, "cannot be both"),
        ({"encoding": "utf8mb4"}, "is not the name of an encoding"),
        ({"encoding": "zip"}, "is not the name of an encoding"),
        ({"encoding": "punycode"}, "is not the name of an encoding"),
        ({"symbols": {"prize": "$"}}, "has no column 'prize'"),
        ({"dates": {"x": "days"}}, "'1.5' is not a date"),
        ({"dates": {"x": "days"}, "date_format": "%d.%m."}, "'1.5' is not a date of the format"),
        ({"dates": {"x": "days"}, "date_format": "%Q"}, "'1.5' is not a date of the format"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(lines(PLAIN))
    with pytest.raises(Problem, match=re.escape(message)) as caught:
        read(tmp_path / "t.csv", options)
    assert caught.value.hint


def test_rows_keep_their_order_over_many_batches(tmp_path: Path) -> None:
    """As many rows as both parsers take in several steps; Python's reads those with a mark within a cell."""
    cells = list(range(20_000))
    for note in ("plain", 'a "b" c'):
        rows = ["x,note,y", *[f"{cell},{note},{'ab'[cell % 2]}" for cell in cells]]
        (tmp_path / "t.csv").write_bytes(lines(rows))
        data = read(tmp_path / "t.csv", {"drop": "note"})
        assert all(b - a == 1 for a, b in pairwise(data.x[:, 0].tolist()))
