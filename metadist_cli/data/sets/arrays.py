"""Your own arrays: signals, images or features in .npz, .npy or .safetensors files, with an array that names the nodes.

Large arrays stay on disk: .npy and .safetensors files are memory-mapped, and rows of other types than uint8 become
float32 when they are read, so that float16 takes half the space until then.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from metadist_cli.core.errors import CONFIG, DATA, Problem
from metadist_cli.data.names import nearest, unfit
from metadist_cli.data.readers.array_files import Stored, list_arrays, stored
from metadist_cli.data.readers.array_values import check_type, load_names, load_rows, load_targets
from metadist_cli.data.readers.folder import place
from metadist_cli.data.readers.groups import cluster, group, split_roles
from metadist_cli.data.types import Dataset, build

_ROWS = 100_000_000


def arrays(
    seed: int,
    *,
    path: Annotated[str, Field(description="an .npz or .safetensors file, or a folder of .npy files")],
    x: Annotated[str, Field(description="array of the inputs, (rows, ...)")] = "x",
    y: Annotated[str, Field(description="array of the labels: whole numbers or text, or numbers to predict")] = "y",
    kind: Annotated[
        Literal["classification", "regression"], Field(description="whether y holds classes, or numbers to predict")
    ] = "classification",
    classes: Annotated[
        list[str] | None,
        Field(min_length=1, description="names of the classes 0, 1, ... (or text labels in order); null: the labels"),
    ] = None,
    groups: Annotated[
        list[str] | None,
        Field(description="arrays that say whose each row is, such as [subject], to make nodes of"),
    ] = None,
    split: Annotated[
        str | None,
        Field(description="array that says what to train on: true or false, or 0, 1, 2 for train, validation, test"),
    ] = None,
    channels: Annotated[
        Literal["first", "last"], Field(description="whether channels are the first or the last axis of a row")
    ] = "first",
    divide: Annotated[
        float | None, Field(gt=0, description="the model sees x divided by this; null: 255 for uint8, else 1")
    ] = None,
) -> Dataset:
    """Rows of a file of arrays.

    Args:
        seed: unused, the rows are fixed.

    Returns:
        x (n, ...) uint8 as it is, else float32; with `channels: last` rows (..., C) become (C, ...). Classes by y; a
        regression has a single class, y, and targets (n, out) float32. Groups by the arrays named. A split that keeps
        every class on one side is one of classes, any other is one of rows.

    Raises:
        Problem(DATA): a file is missing or broken, arrays do not match, or a number is not finite.
    """
    where = place(path)
    there = list_arrays(where)
    columns: list[str] = sorted({*(groups or ()), *((split,) if split is not None else ())})
    found = {name: stored(there, name, where) for name in (x, y, *columns)}
    count = _check(found, x, y, columns, kind)
    inputs = load_rows(found[x], channels)
    values = {name: load_names(found[name]) for name in columns}
    named = {name: group(values[name], found[name].at) for name in groups or []}
    target = None
    if kind == "regression":
        target = load_targets(found[y])
        label, names = np.zeros(count, dtype=np.int64), (y,)
    else:
        label, names = _labels(found[y], classes)
    role, row_role = (None, None)
    if split is not None:
        role, row_role = split_roles(values[split], label, len(names), found[split].at)
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


def _check(found: dict[str, Stored], x: str, y: str, columns: list[str], kind: str) -> int:
    """The number of rows. Raises Problem(DATA) unless types and shapes fit together; few data are read yet."""
    shape = found[x].shape
    count = shape[0] if shape else 0
    if not 2 <= count <= _ROWS or len(shape) < 2 or 0 in shape:
        message = f"the inputs have the shape {shape}, not (rows, ...) with 2 to {_ROWS:,} rows"
        raise Problem(message, found[x].where, "if each row is one number, save it with .reshape(-1, 1)", DATA)
    for name, array in found.items():
        shape = array.shape
        if not shape or shape[0] != count or 0 in shape:
            message = f"the array has {shape[0] if shape else 0:,} rows, {x} has {count:,}"
            raise Problem(message, array.where, "give both the same number of rows", DATA)
        if name != x and len(shape) != 1 and (name in columns or kind == "classification" or len(shape) != 2):
            message = f"the array has the shape {shape}, not one value per row"
            raise Problem(message, array.where, _one_value(array), DATA)
        check_type(array, "numbers" if name == x or (name == y and kind == "regression") else "names")
    return count


def _one_value(array: Stored) -> str:
    """How to get one value per row."""
    if math.prod(array.shape[1:]) == 1:
        return "save it with .reshape(-1)"
    if len(array.shape) == 2 and array.dtype.kind in "biuf":
        values = array.load()
        if np.isin(values, (0, 1)).all() and (values.sum(1) == 1).all():
            return "it is one-hot: save it with .argmax(1)"
    return "save the one of its columns that is meant, for example with [:, 0]"


def _labels(array: Stored, classes: list[str] | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """((n,) int64 class of each row, names of the classes)."""
    values = load_names(array)
    if classes is None:
        found = group(values.astype(np.uint8) if values.dtype.kind == "b" else values, array.at)
        return found.code, found.names
    for i, name in enumerate(classes):
        reason = unfit(name) or ("is given twice" if name in classes[:i] else "")
        if reason:
            raise Problem(f"the name of class {i} {reason}", "data.classes", "choose another name", CONFIG)
    if values.dtype.kind == "U":
        found, index = group(values, array.at), {name: i for i, name in enumerate(classes)}
        number = np.array([index.get(name, -1) for name in found.names])
        label, hint = number[found.code], nearest(found.names[int(number.argmin())], classes)
    else:
        known = (values >= 0) & (values < len(classes))
        label, hint = np.where(known, values.astype(np.int64), -1), f"it names the classes 0 to {len(classes) - 1}"
    wrong = np.flatnonzero(label < 0)
    if len(wrong):
        message = f"the label {str(values[wrong[0]])!r} is not in data.classes"
        raise Problem(message, array.at(int(wrong[0])), hint, DATA)
    return label.astype(np.int64), tuple(classes)
