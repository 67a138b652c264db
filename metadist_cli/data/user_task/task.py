"""A new task of the user's own, as images by class, arrays or a table. Everything in it is untrusted.

It is read by the readers of the data sets. Labels are names: a whole number in a file is the class of that name. Tables
have the data set's columns in its units; arrays are in the units in which it stores its rows, 0..divide; images are
brought there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import natural, nearest, unfit
from metadist_cli.data.new_rows import check_range
from metadist_cli.data.readers.file_kinds import given
from metadist_cli.data.user_task.arrays import read_arrays
from metadist_cli.data.user_task.images import read_images
from metadist_cli.data.user_task.table import read_table
from metadist_cli.data.user_task.types import Part, TaskFormat

_USE = "use a folder of images by class, or an .npz or .csv file"


class UserTask(NamedTuple):
    """A task to adapt to: n support and m query rows, as the data set stores them."""

    support_x: np.ndarray  # (n, *shape) uint8 or float32
    support_y: np.ndarray  # (n,) int64 indices into classes, or (n, out) float32 targets
    query_x: np.ndarray  # (m, *shape), of the same type
    query_y: np.ndarray | None  # None where the query rows are not labelled
    classes: tuple[str, ...]  # () for regression
    query_names: tuple[str, ...]  # m of them: image file, line of a table, or row of an array


def read_task(path: Path, wanted: TaskFormat) -> UserTask:
    """Read a task.

    Args:
        path: a folder or .zip archive of images by class; an .npz or .safetensors file or a folder of .npy files; or a
            table.
        wanted: what the model and its data set ask of the task.

    Returns:
        The task, its labels being indices into the classes of a local task, or else into its own in natural order.

    Raises:
        Problem(DATA or SYSTEM): names the file, the place in it, and what to do.
    """
    path, kind = given(path, _USE)
    if kind == "arrays":
        support, query = read_arrays(path, wanted)
    elif kind == "table":
        support, query = read_table(path, wanted)
    elif kind == "image":
        raise Problem("a single image is no task", str(path), _USE, DATA)
    else:
        if wanted.regression:
            message = "a folder of images has classes, but this model predicts numbers"
            raise Problem(message, str(path), "write the task as an .npz or .csv file", DATA)
        if not wanted.brings_classes and all("/" in name for name in wanted.rows.classes):
            message = f"folders cannot have the names of this data set's classes, such as {wanted.rows.classes[0]!r}"
            raise Problem(message, str(path), "write the task as an .npz file, with these names in support_y", DATA)
        support, query = read_images(path, wanted)
    if kind != "folder":
        _check_range(path, support, query, wanted)
    same = support.x.dtype == query.x.dtype
    x, query_x = (part.x if same else part.x.astype(np.float32) for part in (support, query))
    names = tuple(query.names)
    if wanted.regression:
        assert isinstance(support.y, np.ndarray)
        assert query.y is None or isinstance(query.y, np.ndarray)
        return UserTask(x, support.y, query_x, query.y, (), names)
    classes = _own_classes(path, support, wanted.outputs) if wanted.brings_classes else wanted.rows.classes
    y, query_y = _indices(support, classes), None if query.y is None else _indices(query, classes)
    return UserTask(x, y, query_x, query_y, classes, names)


def _check_range(path: Path, support: Part, query: Part, wanted: TaskFormat) -> None:
    ends = [end for part in (support, query) for end in (part.x.min(), part.x.max())]
    check_range(np.array(ends), wanted.rows, str(path))


def _own_classes(path: Path, support: Part, outputs: int | None) -> tuple[str, ...]:
    """The classes of the support, in natural order. outputs: how many there must be; None: two at least."""
    found = dict.fromkeys(_labels(support))
    if outputs is None and len(found) < 2:
        raise Problem("the task has a single class, so nothing to classify", str(path), "add another class", DATA)
    if outputs is not None and len(found) != outputs:
        some = ", ".join(name[:40] for name in list(found)[:8]) + (" ..." if len(found) > 8 else "")
        classes = f"{len(found):,} class{'es' if len(found) > 1 else ''}"
        message = f"the task has {classes} ({some}), but the model's last layer has {outputs} outputs"
        less, gap = len(found) < outputs, abs(len(found) - outputs)
        hint = f"{'add' if less else 'leave out'} {gap:,}, or train a model with task.way: {len(found)}"
        raise Problem(message, str(path), hint, DATA)
    return tuple(sorted(found, key=natural))


def _indices(part: Part, classes: tuple[str, ...]) -> np.ndarray:
    """(n,) int64 places of the labels among the classes."""
    index, out = {name: i for i, name in enumerate(classes)}, []
    for row, label in enumerate(_labels(part)):
        if label not in index:
            raise Problem(f"{label!r} is not a class of this task", part.at(row), nearest(label, classes), DATA)
        out.append(index[label])
    return np.array(out, dtype=np.int64)


def _labels(part: Part) -> Sequence[str]:
    assert isinstance(part.y, list)
    for label in dict.fromkeys(part.y):
        if reason := unfit(label):
            raise Problem(f"the label {reason}", part.at(part.y.index(label)), "choose another label", DATA)
    return part.y
