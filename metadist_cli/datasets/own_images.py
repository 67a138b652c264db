"""A folder of images by class -> rows as the data set stores them.

A 1-bit image is made smaller by its nearest pixels, as Omniglot's are (omniglot.py); any other by averages over boxes,
as scanned digits were counted. Nothing in the folder is trusted: no links, two formats, limits before a decoder.
"""

from __future__ import annotations

import io
import os
import warnings
from itertools import chain
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from metadist_cli import files
from metadist_cli.datasets.own_part import BYTES, NAME, Part, natural, unfit
from metadist_cli.errors import DATA, SYSTEM, Problem

_ENTRIES, _EACH = 100_000, 32 << 20  # images, bytes of one
_PIXELS = 25_000_000  # 100 MB of colour with transparency, and some copies of it
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # what file managers leave behind, besides hidden files
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
    folders, images = _entries(root, "")
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
    named, plain = _entries(root, "support")
    if plain:
        hint = "put it into the folder of its class, support/CLASS/"
        raise Problem("this image belongs to no class", str(root / plain[0]), hint, DATA)
    support = list(chain.from_iterable(_classes(root, named)))
    named, plain = _entries(root, "query")
    if named and plain:
        hint = "put all query images into folders of classes, or none"
        raise Problem("this image has no class, others have one", str(root / plain[0]), hint, DATA)
    return support, [*chain.from_iterable(_classes(root, named)), *((image, None) for image in plain)]


def _classes(root: Path, folders: list[str]) -> list[Pictures]:
    """The pictures of each class in natural order."""
    out: list[Pictures] = []
    total = 0
    for name in folders:
        deeper, images = _entries(root, name)
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


def _entries(root: Path, within: str) -> tuple[list[str], list[str]]:
    """(folders, images) of one folder, as paths within the root, in natural order."""
    folders, images = [], []
    try:
        with os.scandir(root / within) as found:
            for entry in found:
                if entry.name.startswith(".") or entry.name.lower() in _LITTER:
                    continue
                is_folder = entry.is_dir(follow_symlinks=False)
                _check(entry, is_folder)
                (folders if is_folder else images).append(os.path.join(within, entry.name))
                if len(folders) + len(images) > _ENTRIES:
                    message = f"there are more than {_ENTRIES:,} files and folders"
                    raise Problem(message, str(root / within), _FEWER, DATA)
    except OSError as error:
        hint = "check who may read it"
        raise Problem(f"cannot read this folder: {error.strerror}", str(root / within), hint, SYSTEM) from error
    return sorted(folders, key=natural), sorted(images, key=natural)


def _check(entry: os.DirEntry[str], is_folder: bool) -> None:
    if entry.is_symlink():
        raise Problem("this is a symbolic link", entry.path, "put the file or folder itself there", DATA)
    if reason := unfit(entry.name, NAME if is_folder else 255):
        raise Problem(f"the name {reason}", entry.path, "give it another name", DATA)
    if not is_folder and not entry.name.lower().endswith((".png", ".jpg", ".jpeg")):
        raise Problem("only PNG and JPEG images are read", entry.path, "save it as one, or move it away", DATA)


def _part(root: Path, pictures: Pictures, shape: tuple[int, ...], divide: float, invert: bool) -> Part:
    small = 2 <= divide <= 255  # else whole numbers are too coarse, or do not fit into a byte
    x = np.empty((len(pictures), *shape), dtype=np.uint8 if small else np.float32)
    for i, (name, _) in enumerate(pictures):
        pixels = _pixels(root / name, shape)
        scaled = (255 - pixels if invert else pixels).astype(np.float32) * divide / 255
        x[i] = np.rint(scaled) if small else scaled
    names = [name for name, _ in pictures]
    classes = [label for _, label in pictures if label is not None]
    return Part(x, classes or None, names, lambda i: str((root / names[i]).parent))


def _pixels(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """One image file -> shape, uint8 0..255."""
    data = files.read(path, _EACH, "image")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which are refused here, and of odd ones
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
                width, height = image.size
                if width * height > _PIXELS:
                    raise Image.DecompressionBombError
                pixels = np.asarray(_resized(image, shape))
    except Image.DecompressionBombError as error:
        message, hint = f"the image has more than {_PIXELS:,} pixels", "save it smaller"
        raise Problem(message, str(path), hint, DATA) from error
    except Image.UnidentifiedImageError as error:
        raise Problem("this is no PNG or JPEG image", str(path), "save it as PNG or JPEG", DATA) from error
    except Exception as error:  # a decoder raises a dozen types, SyntaxError among them, on broken images
        raise Problem(f"the image is broken: {error}", str(path), "save it again", DATA) from error
    return pixels.transpose(2, 0, 1) if len(shape) == 3 and shape[0] == 3 else pixels.reshape(shape)


def _resized(image: Image.Image, shape: tuple[int, ...]) -> Image.Image:
    mode, size = "RGB" if len(shape) == 3 and shape[0] == 3 else "L", (shape[-1], shape[-2])
    image = ImageOps.exif_transpose(image)  # as a viewer shows it: cameras store the picture lying
    if image.mode == "1":
        return image.resize(size, Image.Resampling.NEAREST).convert(mode)
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion cuts them off at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:  # what lies under it is often black: ink would vanish
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    shrinks = size[0] <= image.width and size[1] <= image.height
    return image.convert(mode).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
