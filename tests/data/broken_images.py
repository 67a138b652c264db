"""Broken inputs of the reader `image_folder`, and the whole message that each must give.

Each case: a name, a function that writes the files into a folder and gives the `data:` section, and the message. To be
read with the folder as the current one and without METADIST_DATA.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Make = Callable[[Path], str]


def picture(number: int = 0, size: tuple[int, int] = (6, 5), form: str = "PNG", mode: str = "RGB") -> bytes:
    """A picture (width, height) of coloured noise."""
    out = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(noise).convert(mode).save(out, form)
    return out.getvalue()


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


GOOD = {f"own/{name}/{i}.png": picture(i) for name in ("cat", "dog") for i in range(2)}
LIST = b"filename,label\ncat/0.png,cat\ncat/1.png,cat\ndog/0.png,dog\ndog/1.png,dog\n"


def own(files: dict[str, bytes], options: str = "", change: Callable[[Path], Any] = lambda own: None) -> Make:
    """Two classes of two pictures with these files beside or in place of them, to which something is done."""

    def make(folder: Path) -> str:
        write(folder, GOOD | files)
        change(folder / "own")
        return f"{{name: image_folder, path: own{options}}}"

    return make


def listed(text: bytes, options: str = "") -> Make:
    return own({"list.csv": text}, f", lists: list.csv{options}")


def huge() -> bytes:
    """A sound PNG of 60,000 x 60,000 white pixels, of which just the header and nothing else is there."""
    data = picture()
    header = data[12:16] + struct.pack(">II", 60_000, 60_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def link(own: Path) -> None:
    (own.parent / "secret.png").write_bytes(picture())
    (own / "cat" / "2.png").symlink_to(own.parent / "secret.png")


def linked_class(own: Path) -> None:
    (own.parent / "elsewhere").mkdir()
    (own / "bird").symlink_to(own.parent / "elsewhere")


ONE_CLASS = "a task learns from one and is judged by others: add some, or take the class away"
CASES: list[tuple[str, Make, str]] = [
    (
        "no picture",
        own({"own/cat/1.png": b"this is not a picture"}),
        "own/cat/1.png: this is no PNG or JPEG image\n  -> save it as PNG or JPEG",
    ),
    (
        "decompression bomb",
        own({"own/cat/1.png": huge()}),
        "own/cat/1.png: the image has more than 25,000,000 pixels\n  -> save it smaller",
    ),
    (
        "cut short",
        own({"own/cat/1.png": picture()[:60]}),
        "own/cat/1.png: the image is broken: image file is truncated\n  -> save it again",
    ),
    (
        "another format",
        own({"own/cat/2.gif": picture(form="GIF")}),
        "own/cat/2.gif: only PNG and JPEG images are read\n  -> save it as one, or move it away",
    ),
    (
        "a class of one",
        own({"own/fox/0.png": picture()}),
        f"own/fox/0.png: the class 'fox' has one picture\n  -> {ONE_CLASS}",
    ),
    (
        "empty class",
        own({}, change=lambda own: (own / "fox").mkdir()),
        "own/fox: the folder holds no pictures\n  -> add pictures, or remove the folder",
    ),
    (
        "empty folder",
        lambda folder: (folder / "own").mkdir() or "{name: image_folder, path: own}",
        "own: the folder holds no pictures\n  -> is this the right folder?",
    ),
    (
        "link to a picture outside",
        own({}, change=link),
        "own/cat/2.png: this is a symbolic link\n  -> put the file or folder itself there",
    ),
    (
        "link to a folder outside",
        own({}, change=linked_class),
        "own/bird: this is a symbolic link\n  -> put the file or folder itself there",
    ),
    (
        "without a class",
        own({"own/lost.png": picture()}),
        "own/lost.png: the picture lies 0 folders deep, data.folders says 1: class\n"
        "  -> move it, or change data.folders",
    ),
    (
        "levels without a class",
        own({}, ", folders: [animal]"),
        "data.folders: one of the levels must be the class, and none twice, not animal\n"
        "  -> for example [alphabet, class]",
    ),
    (
        "unlike sizes",
        own({"own/dog/1.png": picture(size=(8, 5))}),
        "own/dog/1.png: the picture is 8x5 pixels, own/cat/0.png is 6x5\n  -> write data.size: 5, for example",
    ),
    (
        "too much for memory",
        own({f"own/cat/{i}.png": picture(1, (1, 1), mode="1") for i in range(1024)}, ", size: 1024"),
        "data.size: 1,026 images of the shape (3, 1024, 1024) take 3,227,516,928 bytes, more than 2,147,483,648\n"
        "  -> make them smaller, or grey, or use fewer",
    ),
    (
        "a picture that is not there",
        listed(LIST + b"dog/2.png,dog\n"),
        "list.csv:6: there is no picture 'dog/2.png'\n  -> is own the folder of the pictures?",
    ),
    (
        "a path out of the folder",
        listed(LIST + b"../secret.png,dog\n"),
        "list.csv:6: '../secret.png' leads out of the folder of the pictures\n"
        "  -> write file names as they are within the folder of the pictures",
    ),
    (
        "an absolute path",
        listed(LIST + b"/etc/passwd.png,dog\n"),
        "list.csv:6: '/etc/passwd.png' leads out of the folder of the pictures\n"
        "  -> write file names as they are within the folder of the pictures",
    ),
    (
        "a picture listed twice",
        listed(LIST + b"./cat/0.png,dog\n"),
        "list.csv:6: './cat/0.png' is listed twice\n  -> it is in list.csv:2 too",
    ),
    (
        "a list without labels",
        listed(LIST.replace(b"label", b"lable")),
        "list.csv:1: the column 'label' is missing\n  -> the first line must name the columns; did you mean 'lable'?",
    ),
    (
        "an empty label",
        listed(LIST + b"dog/2.png,\n"),
        "list.csv:6: the label is empty\n  -> use 1 to 100 characters",
    ),
    (
        "a list and folders",
        listed(LIST, ", folders: [alphabet, class]"),
        "data.folders: the lists name the class of each picture\n"
        "  -> leave data.folders out; further columns of the list are groups",
    ),
    (
        "no test list",
        own({"lists/train.json": b'["cat", "dog"]'}, ", lists: lists"),
        "lists: test.json is missing\n  -> put it beside the others",
    ),
    (
        "a class that is not there",
        own({"lists/train.json": b'["cat"]', "lists/test.json": b'["dog", ["animals", "fox"]]'}, ", lists: lists"),
        "lists/test.json[1]: the list names 'animals/fox', which is no class\n  -> the folders are like cat",
    ),
    (
        "a class in no list",
        own({"lists/train.txt": b"cat\n", "lists/test.txt": b"\n", "lists/val.txt": b""}, ", lists: lists"),
        "lists: 1 classes are in none of the lists, the first is 'dog'\n  -> add them to a list, or move them away",
    ),
    (
        "a class in two lists",
        own({"lists/train.txt": b"cat\n", "lists/test.txt": b"dog\ncat\n"}, ", lists: lists"),
        "lists/test.txt:2: the class 'cat' is listed twice\n  -> it is in lists/train.txt:1 too",
    ),
    (
        "a list of numbers",
        own({"lists/train.json": b"[1, 2]", "lists/test.json": b"[]"}, ", lists: lists"),
        'lists/train.json[0]: this is no class\n  -> write ["class", "class"] or [["above", "class"]]',
    ),
    (
        "no archive",
        lambda folder: (folder / "own.zip").write_bytes(b"PK but no zip") and "{name: image_folder, path: own.zip}",
        "own.zip: the zip archive is broken: File is not a zip file\n  -> fetch the archive again",
    ),
]
