"""The values of stored arrays as data sets need them: checked rows of numbers, classes and targets."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME
from metadist_cli.data.readers.array_files import Stored
from metadist_cli.data.types import Cast

_CHUNK = 16 << 20  # numbers that are checked at a time
_KINDS = {  # what values are for: numpy's kinds of types, in words, and how to get there
    "numbers": ("buif", "numbers", "save it as float32 or uint8"),
    "names": ("buiU", "whole numbers or text", "save it with .astype(str)"),
}


def check_type(array: Stored, use: Literal["numbers", "names"]) -> None:
    """Raises Problem(DATA) unless the array's type suits its use: rows and targets are numbers, classes have names."""
    kinds, wanted, hint = _KINDS[use]
    if array.dtype.kind not in kinds:
        hint = _from_fractions(array.load()) if use == "names" and array.dtype.kind == "f" else hint
        raise Problem(f"the array is of type {array.dtype}, not {wanted}", array.where, hint, DATA)
    if array.dtype.kind == "U" and not 0 < array.dtype.itemsize <= 4 * NAME:
        message = f"the array holds texts of up to {array.dtype.itemsize // 4:,} characters"
        raise Problem(message, array.where, f"use 1 to {NAME} characters", DATA)


def _from_fractions(values: np.ndarray) -> str:
    """How to make classes of floating-point numbers."""
    if gaps := int(np.isnan(values).sum()):
        named = f"{gaps:,} {'row has' if gaps == 1 else 'rows have'} no value (NaN)"
        return (
            f"{named}: leave such rows out of all arrays, with ~numpy.isnan of this one, then save it with .astype(int)"
        )
    if np.isfinite(values).all() and (values == np.round(values)).all():
        return "save it with .astype(int)"
    return "if it is to be predicted as a number, write kind: regression; else save it with .astype(str)"


def load_rows(array: Stored, channels: Literal["first", "last"] = "first") -> np.ndarray | Cast:
    """The rows of an array of numbers.

    Args:
        array: (n, ...) of any type of numbers, or (n, ..., C) with channels "last".

    Returns:
        (n, ...) or (n, C, ...): uint8 as it is, anything else as float32, converted when rows are read so that a large
        array may stay in its file.

    Raises:
        Problem(DATA): a number is not finite, or too large for float32.
    """
    source = array.load()
    source = np.moveaxis(source, -1, 1) if channels == "last" else source
    if source.dtype == np.uint8:
        return source
    rows = source if source.dtype == np.float32 else Cast(source)
    step = max(1, _CHUNK // math.prod(source.shape[1:]))
    with np.errstate(over="ignore", invalid="ignore"):  # what does not fit into float32 becomes infinite: found below
        for first in range(0, len(rows), step):
            _check_finite(rows[first : first + step], array.where, first)
    return rows


def load_targets(array: Stored) -> np.ndarray:
    """(n, out) float32 of an array (n,) or (n, out) of numbers. Raises Problem(DATA) where one is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        targets = array.load().reshape(array.shape[0], -1).astype(np.float32)
    _check_finite(targets, array.where, 0)
    return targets


def load_names(array: Stored) -> np.ndarray:
    """(n,) whole numbers or text; yes and no as bool. Raises Problem(DATA) for text that is not valid Unicode."""
    values = array.load()
    if values.dtype.kind == "b":
        return values.view(np.uint8) != 0  # a file may hold other bytes than 0 and 1
    codes = values.view(np.dtype("u4").newbyteorder(values.dtype.byteorder)) if values.dtype.kind == "U" else values[:0]
    if (codes > 0x10FFFF).any():  # numpy could not make a string of it
        hint = "save it again with numpy.savez_compressed"
        raise Problem("the array holds text that is not valid Unicode", array.where, hint, DATA)
    return values


def _check_finite(values: np.ndarray, where: str, first: int) -> None:
    """first: the number of the first row."""
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        place = ", ".join(map(str, [first + wrong[0, 0], *wrong[0, 1:]]))
        hint = "correct the row, or leave it out"
        raise Problem("the number is not finite, or too large for float32", f"{where}[{place}]", hint, DATA)
