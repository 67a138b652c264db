"""Arrays of one's own: signals, images or features in .npz, .npy or .safetensors files, with a column that says whose.

Large arrays stay on the disk: .npy and .safetensors files are memory-mapped, and rows of other types than uint8 become
float32 when they are read, so that float16 takes half the room until then.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import NAME, nearest, unfit
from metadist_cli.data.readers.array_files import Stored, stored
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.groups import cluster, group, split_roles
from metadist_cli.data.readers.npy import check_finite, check_text
from metadist_cli.data.types import Cast, Dataset, build

_ROWS = 100_000_000
_CHUNK = 16 << 20  # numbers that are looked at in one go


def arrays(
    seed: int,
    *,
    path: Annotated[str, Field(description="an .npz or .safetensors file, or a folder of .npy files")],
    x: Annotated[str, Field(description="array of the inputs, (rows, ...)")] = "x",
    y: Annotated[str, Field(description="array of the labels: whole numbers or text, or numbers to predict")] = "y",
    kind: Annotated[
        Literal["classification", "regression"], Field(description="y are classes, or numbers to predict")
    ] = "classification",
    classes: Annotated[
        list[str] | None,
        Field(min_length=1, description="names of the classes 0, 1, ... (or text labels in order); null: the labels"),
    ] = None,
    groups: Annotated[
        list[str] | None,
        Field(description="arrays that say whose the rows are, such as [subject]: natural nodes"),
    ] = None,
    split: Annotated[
        str | None,
        Field(description="array that says what trains: true or false, or 0, 1, 2 for train, validation, test"),
    ] = None,
    channels: Annotated[
        Literal["first", "last"], Field(description="whether channels are the first or the last axis of a row")
    ] = "first",
    divide: Annotated[
        float | None, Field(gt=0, description="the model sees x divided by this; null: 255 for uint8, else 1")
    ] = None,
) -> Dataset:
    """Rows of a file: x (n, ...) uint8 as it is, else float32; classes by y, groups by the arrays that are named.

    With `channels: last` rows (..., C) become (C, ...). A split in which no class is on two sides is one of classes,
    else one of rows. A regression has one class, y. Fixed, so the seed changes nothing. Raises Problem where files are
    missing, broken or do not agree, or hold a number that is not finite.
    """
    where = place(path)
    columns = {*(groups or []), *([] if split is None else [split])}
    found = stored(where, (x, y, *sorted(columns)))
    count = _check(found, x, y, columns, kind, where)
    inputs = _inputs(found[x], channels, f"{where}: {x}")
    values = {name: _column(found[name], f"{where}: {name}") for name in columns}
    named = {name: group(values[name], partial(_place, where, name)) for name in groups or []}
    target = None
    if kind == "regression":
        target = _targets(found[y], f"{where}: {y}")
        label, names = np.zeros(count, dtype=np.int64), (y,)
    else:
        label, names = _labels(_column(found[y], f"{where}: {y}"), classes, partial(_place, where, y))
    role, row_role = (None, None)
    if split is not None:
        role, row_role = split_roles(values[split], label, len(names), partial(_place, where, split))
    return build(
        kind,
        inputs,
        label,
        names,
        divide=divide or (255.0 if inputs.dtype == np.uint8 else 1.0),
        target=target,
        groups=named,
        cluster=cluster(named, label, len(names)),
        role=role,
        row_role=row_role,
    )


def _check(found: dict[str, Stored], x: str, y: str, columns: set[str], kind: str, where: Path) -> int:
    """The number of rows. Raises Problem unless types and shapes, all known before any data are read, fit together."""
    count = found[x].shape[0] if found[x].shape else 0
    if not 2 <= count <= _ROWS or len(found[x].shape) < 2 or 0 in found[x].shape:
        message = f"the inputs have the shape {found[x].shape}, not (rows, ...) with 2 to {_ROWS:,} rows"
        raise Problem(message, f"{where}: {x}", "save one number a row with .reshape(-1, 1)", DATA)
    for name, (dtype, shape, _) in found.items():
        numbers = name == x or (name == y and kind == "regression")
        if dtype.kind not in ("buif" if numbers else "buiU"):
            wanted = "numbers" if numbers else "whole numbers or text"
            hint = "save it as float32 or uint8" if numbers else "save it with .astype(int) or .astype(str)"
            raise Problem(f"the array is of type {dtype}, not {wanted}", f"{where}: {name}", hint, DATA)
        if dtype.kind == "U" and not 0 < dtype.itemsize <= 4 * NAME:
            message = f"the array holds texts of up to {dtype.itemsize // 4:,} characters"
            raise Problem(message, f"{where}: {name}", f"use 1 to {NAME}", DATA)
        if not shape or shape[0] != count or 0 in shape:
            message = f"the array has {shape[0] if shape else 0:,} rows, {x} has {count:,}"
            raise Problem(message, f"{where}: {name}", "they must be equally long", DATA)
        if name != x and len(shape) != 1 and (name in columns or kind == "classification" or len(shape) != 2):
            message = f"the array has the shape {shape}, not one value a row"
            raise Problem(message, f"{where}: {name}", "save it with .reshape(-1)", DATA)
    return count


def _inputs(x: Stored, channels: str, where: str) -> np.ndarray | Cast:
    """x as it is where it is uint8 or float32, else as rows that become float32; all of it looked at once."""
    source = x.load()
    source = np.moveaxis(source, -1, 1) if channels == "last" else source
    if source.dtype == np.uint8:
        return source
    rows = source if source.dtype == np.float32 else Cast(source)
    step = max(1, _CHUNK // math.prod(source.shape[1:]))
    with np.errstate(over="ignore"):  # what does not fit into float32 is no finite number there
        for first in range(0, len(rows), step):
            check_finite(rows[first : first + step], where, first)
    return rows


def _place(path: Path, name: str, row: int) -> str:
    return f"{path}: {name}[{row}]"


def _column(stored: Stored, where: str) -> np.ndarray:
    values = stored.load()
    check_text(values, where)
    return values.view(np.uint8) != 0 if values.dtype.kind == "b" else values  # a file may hold other bytes than 0, 1


def _targets(y: Stored, where: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        target = y.load().reshape(y.shape[0], -1).astype(np.float32)
    check_finite(target, where)
    return target


def _labels(
    values: np.ndarray, classes: list[str] | None, at: Callable[[int], str]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """((n,) int64 class of each row, names of the classes)."""
    if classes is None:
        found = group(values.astype(np.uint8) if values.dtype.kind == "b" else values, at)
        return found.code, found.names
    for i, name in enumerate(classes):
        reason = unfit(name) or ("is given twice" if name in classes[:i] else "")
        if reason:
            raise Problem(f"the name of class {i} {reason}", "data.classes", "give it another one", CONFIG)
    if values.dtype.kind == "U":
        found, index = group(values, at), {name: i for i, name in enumerate(classes)}
        number = np.array([index.get(name, -1) for name in found.names])
        label, hint = number[found.code], nearest(found.names[int(number.argmin())], classes)
    else:
        known = (values >= 0) & (values < len(classes))
        label, hint = np.where(known, values.astype(np.int64), -1), f"it names the classes 0 to {len(classes) - 1}"
    wrong = np.flatnonzero(label < 0)
    if len(wrong):
        message = f"the label {str(values[wrong[0]])!r} is none of data.classes"
        raise Problem(message, at(int(wrong[0])), hint, DATA)
    return label.astype(np.int64), tuple(classes)
