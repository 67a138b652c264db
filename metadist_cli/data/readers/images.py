"""Images in files, found and decoded. They are untrusted: no links, two formats, limits checked before decoding.

A 1-bit image is resized to its nearest pixels, as Omniglot's are (omniglot.py); any other is shrunk by averaging over
boxes, as scanned digits were counted.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, SYSTEM, Problem
from metadist_cli.data.names import NAME, natural, unfit
from metadist_cli.data.readers.members import Member, members

if TYPE_CHECKING:
    from PIL import Image

EACH = 32 << 20  # bytes of a file
_FILES = 1_000_000
_PIXELS = 25_000_000  # 100 MB of colour with transparency, and some copies of it
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # what file managers leave behind, besides hidden files
_FEWER = "is this the right folder? if so, use fewer images"


def list_images(root: Path, others: Collection[str] = ()) -> list[Member]:
    """All images in a folder, however deep, or in a .zip archive.

    Args:
        root: the folder or archive.
        others: suffixes of further files that may be there, such as licences; "" means files without a suffix.

    Returns:
        The images in natural order of their names, such as cat/2.png before cat/10.png; none for an empty folder.

    Raises:
        Problem(DATA or SYSTEM): a link, another kind of file, a folder without images, a name that a report cannot
            show, or more than a million images.
    """
    if root.is_dir():
        found = _below(root, others)
    elif root.suffix.lower() == ".zip":
        found = _packed(root, others)
    else:
        raise Problem("this is neither a folder nor a .zip archive", str(root), "use one that holds images", DATA)
    if len(found) > _FILES:
        raise Problem(f"there are more than {_FILES:,} images", str(root), _FEWER, DATA)
    return sorted(found, key=lambda member: natural(member.name))


def _below(root: Path, others: Collection[str]) -> list[Member]:
    out: list[Member] = []
    todo = [""]
    while todo and len(out) <= _FILES:
        within = todo.pop()
        folders, images = _entries(root, within, others)
        if within and not folders and not images:
            raise Problem("the folder holds no images", str(root / within), "add images, or remove the folder", DATA)
        todo += folders
        out += [Member(one, str(root / one), partial(files.read, root / one, EACH, "image")) for one in images]
    return out


def _entries(root: Path, within: str, others: Collection[str]) -> tuple[list[str], list[str]]:
    """(folders, images) of one folder, as paths within the root."""
    folders, images = [], []
    try:
        with os.scandir(root / within) as found:
            for entry in found:
                if _litter(entry.name):
                    continue
                if entry.is_symlink():
                    raise Problem("this is a symbolic link", entry.path, "put the file or folder itself there", DATA)
                is_folder = entry.is_dir(follow_symlinks=False)
                if not is_folder and _suffix(entry.name) in others:
                    continue
                _check_name(entry.name, entry.path, is_folder)
                (folders if is_folder else images).append(os.path.join(within, entry.name))
                if len(folders) + len(images) > _FILES:
                    message = f"there are more than {_FILES:,} files and folders"
                    raise Problem(message, str(root / within), _FEWER, DATA)
    except OSError as error:
        message = f"cannot read this folder: {error.strerror}"
        raise Problem(message, str(root / within), "check its permissions", SYSTEM) from error
    return folders, images


def _packed(archive: Path, others: Collection[str]) -> list[Member]:
    out = []
    for member in members(archive, "", "image"):
        *above, name = member.name.split("/")
        if not _litter(name) and _suffix(name) not in others:
            for one in above:
                _check_name(one, member.where, True)
            _check_name(name, member.where, False)
            out.append(member)
    return out


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def _litter(name: str) -> bool:
    return name.startswith(".") or name.lower() in _LITTER


def _check_name(name: str, where: str, is_folder: bool) -> None:
    """Raises Problem(DATA) for a name that a report cannot show, and for a file that is not an image by its name."""
    if reason := unfit(name, NAME if is_folder else 255):
        raise Problem(f"the name {reason}", where, "choose another name", DATA)
    if not is_folder and _suffix(name) not in (".png", ".jpg", ".jpeg"):
        raise Problem("only PNG and JPEG images can be read", where, "save it as one, or move it away", DATA)


def pixels(data: bytes, colour: bool, size: tuple[int, int] | None, where: str, invert: bool = False) -> np.ndarray:
    """Decode one image.

    Args:
        data: the bytes of a PNG or JPEG file.
        colour: three channels, or else grey.
        size: (width, height), None for the image's own.
        where: the file, for messages.
        invert: dark becomes bright.

    Returns:
        (height, width), or with colour (3, height, width), uint8 from 0 to 255.

    Raises:
        Problem(DATA): the file is not an image, broken, or has more than 25 million pixels.
    """
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow warns of large images, which are refused here, and of odd ones
            with Image.open(io.BytesIO(data), formats=["PNG", "JPEG"]) as image:
                width, height = image.size
                if width * height > _PIXELS:
                    raise Image.DecompressionBombError
                found = np.asarray(_resized(image, "RGB" if colour else "L", size))
    except Image.DecompressionBombError as error:
        message = f"the image has more than {_PIXELS:,} pixels"
        raise Problem(message, where, "save a smaller one", DATA) from error
    except Image.UnidentifiedImageError as error:
        raise Problem("the file is not a PNG or JPEG image", where, "save it as PNG or JPEG", DATA) from error
    except Exception as error:  # a decoder raises a dozen types, SyntaxError among them, on broken images
        raise Problem(f"the image is broken: {error}", where, "save it again", DATA) from error
    found = 255 - found if invert else found
    return found.transpose(2, 0, 1) if colour else found


def _resized(image: Image.Image, mode: str, size: tuple[int, int] | None) -> Image.Image:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)  # as a viewer shows it: cameras store the image as it was held
    size = size or image.size
    if image.mode == "1":
        return image.resize(size, Image.Resampling.NEAREST).convert(mode)
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion cuts them off at 255
        image = Image.fromarray((np.asarray(image) // 256).astype(np.uint8))
    if image.has_transparency_data:  # what lies under it is often black: ink would vanish
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    shrinks = size[0] <= image.width and size[1] <= image.height
    return image.convert(mode).resize(size, Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC)
