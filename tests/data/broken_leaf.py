"""Broken inputs of the readers `leaf` and `text`, and the whole message that each must give.

Each case: a name, a function that writes the files into a folder and gives the `data:` section, and the message. To be
read with the folder as the current one and without METADIST_DATA.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

Make = Callable[[Path], str]

GOOD = {
    "users": ["ann", "bob"],
    "num_samples": [2, 2],
    "user_data": {"ann": {"x": [[0, 1.5], [2, 3]], "y": [0, 1]}, "bob": {"x": [[4, 5], [6, 7]], "y": [1.0, 0]}},
}


def zipped(contents: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in contents.items():
            archive.writestr(name, data)
    return out.getvalue()


def files(contents: dict[str, bytes | str], section: str) -> Make:
    def make(folder: Path) -> str:
        for name, data in contents.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data.encode() if isinstance(data, str) else data)
        return f"{{{section}}}"

    return make


def leaf(text: bytes | str, options: str = "") -> Make:
    return files({"own.json": text}, f"name: leaf, path: own.json{options}")


def texts(contents: dict[str, bytes | str], options: str = "") -> Make:
    return files({f"own/{name}": data for name, data in contents.items()}, f"name: text, path: own{options}")


def archive(kind: str, data: bytes) -> Make:
    return files({"own.zip": data}, f"name: {kind}, path: own.zip")


def good(**changes: Any) -> str:
    """The good file with other keys; None leaves one out."""
    return json.dumps({key: value for key, value in (GOOD | changes).items() if value is not None})


def user(x: Any, y: Any, name: str = "bob", options: str = "") -> Make:
    """The good file with another second user."""
    data = {"ann": GOOD["user_data"]["ann"], name: {"x": x, "y": y}}
    return leaf(good(users=["ann", name], num_samples=[2, len(y)], user_data=data), options)


def characters(x: list[str], y: list[str]) -> str:
    return json.dumps({"users": ["ann"], "num_samples": [len(y)], "user_data": {"ann": {"x": x, "y": y}}})


PLAY = "To be, or not to be, that is the question: "
AGAIN = "\n  -> the file is damaged or was edited: make it again or fetch it again"
KEYS = "\n  -> LEAF's files have users, num_samples and user_data"
ROW = "\n  -> mend or leave out the row"

CASES: list[tuple[str, Make, str]] = [
    (
        "truncated JSON",
        leaf(good()[:-30]),
        "own.json:1:128: this is no valid JSON: Expecting value" + AGAIN,
    ),
    (
        "JSON cut between users",
        leaf(good().split(', "bob": {')[0]),
        "own.json:1:109: this is no valid JSON: it ends where ',' belongs" + AGAIN,
    ),
    ("JSON of a list", leaf("[]"), "own.json:1:1: this is no valid JSON: '{' belongs here, not '['" + AGAIN),
    (
        "more after the JSON",
        leaf(good() + "\n{}"),
        "own.json:2:1: this is no valid JSON: it goes on after its end" + AGAIN,
    ),
    ("no users", leaf(good(users=None)), "own.json: the key 'users' is missing" + KEYS),
    ("no num_samples", leaf(good(num_samples=None)), "own.json: the key 'num_samples' is missing" + KEYS),
    ("no user_data", leaf(good(user_data=None)), "own.json: the key 'user_data' is missing" + KEYS),
    (
        "null for users",
        leaf(json.dumps({**json.loads(good()), "users": None})),
        "own.json: users is no list of names" + KEYS,
    ),
    (
        "num_samples of text",
        leaf(good(num_samples=["2", "2"])),
        "own.json: num_samples is no list of whole numbers" + KEYS,
    ),
    (
        "more users than num_samples",
        leaf(good(num_samples=[2])),
        "own.json: there are 2 users and 1 num_samples" + AGAIN,
    ),
    (
        "num_samples that lies",
        leaf(good(num_samples=[2, 3])),
        "own.json: user 'bob': num_samples says 3, there are 2 rows" + AGAIN,
    ),
    ("x longer than y", user([[1, 2], [3, 4]], [0]), "own.json: user 'bob': x has 2 rows, y has 1" + AGAIN),
    (
        "user without y",
        leaf(good().replace('"y": [1.0, 0]', '"z": []')),
        "own.json: user 'bob': a user has a list x of rows and a list y of labels" + AGAIN,
    ),
    (
        "rows of unequal length",
        user([[1, 2], [3]], [0, 1]),
        "own.json: user 'bob': x is no list of equally long lists of numbers\n"
        "  -> each row is a list of numbers: mend or leave out the user",
    ),
    (
        "rows of another length",
        user([[1, 2, 3], [3, 4, 5]], [0, 1]),
        "own.json: user 'bob': the rows are of shape (3,), those before of (2,)\n"
        "  -> all users have rows of one length",
    ),
    (
        "text among numbers",
        user([[1, 2], [3, "4"]], [0, 1]),
        "own.json: user 'bob': x is no list of equally long lists of numbers\n"
        "  -> each row is a list of numbers: mend or leave out the user",
    ),
    ("NaN", leaf(good().replace("1.5", "NaN")), "own.json: user 'ann': NaN is no number" + AGAIN),
    (
        "number too large",
        user([[1, 2], [3, 1e300]], [0, 1]),
        "own.json: user 'bob': row 1 holds a number that is too large for single precision" + ROW,
    ),
    (
        "thousands of digits",
        leaf(good().replace("1.5", "9" * 5000)),
        "own.json: user 'ann': a number has thousands of digits" + AGAIN,
    ),
    (
        "nested far too deep",
        leaf(good(user_data=None)[:-1] + ', "user_data": {"ann": ' + "[" * 99_999),
        "own.json: user 'ann': this is nested far too deep" + AGAIN,
    ),
    (
        "label outside its range",
        user([[1, 2], [3, 4]], [0, 7], options=", classes: 2"),
        "own.json: user 'bob': the label of row 1 is 7, not 0 to 1\n  -> change data.classes, or mend the row",
    ),
    (
        "label of no class",
        user([[1, 2], [3, 4]], [0, 0.5]),
        "own.json: user 'bob': y is no list of whole numbers\n  -> a label is the number or the name of a class",
    ),
    (
        "label of Reddit",
        user([[1, 2], [3, 4]], [{"subreddit": "a"}, {"subreddit": "b"}]),
        "own.json: user 'bob': y is no list of whole numbers\n  -> a label is the number or the name of a class",
    ),
    (
        "user listed twice",
        leaf(good(users=["ann", "ann"])),
        "own.json: the user 'ann' is listed twice\n  -> give each user a name of its own",
    ),
    (
        "user twice in user_data",
        leaf(good().replace('"bob": {', '"ann": {')),
        "own.json:1:110: 'ann' is there twice" + AGAIN,
    ),
    (
        "user of two files",
        files({"own/a.json": good(), "own/b.json": good()}, "name: leaf, path: own"),
        "own/b.json: user 'ann': another user of this name is in own/a.json\n"
        "  -> rename one of them, or leave out a file: users are one person by their name",
    ),
    (
        "user of user_data not among users",
        leaf(good(users=["ann"], num_samples=[2])),
        "own.json: the user 'bob' of user_data is not among users" + AGAIN,
    ),
    (
        "user without user_data",
        leaf(good(users=["ann", "bob", "eve"], num_samples=[2, 2, 0])),
        "own.json: the user 'eve' has no user_data" + AGAIN,
    ),
    (
        "user's name with control characters",
        user([[1, 2]], [0], "b\x1b[31m"),
        "own.json: user 'b\\x1b[31m': the name of a user has control characters, or is not UTF-8\n  -> rename the user",
    ),
    (
        "hierarchies in some files",
        files(
            {
                "own/a.json": good(hierarchies=["x", "x"]),
                "own/b.json": good().replace("ann", "eve").replace("bob", "kim"),
            },
            "name: leaf, path: own",
        ),
        "hierarchies: user 'eve' has no hierarchy, others have\n  -> give it to all files, or leave it out of all",
    ),
    ("nobody with so many rows", leaf(good(), ", keep: 3"), "data.keep: no user has 3 rows\n  -> lower it"),
    (
        "no rows at all",
        leaf(good(num_samples=[0, 0], user_data={"ann": {"x": [], "y": []}, "bob": {"x": [], "y": []}})),
        "own.json: no user has rows\n  -> is this the right file?",
    ),
    (
        "shape that does not fit",
        leaf(good(), ", shape: [2, 2]"),
        "own.json: user 'ann': a row has 2 numbers, data.shape says 2x2\n  -> change data.shape, or leave it out",
    ),
    (
        "JSON that is no UTF-8",
        leaf(good().encode("utf-16")),
        "own.json: this is no UTF-8 text (byte 0)\n  -> save it as UTF-8",
    ),
    (
        "names of images",
        leaf(characters(["000001.jpg", "000002.jpg"], ["0", "1"])),
        "own.json: user 'ann': the rows are names of images such as '000001.jpg', as in LEAF's CelebA\n"
        "  -> write images: the folder that holds them",
    ),
    (
        "an image that is not there",
        leaf(characters(["000001.jpg", "000002.jpg"], ["0", "1"]), ", images: ."),
        "000001.jpg: the image of row 0, own.json: user 'ann', is missing\n"
        "  -> check the path, or run the step that makes it",
    ),
    (
        "a role with fewer characters than others",
        leaf(characters([PLAY, PLAY[1:]], ["T", "o"])),
        "own.json: user 'ann': row 1 has 42 characters, others have 43\n"
        "  -> mend it, or write length: 80 for texts of any length",
    ),
    (
        "character of no number",
        leaf(characters([PLAY, PLAY.replace("that", "th\xe4t")], ["T", "o"])),
        "own.json: user 'ann': '\xe4' is none of LEAF's 80 characters\n  -> write vocabulary: data, or replace it",
    ),
    (
        "lists of texts",
        user([["1", "Mon", "so sad"]], [0], "ann"),
        "own.json: user 'ann': the rows are lists of texts\n  -> write column: 4 for Sent140, and length: 80",
    ),
    (
        "zip that is truncated",
        archive("leaf", zipped({"data/train/all.json": good().encode()})[:-30]),
        "own.zip: the zip archive is broken: File is not a zip file\n  -> fetch the archive again",
    ),
    (
        "member that leads out of its archive",
        archive("leaf", zipped({"../own.json": good().encode()})),
        "own.zip: the name '../own.json' leads out of the archive\n"
        "  -> make the archive anew, from within the folder of the data",
    ),
    (
        "zip bomb",
        archive("leaf", zipped({"own.json": bytes(80 << 20)})),
        "own.zip: the archive has more than 67,108,864 bytes unpacked\n  -> fetch the archive again",
    ),
    (
        "no JSON at all",
        files({"own/a.csv": "1,2"}, "name: leaf, path: own"),
        "own: there is no LEAF file (.json) here\n  -> data.path is to name a file, a folder or a .zip archive of them",
    ),
    (
        "text that is no UTF-8",
        texts({"a.txt": b"To be,\nor n\xf6t to be"}),
        "own/a.txt:2: this is no UTF-8 text\n  -> save it as UTF-8",
    ),
    (
        "a role with fewer than 81 characters",
        texts({"a.txt": PLAY, "b.txt": "x" * 80}),
        "own: none of the 2 files has 81 characters\n  -> take a smaller data.window or data.keep, or longer texts",
    ),
    (
        "text too short for both parts",
        texts({"a.txt": PLAY * 3}, ", split: 0.8"),
        "own: none of the 1 files has 81 characters in either part\n"
        "  -> take a smaller data.window or data.keep, or longer texts",
    ),
    (
        "character that LEAF has not",
        texts({"a.txt": "To be,\nor n\xf6t to be. " * 9}),
        "own/a.txt:2:5: '\xf6' is none of LEAF's 80 characters\n  -> write vocabulary: data, or replace it",
    ),
    (
        "too many characters",
        texts({"a.txt": "".join(map(chr, range(0x4E00, 0x4F01)))}, ", vocabulary: data"),
        "own/a.txt:1:257: there are more than 256 different characters, '\u4f00' is one more\n"
        "  -> replace or leave out the rare ones",
    ),
    (
        "two roles of one name",
        texts({"a/x.txt": PLAY * 3, "b/x.txt": PLAY * 3}),
        "own/b/x.txt: 'x' is called like own/a/x.txt\n  -> name more of its path: groups: [folder, file]",
    ),
    (
        "name that does not say the groups",
        texts({"HAMLET_HAMLET.txt": PLAY * 3}, ", groups: [play, role], separator: leaf"),
        "own/HAMLET_HAMLET.txt: the name of this file does not say play and role, parted by 'leaf'\n"
        "  -> change data.groups or data.separator, or rename the file",
    ),
]
