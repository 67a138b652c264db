"""Broken inputs of the reader `table`; broken/table/ has the whole message that each must give.

Each case: a name, and a function that writes the files into a folder and returns the `data:` section, to be read with
that folder as the current one.
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


CASES: dict[str, Make] = {
    "wrong column": table(GOOD, "target: sik"),
    "wrong feature pattern": table(GOOD, "target: sick, drop: ['bill*']"),
    "wrong group": table(GOOD, "target: sick, groups: [hospital]"),
    "no such path": files({}, "path: own.csv, target: sick"),
    "no header": table(["63,1,145,0", "67,1,160,2", "41,0,130,0"], "target: sick"),
    "no header, few numbers": table(["a,145,0,Ulm,m", "b,160,2,Bonn,f", "c,130,0,Ulm,m"], "target: sick"),
    "title above the header": table(["# exported by hand", "Patients 2024", *GOOD]),
    "total below": table([*GOOD, "192,,Total,"]),
    "classes that differ in case": table([*GOOD, "50,F,Ulm,Yes", "51,F,Ulm,Yes"]),
    "no header, equal cells": table(["1,1,145,0", "67,1,160,2", "41,0,130,0"], "target: sick"),
    "duplicate column": table(["age,sick,age", *["1,no,2"] * 4]),
    "class of one row": table([*GOOD, "50,F,Ulm,maybe"]),
    "one class": table([line.replace("yes", "no") for line in GOOD]),
    "measure as classes": table(["x,y", *[f"{i},{i * 1.5}" for i in range(30)]], "target: y"),
    "label out of range": table(with_line("52,F,Ulm,5"), "target: sick, classes: ['no', 'yes']"),
    "label out of range in ARFF": files({"own.arff": text([*ARFF, "4,c"])}, "path: own.arff, target: c, missing: mean"),
    "missing label": table(with_line("52,F,Ulm,"), "target: sick, missing: mean"),
    "missing node": table(with_line("52,F,?,yes"), "target: sick, groups: [city], missing: mean"),
    "NaN cell": table(with_line("nan,F,Ulm,yes")),
    "Inf cell": table(with_line("-inf,F,Ulm,yes")),
    "Inf cell after blank lines": table([*GOOD[:2], "", " ", GOOD[2], "inf,F,Ulm,yes"]),
    "number too large": table(with_line("1e39,F,Ulm,yes")),
    "typing slip": table(with_line("5Z,F,Ulm,yes")),
    "decimal commas": table(["a;y", *[f"{i},5;{i % 2}" for i in range(150)]], "target: y"),
    "names as a feature": table(["name,y", *[f"n{i},{i % 2}" for i in range(150)]], "target: y"),
    "text as a measure": table(GOOD, "target: city, kind: regression"),
    "above all": table(GOOD, "target: age, above: 100"),
    "row too short": table(with_line("52,F,yes")),
    "row too long": table(with_line("52,F,Ulm,Ulm,yes")),
    "truncated in the middle of a row": files({"own.csv": text([*GOOD, "71,M"])[:-1]}, "path: own.csv, target: sick"),
    "open quotation mark": table(with_line('52,F,"Ulm,yes')),
    "misplaced quotation mark": table(with_line('52,F,"Ulm"s,yes')),
    "not UTF-8": files({"own.csv": text(GOOD).replace(b"Bonn", b"K\xf6ln")}, "path: own.csv, target: sick"),
    "empty file": files({"own.csv": b""}, "path: own.csv, target: sick"),
    "header alone": table(GOOD[:1]),
    "empty file of a node": files(
        {"own/a.csv": text(GOOD), "own/b.csv": text(GOOD[:1])}, 'path: own, file: "*.csv", target: sick'
    ),
    "node lost by drop": files(
        {"own/a.csv": text(GOOD), "own/b.csv": text([GOOD[0], "?,M,Ulm,yes", "?,F,Ulm,no"])},
        'path: own, file: "*.csv", target: sick, missing: drop',
    ),
    "empty column": table(
        [GOOD[0], *[",".join(["", *line.split(",")[1:]]) for line in GOOD[1:]]], "target: sick, missing: mean"
    ),
    "files of other columns": files(
        {"own/a.csv": text(GOOD), "own/b.csv": text([line.replace("city", "town") for line in GOOD])},
        'path: own, file: "*.csv", target: sick',
    ),
    "which file": files({"own/a.csv": text(GOOD), "own/b.csv": text(GOOD)}, "path: own, target: sick"),
    "no such file": files({"own/a.csv": text(GOOD)}, "path: own, file: c.csv, target: sick"),
    "two files of one name": files(
        {"own/a/x.csv": text(GOOD), "own/b/x.csv": text(GOOD)}, "path: own, file: x.csv, target: sick"
    ),
    "truncated zip": files({"own.zip": zipped({"own.csv": text(GOOD)})[:-30]}, "path: own.zip, target: sick"),
    "damaged zip": files(
        {"own.zip": zipped({"own.csv": text(GOOD)}, zipfile.ZIP_STORED).replace(b"Ulm", b"Bad", 1)},
        "path: own.zip, target: sick",
    ),
    "zip bomb": bomb,
    "archive with a way out": files({"own.zip": zipped({"../own.csv": text(GOOD)})}, "path: own.zip, target: sick"),
    "key missing": joined(PLACES[:2]),
    "key twice": joined([*PLACES, "p1,11"]),
    "no key column": joined(["id,price", *PLACES[1:]]),
    "no key matches": joined(["place,price", "x,1", "y,2"], ", missing: mean"),
    "file that leaves the folder": files(
        {"own/ratings.csv": text(RATINGS), "places.csv": text(PLACES)}, JOIN.replace("places.csv", "../places.csv")
    ),
    "ARFF header": files({"own.arff": text([*ARFF[:2], "@atribute c {a, b}", *ARFF[3:]])}, "path: own.arff, target: c"),
    "ARFF text as a number": files({"own.arff": text([*ARFF, "x,b"])}, "path: own.arff, target: c, missing: mean"),
    "sparse ARFF": files({"own.arff": text([*ARFF, "{0 1, 1 b}"])}, "path: own.arff, target: c, missing: mean"),
    "unknown part of a split": table(
        ["x,part,y", "1,train,a", "2,dev,b", "3,test,a", "4,test,b"], "target: y, split: part"
    ),
    "no features": table(GOOD, "target: sick, features: [age], drop: [age]"),
    "idle option": table(GOOD, "target: sick, unit: 1000"),
}
