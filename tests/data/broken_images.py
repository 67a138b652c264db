"""Broken inputs of the reader `image_folder`; broken/images/ has the whole message that each must give.

Each case: a name, and a function that writes the files into a folder and returns the `data:` section, to be read with
that folder as the current one and without METADIST_DATA.
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


CASES: dict[str, Make] = {
    "no picture": own({"own/cat/1.png": b"this is not a picture"}),
    "decompression bomb": own({"own/cat/1.png": huge()}),
    "cut short": own({"own/cat/1.png": picture()[:60]}),
    "another format": own({"own/cat/2.gif": picture(form="GIF")}),
    "a class of one": own({"own/fox/0.png": picture()}),
    "empty class": own({}, change=lambda own: (own / "fox").mkdir()),
    "empty folder": lambda folder: (folder / "own").mkdir() or "{name: image_folder, path: own}",
    "link to a picture outside": own({}, change=link),
    "link to a folder outside": own({}, change=linked_class),
    "without a class": own({"own/lost.png": picture()}),
    "levels without a class": own({}, ", folders: [animal]"),
    "unlike sizes": own({"own/dog/1.png": picture(size=(8, 5))}),
    "too much for memory": own({f"own/cat/{i}.png": picture(1, (1, 1), mode="1") for i in range(1024)}, ", size: 1024"),
    "a picture that is not there": listed(LIST + b"dog/2.png,dog\n"),
    "a path out of the folder": listed(LIST + b"../secret.png,dog\n"),
    "an absolute path": listed(LIST + b"/etc/passwd.png,dog\n"),
    "a picture listed twice": listed(LIST + b"./cat/0.png,dog\n"),
    "a list without labels": listed(LIST.replace(b"label", b"lable")),
    "an empty label": listed(LIST + b"dog/2.png,\n"),
    "a list and folders": listed(LIST, ", folders: [alphabet, class]"),
    "no test list": own({"lists/train.json": b'["cat", "dog"]'}, ", lists: lists"),
    "a class that is not there": own(
        {"lists/train.json": b'["cat"]', "lists/test.json": b'["dog", ["animals", "fox"]]'}, ", lists: lists"
    ),
    "a class in no list": own(
        {"lists/train.txt": b"cat\n", "lists/test.txt": b"\n", "lists/val.txt": b""}, ", lists: lists"
    ),
    "a class in two lists": own({"lists/train.txt": b"cat\n", "lists/test.txt": b"dog\ncat\n"}, ", lists: lists"),
    "a list of numbers": own({"lists/train.json": b"[1, 2]", "lists/test.json": b"[]"}, ", lists: lists"),
    "no archive": lambda folder: (
        (folder / "own.zip").write_bytes(b"PK but no zip") and "{name: image_folder, path: own.zip}"
    ),
}
