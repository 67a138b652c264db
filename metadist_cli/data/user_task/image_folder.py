"""A folder of images by class -> rows as the data set stores them (pictures.py)."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import BYTES, Part
from metadist_cli.data.readers.pictures import EACH, entries, pixels

_ENTRIES = 100_000  # images
_FEWER = "is this the right folder? else use fewer images"
_LAYOUT = "put support/CLASS/*.png and query/CLASS/*.png (or query/*.png) there, or just CLASS/*.png"

Pictures = list[tuple[str, str | None]]  # path within the folder, class


def read_folder(root: Path, shape: tuple[int, ...], divide: float, shot: int, invert: bool) -> tuple[Part, Part]:
    """(support, query) of a folder; where it does not say which is which, `shot` images of a class are support.

    shape: (H, W) or (C, H, W), C 1 (grey) or 3 (colour). invert: dark becomes bright, so that ink is bright.
    Raises Problem for what is not an image, is a link, is too large, or lies where it does not belong.
    """
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        hint = "write the task as an .npz or .csv file"
        raise Problem(f"the rows of this data set have the shape {shape}, they are no images", str(root), hint, DATA)
    pictures = _parts(root, shot)
    for part, some in zip(("support", "query"), pictures, strict=True):
        if not some:
            raise Problem(f"there are no {part} images", str(root), f"add some: {_LAYOUT}", DATA)
    count = sum(map(len, pictures))
    if count * int(np.prod(shape)) * 4 > BYTES:
        message = f"{count:,} images of the shape {shape} take more than {BYTES:,} bytes"
        raise Problem(message, str(root), _FEWER, DATA)
    support, query = (_part(root, some, shape, divide, invert) for some in pictures)
    return support, query


def _parts(root: Path, shot: int) -> tuple[Pictures, Pictures]:
    """(support, query) pictures of either layout."""
    folders, images = entries(root, "", _ENTRIES)
    if images:
        hint = f"put it into the folder of its class: {_LAYOUT}"
        raise Problem("this image belongs to no class", str(root / images[0]), hint, DATA)
    if not {"support", "query"} & set(folders):
        by_class = _classes(root, folders)
        support = [picture for pictures in by_class for picture in pictures[:shot]]
        return support, [picture for pictures in by_class for picture in pictures[shot:]]
    for name in ("support", "query"):
        if name not in folders:
            hint = f"{_LAYOUT} (support and query cannot be classes there)"
            raise Problem(f"the folder {name} is missing", str(root), hint, DATA)
    if others := [name for name in folders if name not in ("support", "query")]:
        hint = "move it into support or query if it is a class, else away"
        raise Problem("this folder stands beside support and query", str(root / others[0]), hint, DATA)
    named, plain = entries(root, "support", _ENTRIES)
    if plain:
        hint = "put it into the folder of its class, support/CLASS/"
        raise Problem("this image belongs to no class", str(root / plain[0]), hint, DATA)
    support = list(chain.from_iterable(_classes(root, named)))
    named, plain = entries(root, "query", _ENTRIES)
    if named and plain:
        hint = "put all query images into folders of classes, or none"
        raise Problem("this image has no class, others have one", str(root / plain[0]), hint, DATA)
    return support, [*chain.from_iterable(_classes(root, named)), *((image, None) for image in plain)]


def _classes(root: Path, folders: list[str]) -> list[Pictures]:
    """The pictures of each class in natural order."""
    out: list[Pictures] = []
    total = 0
    for name in folders:
        deeper, images = entries(root, name, _ENTRIES)
        total += len(images)
        if deeper:
            hint = "put the images straight into the folder of their class"
            raise Problem("this is a folder in the folder of a class", str(root / deeper[0]), hint, DATA)
        if not images:
            hint = "add images, or remove the folder"
            raise Problem("the folder of this class holds no images", str(root / name), hint, DATA)
        if total > _ENTRIES:
            raise Problem(f"there are more than {_ENTRIES:,} images", str(root), _FEWER, DATA)
        out.append([(image, Path(name).name) for image in images])
    return out


def _part(root: Path, pictures: Pictures, shape: tuple[int, ...], divide: float, invert: bool) -> Part:
    small = 2 <= divide <= 255  # else whole numbers are too coarse, or do not fit into a byte
    x = np.empty((len(pictures), *shape), dtype=np.uint8 if small else np.float32)
    colour, size = len(shape) == 3 and shape[0] == 3, (shape[-1], shape[-2])
    for i, (name, _) in enumerate(pictures):
        picture = pixels(files.read(root / name, EACH, "image"), colour, size, str(root / name)).reshape(shape)
        scaled = (255 - picture if invert else picture).astype(np.float32) * divide / 255
        x[i] = np.rint(scaled) if small else scaled
    names = [name for name, _ in pictures]
    classes = [label for _, label in pictures if label is not None]
    return Part(x, classes or None, names, lambda i: str((root / names[i]).parent))
