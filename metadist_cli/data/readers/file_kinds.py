"""What a file or folder of rows is, by its name: arrays, images or a table."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal, NamedTuple

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.readers import array_files
from metadist_cli.data.readers.table_files import TABLES

IMAGES = (".png", ".jpg", ".jpeg")


class Given(NamedTuple):
    """A file or folder that a user named."""

    path: Path
    kind: Literal["arrays", "folder", "image", "table"]


def given(path: Path, hint: str) -> Given:
    """What a path is: arrays (.npz, .safetensors or a folder of .npy), a folder or .zip of images, an image, a table.

    Args:
        path: of a user, who may write ~ for the home folder.
        hint: what to use instead of a file of another kind.

    Raises:
        Problem: DATA if there is no such file, or it is of another kind.
    """
    path = Path(os.path.expanduser(path))
    suffix = path.suffix.lower()
    if not os.path.exists(path):  # Path.exists raises for a name too long or with a zero byte
        raise Problem("no such file or folder", str(path), "check the path", DATA)
    if any(path.glob("*.npy")) if path.is_dir() else suffix in array_files.SUFFIXES:
        return Given(path, "arrays")
    if path.is_dir() or suffix == ".zip":
        return Given(path, "folder")
    if suffix in IMAGES:
        return Given(path, "image")
    if path.name.lower().endswith(TABLES):
        return Given(path, "table")
    raise Problem(f"cannot read rows from a {suffix or 'nameless'} file", str(path), hint, DATA)
