"""A task as arrays: support_x, support_y, query_x and perhaps query_y, in any file that the data set `arrays` reads."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import NAME, nearest
from metadist_cli.data.preprocessing import Preprocessing
from metadist_cli.data.readers.array_files import Stored, list_arrays, stored
from metadist_cli.data.readers.array_values import check_type, load_names, load_rows, load_targets
from metadist_cli.data.user_task.types import BYTES, ROWS, Part, TaskFormat

_NAMES = ("support_x", "support_y", "query_x", "query_y")


def read_arrays(path: Path, wanted: TaskFormat) -> tuple[Part, Part]:
    """(support, query) of an .npz or .safetensors file or a folder of .npy files, in the data set's units.

    x (n, *shape) numbers; y (n,) whole numbers or text, in a regression (n, outputs) numbers. Raises Problem(DATA).
    """
    arrays = list_arrays(path)
    for name in arrays:
        if name not in _NAMES:
            message = f"a task has no array {name[:NAME]!r}"
            raise Problem(message, str(path), nearest(name[:NAME], _NAMES), DATA)
    for name in _NAMES[:3]:
        if name not in arrays:
            hint = f"save {', '.join(_NAMES[:3])} and, if known, query_y"
            raise Problem(f"the array {name} is missing", str(path), hint, DATA)
    found = {name: stored(arrays, name, path) for name in arrays}
    for name, array in found.items():
        _check(array, name[-1] == "y", wanted)
    total = sum(math.prod(array.shape) * array.dtype.itemsize for array in found.values())
    if total > BYTES:
        message = f"the arrays take {total:,} bytes, more than {BYTES:,}"
        raise Problem(message, str(path), "use fewer rows, or uint8 or float32", DATA)
    return _part("support", found, wanted.rows), _part("query", found, wanted.rows)


def _check(array: Stored, labels: bool, wanted: TaskFormat) -> None:
    """Raises Problem(DATA) unless type and shape suit the model; no data are read yet."""
    targets = wanted.regression
    check_type(array, "names" if labels and not targets else "numbers")
    row = wanted.rows.shape if not labels else (wanted.outputs or 0,) if targets else ()
    flat = labels and row == (1,) and len(array.shape) == 1
    if not array.shape or (array.shape[1:] != row and not flat):
        rows = f"(n{''.join(f', {size}' for size in row)}{'' if row else ','})"
        message = f"the array has the shape {array.shape}, not {rows}"
        raise Problem(message, array.where, "n is the number of rows", DATA)
    if not 1 <= array.shape[0] <= ROWS:
        message = f"the array has {array.shape[0]:,} rows"
        raise Problem(message, array.where, f"use 1 to {ROWS:,} rows", DATA)


def _part(part: str, found: dict[str, Stored], by: Preprocessing) -> Part:
    x, y = found[f"{part}_x"], found.get(f"{part}_y")
    if y is not None and y.shape[0] != x.shape[0]:
        message = f"the array has {y.shape[0]:,} labels for {x.shape[0]:,} rows"
        raise Problem(message, y.where, f"give {part}_x and {part}_y the same number of rows", DATA)
    rows, names = load_rows(x)[:], [f"row {i}" for i in range(x.shape[0])]
    if y is None:
        return Part(rows, None, names, x.at)
    if by.kind == "regression":
        return Part(rows, by.from_units(load_targets(y)), names, y.at)
    values = load_names(y)
    values = values.astype(np.uint8) if values.dtype.kind == "b" else values
    return Part(rows, [str(label) for label in values.tolist()], names, y.at)
