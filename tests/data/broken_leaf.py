"""Broken inputs of the readers `leaf` and `text`; broken/leaf/ has the whole message that each must give.

Each case: a name, and a function that writes the files into a folder and returns the `data:` section, to be read with
that folder as the current one and without METADIST_DATA.
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

CASES: dict[str, Make] = {
    "truncated JSON": leaf(good()[:-30]),
    "JSON cut between users": leaf(good().split(', "bob": {')[0]),
    "JSON of a list": leaf("[]"),
    "more after the JSON": leaf(good() + "\n{}"),
    "no users": leaf(good(users=None)),
    "no num_samples": leaf(good(num_samples=None)),
    "no user_data": leaf(good(user_data=None)),
    "null for users": leaf(json.dumps({**json.loads(good()), "users": None})),
    "num_samples of text": leaf(good(num_samples=["2", "2"])),
    "more users than num_samples": leaf(good(num_samples=[2])),
    "num_samples that lies": leaf(good(num_samples=[2, 3])),
    "x longer than y": user([[1, 2], [3, 4]], [0]),
    "user without y": leaf(good().replace('"y": [1.0, 0]', '"z": []')),
    "rows of unequal length": user([[1, 2], [3]], [0, 1]),
    "rows of another length": user([[1, 2, 3], [3, 4, 5]], [0, 1]),
    "text among numbers": user([[1, 2], [3, "4"]], [0, 1]),
    "NaN": leaf(good().replace("1.5", "NaN")),
    "number too large": user([[1, 2], [3, 1e300]], [0, 1]),
    "thousands of digits": leaf(good().replace("1.5", "9" * 5000)),
    "nested far too deep": leaf(good(user_data=None)[:-1] + ', "user_data": {"ann": ' + "[" * 99_999),
    "label outside its range": user([[1, 2], [3, 4]], [0, 7], options=", classes: 2"),
    "label of no class": user([[1, 2], [3, 4]], [0, 0.5]),
    "label of Reddit": user([[1, 2], [3, 4]], [{"subreddit": "a"}, {"subreddit": "b"}]),
    "user listed twice": leaf(good(users=["ann", "ann"])),
    "user twice in user_data": leaf(good().replace('"bob": {', '"ann": {')),
    "user of two files": files({"own/a.json": good(), "own/b.json": good()}, "name: leaf, path: own"),
    "user of user_data not among users": leaf(good(users=["ann"], num_samples=[2])),
    "user without user_data": leaf(good(users=["ann", "bob", "eve"], num_samples=[2, 2, 0])),
    "user's name with control characters": user([[1, 2]], [0], "b\x1b[31m"),
    "hierarchies in some files": files(
        {
            "own/a.json": good(hierarchies=["x", "x"]),
            "own/b.json": good().replace("ann", "eve").replace("bob", "kim"),
        },
        "name: leaf, path: own",
    ),
    "nobody has enough rows": leaf(good(), ", keep: 3"),
    "no rows at all": leaf(good(num_samples=[0, 0], user_data={"ann": {"x": [], "y": []}, "bob": {"x": [], "y": []}})),
    "shape that does not fit": leaf(good(), ", shape: [2, 2]"),
    "JSON that is no UTF-8": leaf(good().encode("utf-16")),
    "names of images": leaf(characters(["000001.jpg", "000002.jpg"], ["0", "1"])),
    "an image that is not there": leaf(characters(["000001.jpg", "000002.jpg"], ["0", "1"]), ", images: ."),
    "a role with fewer characters than others": leaf(characters([PLAY, PLAY[1:]], ["T", "o"])),
    "character of no number": leaf(characters([PLAY, PLAY.replace("that", "th\xe4t")], ["T", "o"])),
    "lists of texts": user([["1", "Mon", "so sad"]], [0], "ann"),
    "zip that is truncated": archive("leaf", zipped({"data/train/all.json": good().encode()})[:-30]),
    "member that leads out of its archive": archive("leaf", zipped({"../own.json": good().encode()})),
    "zip bomb": archive("leaf", zipped({"own.json": bytes(80 << 20)})),
    "no JSON at all": files({"own/a.csv": "1,2"}, "name: leaf, path: own"),
    "text that is no UTF-8": texts({"a.txt": b"To be,\nor n\xf6t to be"}),
    "a role with fewer than 81 characters": texts({"a.txt": PLAY, "b.txt": "x" * 80}),
    "text too short for both parts": texts({"a.txt": PLAY * 3}, ", split: 0.8"),
    "character that LEAF has not": texts({"a.txt": "To be,\nor n\xf6t to be. " * 9}),
    "too many characters": texts({"a.txt": "".join(map(chr, range(0x4E00, 0x4F01)))}, ", vocabulary: data"),
    "two roles of one name": texts({"a/x.txt": PLAY * 3, "b/x.txt": PLAY * 3}),
    "name that does not say the groups": texts(
        {"HAMLET_HAMLET.txt": PLAY * 3}, ", groups: [play, role], separator: leaf"
    ),
}
