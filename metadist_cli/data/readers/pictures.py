"""Pictures in files, found and decoded. Nothing there is trusted: no links, two formats, limits before a decoder.

A 1-bit picture is made smaller by its nearest pixels, as Omniglot's are (omniglot.py); any other by averages over
boxes, as scanned digits were counted.
"""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metadist_cli.core.errors import DATA, SYSTEM, Problem
from metadist_cli.data.names import NAME, natural, unfit

if TYPE_CHECKING:
    from PIL import Image

EACH = 32 << 20  # bytes of a file
_PIXELS = 25_000_000  # 100 MB of colour with transparency, and some copies of it
_LITTER = {"thumbs.db", "desktop.ini", "__macosx"}  # what file managers leave behind, besides hidden files


def entries(root: Path, within: str, most: int, others: Collection[str] = ()) -> tuple[list[str], list[str]]:
    """(folders, pictures) of one folder, as paths within the root, in natural order.

    most: so many entries at most. others: suffixes of files that are left alone; any other is refused, as links are.
    Raises Problem(DATA or SYSTEM).
    """
    folders, images = [], []
    try:
        with os.scandir(root / within) as found:
            for entry in found:
                if litter(entry.name):
                    continue
                if entry.is_symlink():
                    raise Problem("this is a symbolic link", entry.path, "put the file or folder itself there", DATA)
                is_folder = entry.is_dir(follow_symlinks=False)
                if not is_folder and os.path.splitext(entry.name)[1].lower() in others:
                    continue
                check_name(entry.name, entry.path, is_folder)
                (folders if is_folder else images).append(os.path.join(within, entry.name))
                if len(folders) + len(images) > most:
                    hint = "is this the right folder? else use fewer images"
                    raise Problem(f"there are more than {most:,} files and folders", str(root / within), hint, DATA)
    except OSError as error:
        hint = "check who may read it"
        raise Problem(f"cannot read this folder: {error.strerror}", str(root / within), hint, SYSTEM) from error
    return sorted(folders, key=natural), sorted(images, key=natural)


def litter(name: str) -> bool:
    """Whether a file manager has left a file or folder of this name behind."""
    return name.startswith(".") or name.lower() in _LITTER


def check_name(name: str, where: str, is_folder: bool) -> None:
    """Raises Problem(DATA) for a name that a report could not show, and for a file that is no picture by its name."""
    if reason := unfit(name, NAME if is_folder else 255):
        raise Problem(f"the name {reason}", where, "give it another name", DATA)
    if not is_folder and not name.lower().endswith((".png", ".jpg", ".jpeg")):
        raise Problem("only PNG and JPEG images are read", where, "save it as one, or move it away", DATA)


def pixels(data: bytes, colour: bool, size: tuple[int, int] | None, where: str) -> np.ndarray:
    """One picture file -> (height, width), of colour (3, height, width), uint8 0..255.

    size: (width, height), None for the picture's own. Raises Problem(DATA) for what is no picture, broken or too large.
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
        message, hint = f"the image has more than {_PIXELS:,} pixels", "save it smaller"
        raise Problem(message, where, hint, DATA) from error
    except Image.UnidentifiedImageError as error:
        raise Problem("this is no PNG or JPEG image", where, "save it as PNG or JPEG", DATA) from error
    except Exception as error:  # a decoder raises a dozen types, SyntaxError among them, on broken images
        raise Problem(f"the image is broken: {error}", where, "save it again", DATA) from error
    return found.transpose(2, 0, 1) if colour else found


def _resized(image: Image.Image, mode: str, size: tuple[int, int] | None) -> Image.Image:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)  # as a viewer shows it: cameras store the picture lying
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
