"""Each hint about broken data, followed to the letter, leads to a partition, or to a better message.

The broken inputs are those of broken_*.py; here are the ways out that their hints name.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from broken_arrays import X, Y
from broken_images import LIST, picture
from broken_leaf import GOOD, PLAY, good
from broken_table import GOOD as ROWS
from broken_table import PLACES, text, with_line
from test_broken import CONFIG_TEXT
from typer.testing import CliRunner

from metadist_cli.cli import app

Fix = Callable[[str], str]  # in the folder of the data: section -> section
Way = tuple[str, Fix] | tuple[str, Fix, str]  # words of the hint, what they ask for, and a better message (or a run)


def section(old: str, new: str) -> Fix:
    def fix(was: str) -> str:
        assert old in was
        return was.replace(old, new)

    return fix


def more(options: str) -> Fix:
    return lambda was: f"{was[:-1]}, {options}}}"


def put(path: str, data: bytes | str) -> Fix:
    def fix(was: str) -> str:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).unlink(missing_ok=True)
        Path(path).write_bytes(data.encode() if isinstance(data, str) else data)
        return was

    return fix


def edit(path: str, old: str, new: str) -> Fix:
    def fix(was: str) -> str:
        data = Path(path).read_text()
        assert old in data
        Path(path).write_text(data.replace(old, new))
        return was

    return fix


def away(path: str) -> Fix:
    def fix(was: str) -> str:
        if os.path.isdir(path) and not os.path.islink(path):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        return was

    return fix


def both(*fixes: Fix) -> Fix:
    def fix(was: str) -> str:
        for one in fixes:
            was = one(was)
        return was

    return fix


def archive(**contents: bytes | str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as made:
        for name, data in contents.items():
            made.writestr(name.replace("__", "."), data)
    return out.getvalue()


def arrays(change: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]) -> Fix:
    def fix(was: str) -> str:
        with np.load("own.npz", allow_pickle=True) as there:
            found = dict(there)
        np.savez_compressed("own.npz", **{**found, **change(found)})
        return was

    return fix


def resaved(**own: np.ndarray) -> Fix:
    return arrays(lambda found: own)


TABLE = put("own.csv", text(ROWS))
NEW_ZIP = put("own.zip", archive(own__csv=text(ROWS)))
COLUMN = "add or remove some"
HERE = "write missing: mean (of training rows), indicator (says where, too), or drop (leaves the rows out)"
TABLES: dict[str, list[Way]] = {
    "wrong column": [("did you mean 'sick'?", section("sik", "sick"))],
    "wrong feature pattern": [("there are: age, city, sex, sick", section("bill*", "cit*"))],
    "wrong group": [("there are: age, city", section("hospital", "city"))],
    "no such path": [
        ("check the path", TABLE),
        ("METADIST_DATA to its folder", both(put("there/own.csv", text(ROWS)), put(".environment", "there"))),
    ],
    "no header": [
        (
            "columns: [a, b, c]",
            both(more("columns: [age, sex, rate, sick]"), put("own.csv", "63,1,1,0\n67,1,1,2\n" * 2)),
        )
    ],
    "no header, few numbers": [
        ("there are: 0, 145", section("target: sick", "target: m"), "has one row"),
        ("columns: [a, b, c]", more("columns: [k, l, m, n, sick]"), "has one row"),
    ],
    "title above the header": [
        ("remove the 2 lines above the header", edit("own.csv", "# exported by hand\nPatients 2024\n", ""))
    ],
    "total below": [("remove it from the file", edit("own.csv", "192,,Total,\n", ""))],
    "classes that differ in case": [
        ("write them alike", edit("own.csv", "Yes", "yes")),
        ("list all in data.classes", more("classes: ['no', 'yes', 'Yes']")),
    ],
    "no header, equal cells": [
        ("name the columns in data.columns", more("columns: [a, b, c, sick]"), "has one row"),
    ],
    "duplicate column": [("rename one of them", edit("own.csv", "age,sick,age", "age,sick,other"), "one class")],
    "class of one row": [
        ("correct it", edit("own.csv", "maybe", "yes")),
        ("leave the row out", edit("own.csv", "50,F,Ulm,maybe\n", "")),
        ("list all classes in data.classes", more("classes: ['yes', 'no', maybe]")),
    ],
    "one class": [("name another target", section("target: sick", "target: sex"))],
    "measure as classes": [
        ("write kind: regression", more("kind: regression")),
        ("set data.above", more("above: 9")),
        ("list all in data.classes", more(f"classes: [{', '.join(repr(f'{i * 1.5:g}') for i in range(30))}]")),
    ],
    "label out of range": [("there are: no, yes", edit("own.csv", "Ulm,5", "Ulm,no"))],
    "label out of range in ARFF": [("the header has: a, b", edit("own.arff", "4,c", "4,b"))],
    "missing label": [
        ("fill it in", edit("own.csv", "52,F,Ulm,\n", "52,F,Ulm,yes\n")),
        ("missing: drop", both(section("missing: mean", "missing: drop"), put("own.csv", text([*ROWS, "9,F,Ulm,"])))),
    ],
    "missing node": [
        ("fill it in", edit("own.csv", "?", "Ulm")),
        ("missing: drop", section("missing: mean", "missing: drop"), "has one row"),
    ],
    "NaN cell": [
        (HERE, more("missing: mean")),
        (HERE, more("missing: indicator")),
        (HERE, more("missing: drop"), "has one row"),
    ],
    "Inf cell": [
        ("correct it", edit("own.csv", "-inf", "50")),
        ("leave it empty if it is missing", edit("own.csv", "-inf", ""), "1 cell is missing"),
    ],
    "Inf cell after blank lines": [("correct it", edit("own.csv", "inf", "50"), "has one row")],
    "number too large": [("correct it", edit("own.csv", "1e39", "39"))],
    "typing slip": [
        ("correct it", edit("own.csv", "5Z", "52")),
        ("drop the column", more("drop: [age]")),
        ("one_hot: [age]", more("one_hot: [age]")),
    ],
    "decimal commas": [
        ('write decimal: {a: ","}', more('decimal: {a: ","}')),
        ("one_hot: [a]", more("one_hot: [a]")),
        ("drop: [a]", more("drop: [a]"), "no column is a feature"),
    ],
    "names as a feature": [
        ("drop: [name]", more("drop: [name]"), "no column is a feature"),
        ("one_hot: [name]", more("one_hot: [name]")),
    ],
    "text as a measure": [("name another column", section("target: city", "target: age"))],
    "above all": [
        ("choose another data.above", section("above: 100", "above: 40")),
        ("or leave it out", both(section(", above: 100", ""), section("target: age", "target: sick"))),
    ],
    "row too short": [(COLUMN, put("own.csv", text(with_line("52,F,Ulm,yes"))))],
    "row too long": [
        (COLUMN, put("own.csv", text(ROWS))),
        ("in quotation marks", put("own.csv", text(with_line('52,F,"Ulm,Ulm",yes')))),
    ],
    "truncated in the middle of a row": [(COLUMN, put("own.csv", text([*ROWS, "71,M,Ulm,no"])))],
    "open quotation mark": [("close it", put("own.csv", text(with_line('52,F,"Ulm",yes'))))],
    "misplaced quotation mark": [
        ("around whole cells", put("own.csv", text(with_line('52,F,"Ulms",yes')))),
        ('write "" for one within them', put("own.csv", text(with_line('52,F,"Ulm""s",yes')))),
    ],
    "not UTF-8": [("write encoding: cp1252", more("encoding: cp1252"))],
    "empty file": [("download it again", TABLE)],
    "header alone": [("download it again", TABLE)],
    "empty file of a node": [("leave the file out", away("own/b.csv"))],
    "node lost by drop": [
        ("drop the columns that are empty there", more("drop: [age]")),
        ("write missing: mean", section("missing: drop", "missing: mean")),
    ],
    "empty column": [("drop it", more("drop: [age]"))],
    "files of other columns": [
        ("add it", put("own/b.csv", text(ROWS))),
        ("drop: [city]", more("drop: [city]"), "'town' is missing here"),
        ("write absent: missing", more("absent: missing"), "8 cells are missing"),
    ],
    "which file": [
        ("name one in data.file", more("file: a.csv")),
        ('file: "*.csv"', more('file: "*.csv"')),
    ],
    "no such file": [("there are: a.csv", section("c.csv", "a.csv"))],
    "two files of one name": [("write more of their path", section("file: x.csv", "file: a/x.csv"))],
    "truncated zip": [("download or pack the archive again", NEW_ZIP)],
    "damaged zip": [("download or pack the archive again", NEW_ZIP)],
    "zip bomb": [("download or pack the archive again", NEW_ZIP)],
    "archive with a way out": [("make the archive again, from within the folder of the data", NEW_ZIP)],
    "key missing": [
        ("add it there", put("own/places.csv", text(PLACES))),
        ("missing: mean", more("missing: mean")),
        ("indicator", more("missing: indicator")),
        ("or drop", more("missing: drop"), "has one row"),
    ],
    "key twice": [
        ("keep one of them", put("own/places.csv", text(PLACES))),
        ("leave the file out", section(", join: {places.csv: place}", "")),
    ],
    "no key column": [("did you mean 'price'?", section("place}", "price}"), "has no column 'price'")],
    "no key matches": [("check that it is the right file", put("own/places.csv", text(PLACES)))],
    "file that leaves the folder": [
        ("there are: ratings.csv", section("../places.csv", "ratings.csv"), "here again"),
    ],
    "ARFF header": [("write @attribute NAME TYPE", edit("own.arff", "atribute", "attribute"), "1 cell is missing")],
    "ARFF text as a number": [("write ? where it is missing", edit("own.arff", "x,b", "?,b"))],
    "sparse ARFF": [("write every value", edit("own.arff", "{0 1, 1 b}", "1,b"))],
    "unknown part of a split": [
        (
            "write true or false, 0, 1, 2 (train, validation, test), or these words",
            edit("own.csv", "dev", "validation"),
            "",
        ),
    ],
    "no features": [
        ("drop less", section(", drop: [age]", "")),
        ("name some in data.features", section("features: [age]", "features: [age, city]")),
    ],
    "idle option": [
        ("remove it", section(", unit: 1000", "")),
        ("change data.kind", both(more("kind: regression"), section("target: sick", "target: age"))),
    ],
}
AGAIN = "save it again"
RIGHT = arrays(lambda found: {"x": np.nan_to_num(found["x"], posinf=1.0).clip(-9, 9)})


def safetensors(was: str) -> str:
    from safetensors.numpy import save_file

    save_file({"x": X, "y": Y}, "own.safetensors")
    return was


def new_npz(was: str) -> str:
    np.savez_compressed("own.npz", x=X, y=Y)
    return was


def plain_npz(was: str) -> str:
    np.savez("own.npz", x=X, y=Y)
    return was


def npy_again(was: str) -> str:
    np.save("own/x.npy", X)
    return was


ARRAYS: dict[str, list[Way]] = {
    "pickled objects": [
        ("save numbers", resaved(y=Y)),
        ("text with .astype(str)", arrays(lambda found: {"y": found["y"].astype(str)})),
    ],
    "missing array": [("did you mean 'subject'?", section("subjetc", "subject"))],
    "unequal lengths": [("give both the same number of rows", resaved(y=Y))],
    "not a number": [
        ("correct the row", RIGHT),
        ("leave it out", arrays(lambda found: {k: np.delete(v, 2, 0).repeat(2, 0) for k, v in found.items()})),
    ],
    "too large for float32": [("correct the row", RIGHT)],
    "infinite target": [("correct the row", resaved(y=np.array([0.0, 1.0, 3.0, 2.0])))],
    "label without a name": [("it names the classes 0 to 1", resaved(y=Y))],
    "unknown text label": [
        ("did you mean 'sitting'?", arrays(lambda found: {"y": np.char.replace(found["y"], "siting", "sitting")}))
    ],
    "complex numbers": [("save it as float32", arrays(lambda found: {"x": found["x"].real.astype(np.float32)}))],
    "labels are decimals": [("save it with .astype(int)", arrays(lambda found: {"y": found["y"].astype(int)}))],
    "one-hot labels": [("save it with .argmax(1)", arrays(lambda found: {"y": found["y"].argmax(1)}))],
    "one number a row": [("save it with .reshape(-1, 1)", arrays(lambda found: {"x": found["x"].reshape(-1, 1)}))],
    "long texts": [("use 1 to 100 characters", resaved(y=np.array(["a" * 100, "b", "c", "d"])))],
    "control character": [("give it another name", resaved(who=np.array(["a", "b", "c", "a"])))],
    "split of four parts": [
        ("write true or false, 0, 1, 2 (train, validation, test)", resaved(part=np.array([0, 1, 2, 2])), ""),
    ],
    "split without a test": [
        ("take another split", both(more("groups: [y]"), resaved(part=np.array([True, False, True, False]))), ""),
        ("leave it out", section(", split: part", "")),
    ],
    "two classes of one name": [("choose another name", section("[a, a]", "[a, b]"))],
    "truncated archive": [("save it again with numpy.savez_compressed", new_npz)],
    "zip bomb": [("save it with numpy.savez, uncompressed", plain_npz)],
    "another file": [("use an .npz", both(new_npz, section("own.mat", "own.npz")))],
    "truncated .npy": [("save it again with numpy", npy_again)],
    "no .npy": [("save it again with the program that wrote it", npy_again)],
    "link out of the folder": [("put the file itself there", both(away("own/x.npy"), npy_again))],
    "tensor beyond the end": [("save it again", safetensors)],
    "huge header": [("save it again with the program that wrote it", safetensors)],
    "nothing there": [("check the path", new_npz)],
}
DAMAGED = "create it or download it again"
LEAF_FILE = put("own.json", good())
KEYS = "a LEAF file has the keys users, num_samples and user_data"
ONE = json.dumps({"users": ["ann"], "num_samples": [4], "user_data": {"ann": {"x": [[1, 2]] * 4, "y": [0, 1, 0, 1]}}})


def users(**names: str) -> str:
    """The good file with users of these names."""
    renamed = {names.get(name, name): rows for name, rows in GOOD["user_data"].items()}
    return good(users=[*renamed], user_data=renamed)


def long_texts(was: str) -> str:
    for name in "ab":
        Path(f"own/{name}.txt").write_text(PLAY * 6)
    return was


LEAF: dict[str, list[Way]] = {
    **{
        name: [(DAMAGED, LEAF_FILE)]
        for name in (
            *("truncated JSON", "JSON cut between users", "JSON of a list", "more after the JSON", "NaN"),
            *("more users than num_samples", "num_samples that lies", "x longer than y", "user without y"),
            *("thousands of digits", "nested far too deep", "user twice in user_data"),
            *("user of user_data not among users", "user without user_data"),
        )
    },
    **{name: [(KEYS, LEAF_FILE)] for name in ("no users", "no num_samples", "no user_data", "null for users")},
    "num_samples of text": [(KEYS, LEAF_FILE)],
    "rows of unequal length": [("correct the rows", LEAF_FILE), ("leave out the user", put("own.json", ONE))],
    "rows of another length": [("give all users rows of the same shape", LEAF_FILE)],
    "text among numbers": [("correct the rows", edit("own.json", '"4"', "4"))],
    "number too large": [("correct the row", edit("own.json", "1e+300", "30"))],
    "label outside its range": [
        ("change data.classes", section("classes: 2", "classes: 8")),
        ("correct the row", edit("own.json", "7", "1")),
    ],
    "label of no class": [("write the number", edit("own.json", "0.5", "1"))],
    "label of Reddit": [
        ("the name, of a class", put("own.json", good().replace("1.0, 0", '"a", "b"').replace("[0, 1]", '["a", "b"]')))
    ],
    "user listed twice": [("give each user a different name", LEAF_FILE)],
    "user of two files": [
        ("rename one of them", put("own/b.json", users(ann="eve", bob="kim"))),
        ("leave out a file", away("own/b.json")),
    ],
    "user's name with control characters": [("rename the user", put("own.json", users()))],
    "hierarchies in some files": [
        (
            "add hierarchies to all files",
            put("own/b.json", json.dumps(json.loads(users(ann="eve", bob="kim")) | {"hierarchies": ["x", "y"]})),
        ),
        ("remove them from all", put("own/a.json", good())),
    ],
    "nobody has enough rows": [("the largest user has 2", section("keep: 3", "keep: 2"))],
    "no rows at all": [("is this the right file?", LEAF_FILE)],
    "shape that does not fit": [
        ("change data.shape", section("[2, 2]", "[1, 2]")),
        ("leave it out", section(", shape: [2, 2]", "")),
    ],
    "JSON that is no UTF-8": [("save it as UTF-8", LEAF_FILE)],
    "names of images": [("set data.images to the folder", more("images: ."), "is missing")],
    "an image that is not there": [
        (
            "check the path",
            both(put("000001.jpg", picture(form="JPEG")), put("000002.jpg", picture(form="JPEG"))),
            "each need 4",
        ),
    ],
    "a role with fewer characters than others": [
        ("write length: 80", more("length: 80"), "each need"),
    ],
    "character of no number": [("write vocabulary: data", more("vocabulary: data"), "each need")],
    "lists of texts": [("write column: 4 for Sent140, and length: 80", more("column: 4, length: 80"), "not every row")],
    "zip that is truncated": [("pack the archive again", put("own.zip", archive(all__json=good())))],
    "member that leads out of its archive": [
        ("from within the folder of the data", put("own.zip", archive(all__json=good())))
    ],
    "zip bomb": [("pack the archive again", put("own.zip", archive(all__json=good())))],
    "no JSON at all": [("let data.path name a file", both(LEAF_FILE, section("path: own", "path: own.json")))],
    "text that is no UTF-8": [("save it as UTF-8", both(put("own/a.txt", "To be, or not to be. " * 9)))],
    "a role with fewer than 81 characters": [
        ("use a smaller data.window", more("window: 20")),
        ("longer texts", long_texts),
    ],
    "text too short for both parts": [("use a smaller data.window", more("window: 20"), "from: rows")],
    "character that LEAF has not": [
        ("write vocabulary: data", more("vocabulary: data")),
        ("replace it", edit("own/a.txt", "\xf6", "o")),
    ],
    "too many characters": [("replace or remove rare characters", put("own/a.txt", PLAY * 6))],
    "two roles of one name": [("groups: [folder, file]", more("groups: [folder, file]"))],
    "name that does not say the groups": [
        ("change data.groups", section("groups: [play, role], separator: leaf", "groups: [file]")),
        ("rename the file", both(put("own/All_s_Well_HELENA.txt", PLAY * 3), away("own/HAMLET_HAMLET.txt")), ""),
    ],
}
GOOD_IMAGE = put("own/cat/1.png", picture())
NAMES = "the first line must name the columns"
IMAGES: dict[str, list[Way]] = {
    "no picture": [("save it as PNG", GOOD_IMAGE)],
    "decompression bomb": [("save a smaller one", GOOD_IMAGE)],
    "cut short": [("save it again", GOOD_IMAGE)],
    "another format": [
        ("save it as one", both(away("own/cat/2.gif"), put("own/cat/2.png", picture()))),
        ("move it away", away("own/cat/2.gif")),
    ],
    "a class of one": [
        ("add some", put("own/fox/1.png", picture())),
        ("remove the class", away("own/fox")),
    ],
    "empty class": [
        ("add images", both(put("own/fox/0.png", picture()), put("own/fox/1.png", picture()))),
        ("remove the folder", away("own/fox")),
    ],
    "empty folder": [
        ("is this the right folder?", both(*(put(f"own/{name}/{i}.png", picture()) for name in "ab" for i in (0, 1))))
    ],
    "link to a picture outside": [("put the file or folder itself there", put("own/cat/2.png", picture()))],
    "link to a folder outside": [
        (
            "put the file or folder itself there",
            both(away("own/bird"), *(put(f"own/bird/{i}.png", picture()) for i in (0, 1))),
        ),
    ],
    "without a class": [
        ("move it", away("own/lost.png")),
        ("change data.folders", more("folders: [alphabet, class]"), "folders deep"),
    ],
    "levels without a class": [
        ("for example [alphabet, class]", section("[animal]", "[alphabet, class]"), "folders deep")
    ],
    "unlike sizes": [("set data.size, for example to 5", more("size: 5"))],
    "too much for memory": [("make them smaller", section("size: 1024", "size: 16"))],
    "a picture that is not there": [("is own the folder of the images?", put("own/dog/2.png", picture()))],
    "a path out of the folder": [("relative to the folder of the images", put("list.csv", LIST))],
    "an absolute path": [("relative to the folder of the images", put("list.csv", LIST))],
    "a picture listed twice": [("remove it here", edit("list.csv", "./cat/0.png,dog\n", ""))],
    "a list without labels": [(NAMES, edit("list.csv", "lable", "label"))],
    "an empty label": [
        ("use 1 to 100 characters", both(edit("list.csv", "2.png,\n", "2.png,dog\n"), put("own/dog/2.png", picture())))
    ],
    "a list and folders": [("remove data.folders", section(", folders: [alphabet, class]", ""))],
    "no test list": [("put it into the same folder", put("lists/test.json", '["dog"]'), "is listed twice")],
    "a class that is not there": [("the folders are like cat", put("lists/test.json", '["dog"]'), "split")],
    "a class in no list": [
        ("add them to a list", put("lists/test.txt", "dog\n"), "split"),
        ("move them away", away("own/dog"), "no rows for testing"),
    ],
    "a class in two lists": [("remove it here", put("lists/test.txt", "dog\n"), "split")],
    "a list of numbers": [
        (
            'write ["class", "class"]',
            both(put("lists/train.json", '["cat"]'), put("lists/test.json", '["dog"]')),
            "split",
        ),
    ],
    "no archive": [
        (
            "pack the archive again",
            put("own.zip", archive(**{f"own/{c}/{i}__png": picture(i) for c in "ab" for i in (0, 1)})),
        )
    ],
}
READERS = {"table": TABLES, "arrays": ARRAYS, "leaf": LEAF, "images": IMAGES}
WAYS = [(reader, name, way) for reader, cases in READERS.items() for name, ways in cases.items() for way in ways]


@pytest.mark.parametrize("reader", READERS)
def test_every_broken_input_has_its_way_out(reader: str) -> None:
    assert READERS[reader].keys() == import_module(f"broken_{reader}").CASES.keys()


@pytest.mark.parametrize(
    ("reader", "name", "way"), WAYS, ids=[f"{reader}: {name}: {way[0][:30]}" for reader, name, way in WAYS]
)
def test_a_hint_followed_leads_to_a_run_or_to_a_better_message(
    reader: str, name: str, way: Way, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("METADIST_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    said, fix, *then = way
    data = import_module(f"broken_{reader}").CASES[name](tmp_path)

    def message(data: str) -> str:
        Path("mine.yaml").write_text(CONFIG_TEXT.format(section=data))
        done = CliRunner().invoke(app, ["partition", "mine.yaml", "--dry-run"])
        assert done.exit_code in (0, 3, 4), done.output
        return done.stderr if done.exit_code else ""

    before = message(data)
    assert said in before
    data = fix(data)
    if Path(".environment").exists():
        monkeypatch.setenv("METADIST_DATA", Path(".environment").read_text())
    after = message(data)
    assert after != before
    if then:
        assert then[0] in after
        assert "  -> " in after
    else:
        assert not after
