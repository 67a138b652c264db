"""The files of Omniglot: archives or extracted folders -> one array of small images, cached.

The archives hold `images_background/Alphabet/characterNN/IIII_DD.png`, DD being the drawer, 105x105 pixels of 1 bit.
The head of a PNG is checked before a decoder sees it.
"""

from __future__ import annotations

import io
import os
import re
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers.folder import unzip
from metadist_cli.data.readers.image_cache import DecodePlan, cached

PARTS = ("images_background", "images_evaluation")
SIDE = 105
_RULE = "omniglot images 1: PIL, mode 1, nearest"  # another rule needs another name, or old caches would be taken
_MEMBER = re.compile(r"[^/\\]+/([A-Za-z0-9][A-Za-z0-9_() -]*)/(character[0-9]+)/[0-9]+_([0-9]+)\.png")
_LITTER = re.compile(r"__MACOSX/.*|(.*/)?(\.DS_Store|\._[^/]*|Thumbs\.db)")  # what file managers leave behind
_ARCHIVE, _MEMBERS, _EACH, _TOTAL = 32 << 20, 100_000, 64 << 10, 256 << 20  # about four times what Omniglot needs
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"

Pngs = dict[tuple[str, str, int], tuple[bytes, str]]  # (alphabet, character, drawer) -> PNG, where it was


class Drawings(NamedTuple):
    """n drawings of C characters, sorted by alphabet, character and drawer."""

    images: np.ndarray  # (n, size, size) uint8, 0 ink, 255 paper
    character: np.ndarray  # (n,) int64
    drawer: np.ndarray  # (n,) int64, number within the alphabet
    part: np.ndarray  # (C,) int64, 0 background, 1 evaluation
    names: tuple[tuple[str, str], ...]  # C of (alphabet, character)


def load(folder: Path, size: int) -> Drawings:
    """All drawings in the folder, scaled to size x size pixels; from the cache if it has them.

    Raises Problem(DATA) for archives, names or images that are not Omniglot's.
    """
    opened = [_open(folder, part) for part in PARTS]
    key = files.sha256("|".join([_RULE, str(size), *(digest for digest, _ in opened)]).encode())
    images, note = cached(key, lambda: _plan([pngs() for _, pngs in opened], size))
    character, drawer, part = (np.array(note[name], dtype=np.int64) for name in ("character", "drawer", "part"))
    return Drawings(images, character, drawer, part, tuple((a, c) for a, c in note["names"]))


def _open(folder: Path, part: str) -> tuple[str, Callable[[], Pngs]]:
    """SHA-256 of one part's content, and a function that reads its pngs."""
    path = (folder / f"{part}.zip").resolve()
    if path.exists():
        data = files.read(path, _ARCHIVE, "Omniglot archive")
        limits = {"members": _MEMBERS, "each": _EACH, "total": _TOTAL}
        return files.sha256(data), lambda: _pictures(unzip(data, str(path), **limits), str(path))
    path = (folder / part).resolve()
    pngs = _pictures(_walk(path), str(path.parent))
    listed = "".join(f"{name} {files.sha256(png)}\n" for name, (png, _) in sorted(pngs.items()))
    return files.sha256(f"{part}\n{listed}".encode()), lambda: pngs


def _walk(folder: Path) -> Iterable[tuple[str, bytes]]:
    count = total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            path = Path(parent) / name
            data = files.read(path, _EACH, "Omniglot image")
            count, total = count + 1, total + len(data)
            if count > _MEMBERS or total > _TOTAL:
                raise Problem("there are more files than Omniglot has", str(folder), "is this the right folder?", DATA)
            yield path.relative_to(folder.parent).as_posix(), data


def _pictures(members: Iterable[tuple[str, bytes]], where: str) -> Pngs:
    """PNG files by alphabet, character and drawer; names are matched, never used as paths."""
    out: Pngs = {}
    for name, data in members:
        if _LITTER.fullmatch(name):
            continue
        found = _MEMBER.fullmatch(name)
        if not found:
            hint = f"every file name must look like {PARTS[0]}/Greek/character01/0394_01.png"
            raise Problem(f"the file name {name!r} is not one of Omniglot's", where, hint, DATA)
        who = (found[1], found[2], int(found[3][:9]))
        if who in out:
            hint = "remove one of the two files"
            raise Problem(f"{who[0]}/{who[1]} has two drawings of number {who[2]:02d}: {name!r}", where, hint, DATA)
        out[who] = (data, f"{where}: {name}")
    return out


def _plan(parts: list[Pngs], size: int) -> DecodePlan:
    part_of: dict[tuple[str, str], int] = {}
    for part, pngs in enumerate(parts):
        for who in sorted({key[:2] for key in pngs}):
            if part_of.setdefault(who, part) != part:
                hint = "the two archives overlap: is one of them a copy, or one of upstream's 'small' sets?"
                raise Problem(f"{'/'.join(who)} is in both {PARTS[0]} and {PARTS[1]}", "", hint, DATA)
    if not part_of:
        hint = f"put images into {PARTS[0]} and {PARTS[1]}"
        raise Problem("Omniglot's archives hold no images", "", hint, DATA)
    names = tuple(sorted(part_of))
    index = {who: i for i, who in enumerate(names)}
    found = sorted((who, png) for pngs in parts for who, png in pngs.items())
    note = {
        "names": names,
        "character": [index[who[:2]] for who, _ in found],
        "drawer": [who[2] for who, _ in found],
        "part": [part_of[who] for who in names],
    }

    def fill(images: np.ndarray) -> None:
        for i, (_, (png, where)) in enumerate(found):
            images[i] = _small(png, size, where)

    return DecodePlan(note, (len(found), size, size), fill)


def _small(png: bytes, size: int, where: str) -> np.ndarray:
    """One PNG -> (size, size) uint8, 0 or 255, by PIL's nearest neighbour on the 1-bit image."""
    from PIL import Image

    hint = "download Omniglot again"
    if png[: len(_PNG)] != _PNG or len(png) < 26:
        raise Problem("the file is not a PNG image", where, hint, DATA)
    width, height, depth, colour = struct.unpack(">IIBB", png[16:26])
    if (width, height, depth, colour) != (SIDE, SIDE, 1, 0):  # a huge one stops here, before a decoder allocates it
        kind = f"{depth}-bit {'grey' if colour == 0 else 'colour'}"
        raise Problem(f"the image is {width}x{height}, {kind}; Omniglot's are 105x105, 1-bit grey", where, hint, DATA)
    try:
        with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
            if image.size != (SIDE, SIDE) or image.mode != "1":
                raise ValueError(f"it turns into {image.size} pixels of mode {image.mode}")
            return np.asarray(image.resize((size, size), Image.Resampling.NEAREST), dtype=np.uint8) * np.uint8(255)
    except Exception as error:  # a decoder raises a dozen types, SyntaxError among them, on broken images
        raise Problem(f"the PNG image is broken: {error}", where, hint, DATA) from error
