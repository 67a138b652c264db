"""New rows for a model, in the data set's own columns and units: of files, and of what Python has in memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.core import files
from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.preprocessing import Preprocessing, rotate
from metadist_cli.data.readers.array_files import list_arrays, stored
from metadist_cli.data.readers.array_values import check_type, load_rows
from metadist_cli.data.readers.characters import numbers
from metadist_cli.data.readers.file_kinds import given
from metadist_cli.data.readers.images import EACH, list_images, pixels
from metadist_cli.data.readers.members import Member
from metadist_cli.data.readers.new_columns import (
    feature_names,
    features_in_memory,
    features_of,
    open_new,
    read_new,
)
from metadist_cli.data.readers.table_columns import row_lines

_TASK = ("part", "label", "target")  # columns of a task of the user's own, which may be predicted, too
_BYTES = 8 << 30


class NewRows(NamedTuple):
    """n rows that are not labelled: x (n, *shape) as the data set stores them, and what each is called."""

    x: np.ndarray
    names: Sequence[str]


def read_rows(path: Path, by: Preprocessing) -> NewRows:
    """The rows of a table, of an array `x` (or a task's `query_x`), of a folder or archive of images, or of one image.

    Args:
        path: the file or folder.
        by: what the model expects.

    Raises:
        Problem(DATA or SYSTEM): names the file, the place in it, and what to do.
    """
    path, kind = given(path, "use a table such as .csv or .parquet, an .npz file, or images")
    if kind == "arrays":
        return _array(path, by)
    if kind == "folder":
        found = list_images(path, (".csv", ".json", ".md", ".txt", ""))
        return NewRows(read_images(found, by, str(path)), [member.name for member in found])
    if kind == "image":
        member = Member(path.name, str(path), lambda: files.read(path.resolve(), EACH, "image"))
        return NewRows(read_images([member], by, str(path)), [path.name])
    opened = open_new(path, by)
    names = feature_names(opened.names, by, [name for name in _TASK if name in opened.names], opened.head)
    table = read_new(opened, by, names, {})
    rows = NewRows(features_of(table.columns, by, names, table.place), [f"line {line}" for line in row_lines(table)])
    check_range(rows.x, by, str(path))
    return rows


def _array(path: Path, by: Preprocessing) -> NewRows:
    arrays = list_arrays(path)
    name = next(iter(arrays)) if len(arrays) == 1 else "query_x" if "query_x" in arrays else "x"
    found = stored(arrays, name, path)
    check_type(found, "numbers")
    if found.shape[1:] != by.shape or not found.shape[0]:
        message = f"the array has the shape {found.shape}, not (n, {', '.join(map(str, by.shape))})"
        raise Problem(message, found.where, "n is the number of rows", DATA)
    x = load_rows(found)[:]
    check_range(x, by, str(path))
    return NewRows(x, [f"row {i}" for i in range(len(x))])


def read_images(found: Sequence[Member], by: Preprocessing, where: str) -> np.ndarray:
    """(n, *shape) images as the data set stores them, 0..divide. Raises Problem(DATA) where its rows are none."""
    check_images(by, len(found), where, _BYTES)
    if not found:
        raise Problem("the folder holds no images", where, "add some", DATA)
    shape, divide = by.shape, by.divide
    small = 2 <= divide <= 255  # else whole numbers are too coarse, or do not fit into a byte
    x = np.empty((len(found), *shape), dtype=np.uint8 if small else np.float32)
    colour, size = len(shape) == 3 and shape[0] == 3, (shape[-1], shape[-2])
    for i, member in enumerate(found):
        image = pixels(member.read(), colour, size, member.where, by.invert).reshape(shape)
        scaled = image.astype(np.float32) * divide / 255
        x[i] = np.rint(scaled) if small else scaled
    return x


def check_images(by: Preprocessing, count: int, where: str, most: int) -> None:
    """Raises Problem(DATA) where rows are not images, or these are more than `most` bytes as float32."""
    shape = by.shape
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] not in (1, 3)):
        message = f"the rows of this data set have the shape {shape}, they are not images"
        raise Problem(message, where, "use an .npz or .csv file", DATA)
    if count * int(np.prod(shape)) * 4 > most:
        message = f"{count:,} images of the shape {shape} take more than {most:,} bytes"
        raise Problem(message, where, "is this the right folder? if so, use fewer images", DATA)


def rows_in_memory(rows: Any, by: Preprocessing) -> np.ndarray:
    """(n, *shape) rows as the data set stores them.

    Args:
        rows: a mapping of columns by name, such as a data frame; or an array (n, *shape) of the features, in the order
            in which `partition` lists them, NaN where a cell is missing; or texts, where the data set's rows are texts.
        by: what the model expects.

    Raises:
        Problem(DATA): they do not fit.
    """
    if hasattr(rows, "keys"):
        return features_in_memory(rows, by)
    x = np.asarray(rows)
    if by.letters and x.dtype.kind in "UO" and x.ndim == 1:
        return numbers(x.tolist(), by.letters, by.shape[0], by.free)
    if x.dtype.kind not in "buif":
        raise Problem(f"the rows are of type {x.dtype}, not numbers", "x", "pass a mapping of columns by name", DATA)
    if x.shape[1:] != by.shape or x.ndim == 0:
        raise Problem(f"rows of shape {x.shape[1:]}, not {by.shape}", "x", "reshape them", DATA)
    with np.errstate(over="ignore"):
        x = x if x.dtype == np.uint8 else x.astype(np.float32)
    if np.isinf(x).any() or (by.missing == "refuse" and np.isnan(x).any()):
        raise Problem("rows hold values that are not finite", "x", "leave them out, or fill them in", DATA)
    if x.dtype != np.uint8 and len(x):
        check_range(x, by, "x")
    return x


def as_inputs(x: np.ndarray, by: Preprocessing) -> np.ndarray:
    """Stored rows as a model sees them, but for `divide`: scaled, and rotated as the node's are."""
    if by.angle:
        if x.dtype != np.uint8:
            raise Problem(f"the images are of type {x.dtype}", "x", "pass uint8, as they are rotated", DATA)
        x = rotate(x, by.angle)
    return by.scaled(x)


def check_range(x: np.ndarray, by: Preprocessing, where: str) -> None:
    """Raises Problem where pixels are not 0..divide: most often they are 0..1, and the model would see black."""
    if by.divide <= 1:
        return
    low, high = x.min(), x.max()
    if low < 0 or not 1 < high <= by.divide:
        message = f"the values range from {low:g} to {high:g}, those of this data set from 0 to {by.divide:g}"
        hint = f"multiply them by {by.divide:g}" if low >= 0 and high <= 1 else "scale them to that range"
        raise Problem(message, where, hint, DATA)
