"""Broken inputs of the reader `table`, and the whole message that each must give.

Each case: a name, a function that writes the files into a folder and gives the `data:` section, and the message. To be
read with the folder as the current one.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

Make = Callable[[Path], str]

GOOD = ["age,sex,city,sick", "61,M,Ulm,yes", "35,F,Bonn,no", "52,F,Ulm,yes", "44,M,Bonn,no"]


def table(lines: list[str], options: str = "target: sick") -> Make:
    return files({"own.csv": text(lines)}, f"path: own.csv, {options}")


def files(contents: dict[str, bytes], section: str) -> Make:
    def make(folder: Path) -> str:
        for name, data in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return f"{{name: table, {section}}}"

    return make


def with_line(line: str) -> list[str]:
    """The good table with another line 4."""
    return [*GOOD[:3], line, *GOOD[4:]]


def zipped(members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def text(lines: list[str]) -> bytes:
    return ("\n".join(lines) + "\n").encode()


RATINGS = ["user,place,rating", "u1,p1,good", "u1,p2,bad", "u2,p1,bad", "u2,p2,good"]
PLACES = ["place,price", "p1,9", "p2,20"]
JOIN = "path: own, file: ratings.csv, target: rating, groups: [user], join: {places.csv: place}"
ARFF = ["@relation r", "@attribute x numeric", "@attribute c {a, b}", "@data", "1,a", "2,a", "3,b", "?,b"]


def joined(places: list[str], options: str = "") -> Make:
    return files({"own/ratings.csv": text(RATINGS), "own/places.csv": text(places)}, JOIN + options)


def bomb(folder: Path) -> str:
    """70 MiB in 70 KiB."""
    return files({"own.zip": zipped({"own.csv": text(GOOD[:1]) + bytes(70 << 20)})}, "path: own.zip, target: sick")(
        folder
    )


CASES: list[tuple[str, Make, str]] = [
    (
        "wrong column",
        table(GOOD, "target: sik"),
        "data.target: there is no column 'sik' in own.csv\n  -> did you mean 'sick'?",
    ),
    (
        "wrong feature pattern",
        table(GOOD, "target: sick, drop: ['bill*']"),
        "data.drop: there is no column 'bill*' in own.csv\n  -> there are: age, city, sex, sick",
    ),
    (
        "wrong group",
        table(GOOD, "target: sick, groups: [hospital]"),
        "data.groups: there is no column 'hospital' in own.csv\n  -> there are: age, city, sex, sick",
    ),
    (
        "no such path",
        files({}, "path: own.csv, target: sick"),
        "own.csv: there is no such file or folder\n  -> check the path, or set METADIST_DATA to its folder",
    ),
    (
        "no header",
        table(["63,1,145,0", "67,1,160,2", "41,0,130,0"], "target: sick"),
        "data.target: there is no column 'sick' in own.csv\n"
        "  -> its first line looks like data: if it is, name the columns in data.columns",
    ),
    (
        "no header, equal cells",
        table(["1,1,145,0", "67,1,160,2", "41,0,130,0"], "target: sick"),
        "own.csv:1: there are two columns '1'\n"
        "  -> rename one of them; if this line is data already, name the columns in data.columns",
    ),
    (
        "duplicate column",
        table(["age,sick,age", *["1,no,2"] * 4]),
        "own.csv:1: there are two columns 'age'\n"
        "  -> rename one of them; if this line is data already, name the columns in data.columns",
    ),
    (
        "class of one row",
        table([*GOOD, "50,F,Ulm,maybe"]),
        "own.csv:6:sick: the class 'maybe' has one row, which cannot be learnt from and tested on\n"
        "  -> mend it, or leave the row out; if it is right, list all in data.classes",
    ),
    (
        "one class",
        table([line.replace("yes", "no") for line in GOOD]),
        "own.csv:2:sick: all rows are of one class, no\n  -> name another target",
    ),
    (
        "measure as classes",
        table(["x,y", *[f"{i},{i * 1.5}" for i in range(30)]], "target: y"),
        "own.csv:2:y: the target has 30 values (0, 1.5, 3, 4.5, 6, 7.5 ...)\n"
        "  -> write kind: regression if it is a measure, or set data.above; else list all in data.classes",
    ),
    (
        "label out of range",
        table(with_line("52,F,Ulm,5"), "target: sick, classes: ['no', 'yes']"),
        "own.csv:4:sick: '5' is none of data.classes\n  -> there are: no, yes",
    ),
    (
        "label out of range in ARFF",
        files({"own.arff": text([*ARFF, "4,c"])}, "path: own.arff, target: c, missing: mean"),
        "own.arff:9:c: 'c' is none of the values in the header\n  -> there are: a, b",
    ),
    (
        "missing label",
        table(with_line("52,F,Ulm,"), "target: sick, missing: mean"),
        "own.csv:4:sick: the cell is missing\n"
        "  -> each row needs its sick: fill it in, or leave such rows out with missing: drop",
    ),
    (
        "missing node",
        table(with_line("52,F,?,yes"), "target: sick, groups: [city], missing: mean"),
        "own.csv:4:city: the cell is missing\n"
        "  -> each row needs its city: fill it in, or leave such rows out with missing: drop",
    ),
    (
        "NaN cell",
        table(with_line("nan,F,Ulm,yes")),
        "own.csv:4:age: 1 cell is missing (age 1)\n"
        "  -> write missing: mean (of training rows), indicator (says where, too), or drop (leaves the rows out)",
    ),
    (
        "Inf cell",
        table(with_line("-inf,F,Ulm,yes")),
        "own.csv:4:age: '-inf' is no finite number, or too large\n  -> mend it, or leave it empty if it is missing",
    ),
    (
        "Inf cell after blank lines",
        table([*GOOD[:2], "", " ", GOOD[2], "inf,F,Ulm,yes"]),
        "own.csv:6:age: 'inf' is no finite number, or too large\n  -> mend it, or leave it empty if it is missing",
    ),
    (
        "number too large",
        table(with_line("1e39,F,Ulm,yes")),
        "own.csv:4:age: '1e39' is no finite number, or too large\n  -> mend it, or leave it empty if it is missing",
    ),
    (
        "typing slip",
        table(with_line("5Z,F,Ulm,yes")),
        "own.csv:4:age: '5Z' is no number, as the others of this column\n"
        "  -> mend it, drop the column, or, if each text is a value, write one_hot: [age]",
    ),
    (
        "decimal commas",
        table(["a;y", *[f"{i},5;{i % 2}" for i in range(150)]], "target: y"),
        "own.csv:102:a: the column 'a' has more than 100 different texts\n  -> write numbers with a point, such as 0.5",
    ),
    (
        "names as a feature",
        table(["name,y", *[f"n{i},{i % 2}" for i in range(150)]], "target: y"),
        "own.csv:102:name: the column 'name' has more than 100 different texts\n"
        "  -> drop it, or, if each is to be a feature of its own, name it in data.one_hot",
    ),
    (
        "text as a measure",
        table(GOOD, "target: city, kind: regression"),
        "own.csv:2:city: the column 'city' is of texts, where numbers are needed\n  -> name another column",
    ),
    (
        "above all",
        table(GOOD, "target: age, above: 100"),
        "own.csv:2:age: all rows are at most 100\n  -> choose another data.above, or leave it out",
    ),
    (
        "row too short",
        table(with_line("52,F,yes")),
        "own.csv:4: this row has 3 columns, the table has 4\n  -> add or remove some, or quote text with commas",
    ),
    (
        "row too long",
        table(with_line("52,F,Ulm,Ulm,yes")),
        "own.csv:4: this row has 5 columns, the table has 4\n  -> add or remove some, or quote text with commas",
    ),
    (
        "truncated in the middle of a row",
        files({"own.csv": text([*GOOD, "71,M"])[:-1]}, "path: own.csv, target: sick"),
        "own.csv:6: this row has 2 columns, the table has 4\n  -> add or remove some, or quote text with commas",
    ),
    (
        "open quotation mark",
        table(with_line('52,F,"Ulm,yes')),
        'own.csv:4: a quotation mark is open at the end of this line\n  -> close it; within quotes write ""',
    ),
    (
        "misplaced quotation mark",
        table(with_line('52,F,"Ulm"s,yes')),
        "own.csv:4: this is no table: ',' expected after '\"'\n  -> are quotation marks where they should be?",
    ),
    (
        "not UTF-8",
        files({"own.csv": text(GOOD).replace(b"Bonn", b"K\xf6ln")}, "path: own.csv, target: sick"),
        "own.csv:3: this is no UTF-8 text\n  -> write encoding: latin-1 or cp1252, or save the table as UTF-8",
    ),
    (
        "empty file",
        files({"own.csv": b""}, "path: own.csv, target: sick"),
        "own.csv:1: the file is empty\n  -> leave it out, or fetch it again",
    ),
    ("header alone", table(GOOD[:1]), "own.csv: the table has no rows\n  -> leave the file out, or fetch it again"),
    (
        "empty file of a node",
        files({"own/a.csv": text(GOOD), "own/b.csv": text(GOOD[:1])}, 'path: own, file: "*.csv", target: sick'),
        "own/b.csv: the table has no rows\n  -> leave the file out, or fetch it again",
    ),
    (
        "node lost by drop",
        files(
            {"own/a.csv": text(GOOD), "own/b.csv": text([GOOD[0], "?,M,Ulm,yes", "?,F,Ulm,no"])},
            'path: own, file: "*.csv", target: sick, missing: drop',
        ),
        "own/b.csv: missing: drop leaves no row of 'b'\n"
        "  -> drop the columns that are empty there, or write missing: mean",
    ),
    (
        "empty column",
        table([GOOD[0], *[",".join(["", *line.split(",")[1:]]) for line in GOOD[1:]]], "target: sick, missing: mean"),
        "own.csv:2:age: this column is empty\n  -> drop it",
    ),
    (
        "files of other columns",
        files(
            {"own/a.csv": text(GOOD), "own/b.csv": text([line.replace("city", "town") for line in GOOD])},
            'path: own, file: "*.csv", target: sick',
        ),
        "own/b.csv: the column 'city' is in own/a.csv alone\n  -> files of one table have the same columns",
    ),
    (
        "which file",
        files({"own/a.csv": text(GOOD), "own/b.csv": text(GOOD)}, "path: own, target: sick"),
        "own: there are 2 tables here: a.csv, b.csv\n"
        '  -> name one in data.file, or several: with file: "*.csv" each file is a group of rows',
    ),
    (
        "no such file",
        files({"own/a.csv": text(GOOD)}, "path: own, file: c.csv, target: sick"),
        "own: no file is called 'c.csv'\n  -> there are: a.csv",
    ),
    (
        "two files of one name",
        files({"own/a/x.csv": text(GOOD), "own/b/x.csv": text(GOOD)}, "path: own, file: x.csv, target: sick"),
        "own/b/x.csv: two files are called 'x', the other is own/a/x.csv\n  -> write more of their path",
    ),
    (
        "truncated zip",
        files({"own.zip": zipped({"own.csv": text(GOOD)})[:-30]}, "path: own.zip, target: sick"),
        "own.zip: the zip archive is broken: File is not a zip file\n  -> fetch the archive again",
    ),
    (
        "damaged zip",
        files(
            {"own.zip": zipped({"own.csv": text(GOOD)}, zipfile.ZIP_STORED).replace(b"Ulm", b"Bad", 1)},
            "path: own.zip, target: sick",
        ),
        "own.zip: the zip archive is broken: Bad CRC-32 for file 'own.csv'\n  -> fetch the archive again",
    ),
    (
        "zip bomb",
        bomb,
        "own.zip: the archive has more than 67,108,864 bytes unpacked\n  -> fetch the archive again",
    ),
    (
        "archive with a way out",
        files({"own.zip": zipped({"../own.csv": text(GOOD)})}, "path: own.zip, target: sick"),
        "own.zip: the name '../own.csv' leads out of the archive\n"
        "  -> make the archive anew, from within the folder of the data",
    ),
    (
        "key missing",
        joined(PLACES[:2]),
        "own/ratings.csv:3:place: 'p2' is not in own/places.csv\n"
        "  -> add it there, or write missing: mean, indicator or drop",
    ),
    (
        "key twice",
        joined([*PLACES, "p1,11"]),
        "own/places.csv:4:place: 'p1' stands here again, first in line 2\n"
        "  -> a row is joined to one other: keep one of them, or leave the file out",
    ),
    (
        "no key column",
        joined(["id,price", *PLACES[1:]]),
        "data.join: there is no column 'place' in own/places.csv\n  -> did you mean 'price'?",
    ),
    (
        "no key matches",
        joined(["place,price", "x,1", "y,2"], ", missing: mean"),
        "own/ratings.csv:2:place: no row of own/places.csv has a 'place' of this table\n"
        "  -> is it the right file, and the right column?",
    ),
    (
        "file that leaves the folder",
        files(
            {"own/ratings.csv": text(RATINGS), "places.csv": text(PLACES)}, JOIN.replace("places.csv", "../places.csv")
        ),
        "own: no file is called '../places.csv'\n  -> there are: ratings.csv",
    ),
    (
        "ARFF header",
        files({"own.arff": text([*ARFF[:2], "@atribute c {a, b}", *ARFF[3:]])}, "path: own.arff, target: c"),
        "own.arff:3: '@atribute c {a, b}' is no line of an ARFF header\n  -> write @attribute NAME TYPE, or @data",
    ),
    (
        "ARFF text as a number",
        files({"own.arff": text([*ARFF, "x,b"])}, "path: own.arff, target: c, missing: mean"),
        "own.arff:9:x: 'x' is no number, as the header says\n  -> write ? where it is missing",
    ),
    (
        "sparse ARFF",
        files({"own.arff": text([*ARFF, "{0 1, 1 b}"])}, "path: own.arff, target: c, missing: mean"),
        "own.arff:9:x: '{0 1' is no number, as the header says\n  -> write ? where it is missing",
    ),
    (
        "unknown part of a split",
        table(["x,part,y", "1,train,a", "2,dev,b", "3,test,a", "4,test,b"], "target: y, split: part"),
        "own.csv:3:part: 'dev' is no part of a split\n"
        "  -> write true or false, 0, 1, 2 (train, validation, test), or these words",
    ),
    (
        "no features",
        table(GOOD, "target: sick, features: [age], drop: [age]"),
        "data: no column is a feature\n  -> drop less, or name some in data.features",
    ),
    (
        "idle option",
        table(GOOD, "target: sick, unit: 1000"),
        "data.unit: `unit` means nothing for a classification\n  -> take it out, or change data.kind",
    ),
]
