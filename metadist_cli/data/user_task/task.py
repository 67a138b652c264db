"""A new task of the user's own: a folder of images by class, or an .npz or .csv file. Everything in it is untrusted.

Labels are names: a whole number in a file stands for the class that is written so. Arrays and tables are in the units
in which the data set stores its rows, 0..divide; images are brought there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metadist_cli.core.errors import DATA, Problem
from metadist_cli.data.names import Part, natural, nearest, unfit
from metadist_cli.data.user_task.csv_file import read_csv
from metadist_cli.data.user_task.image_folder import read_folder
from metadist_cli.data.user_task.npz_file import read_npz


class OwnTask(NamedTuple):
    """A task to adapt to: n support and m query rows; the model sees x / divide."""

    support_x: np.ndarray  # (n, *shape) uint8 or float32
    support_y: np.ndarray  # (n,) int64 indices into classes, or (n, out) float32 targets
    query_x: np.ndarray  # (m, *shape), of the same type
    query_y: np.ndarray | None  # None where the query rows carry no label
    classes: tuple[str, ...]  # () for regression
    query_names: tuple[str, ...]  # m of them: file, line of a table, or row of an array


def read_task(
    path: Path,
    kind: str,
    shape: tuple[int, ...],
    divide: float,
    classes: tuple[str, ...] | None,
    outputs: int | None,
    shot: int,
    invert: bool,
) -> OwnTask:
    """The task in a folder or file, for a model with `outputs` outputs on rows of `shape` that are stored as 0..divide.

    kind: classification or regression. classes: those of a local task, or None where the task brings its own (then just
    `outputs` of them; None: as many as it likes, two at least). shot: support images a class of a folder without
    support/ and query/. invert: dark becomes bright in images, so that ink is bright. Raises Problem that names the
    file, the place in it and the remedy.
    """
    path = Path(os.path.expanduser(path))
    if os.path.isdir(path):
        if kind == "regression":
            hint = "write the task as an .npz or .csv file"
            raise Problem("a folder of images has classes, this model predicts numbers", str(path), hint, DATA)
        support, query = read_folder(path, shape, divide, shot, invert)
    elif not os.path.exists(path):
        raise Problem("there is no such file or folder", str(path), "check the path after --task", DATA)
    elif path.suffix.lower() in (".npz", ".csv"):
        read = read_npz if path.suffix.lower() == ".npz" else read_csv
        support, query = read(path, kind, shape, outputs or 0)  # 0: of a regression alone it must be known
        _check_range(path, support, query, divide)
    else:
        hint = "give a folder of images by class, or an .npz or .csv file"
        raise Problem(f"a task cannot be read from a {path.suffix or 'nameless'} file", str(path), hint, DATA)
    same = support.x.dtype == query.x.dtype
    x, query_x = (part.x if same else part.x.astype(np.float32) for part in (support, query))
    names = tuple(query.names)
    if kind == "regression":
        assert isinstance(support.y, np.ndarray)
        assert query.y is None or isinstance(query.y, np.ndarray)
        return OwnTask(x, support.y, query_x, query.y, (), names)
    if classes is None:
        classes = _own_classes(path, support, outputs)
    y, query_y = _indices(support, classes), None if query.y is None else _indices(query, classes)
    return OwnTask(x, y, query_x, query_y, classes, names)


def _check_range(path: Path, support: Part, query: Part, divide: float) -> None:
    """Raises Problem where pixels are not 0..divide: most often they are 0..1, and the model would see black."""
    if divide <= 1:
        return
    low, high = min(support.x.min(), query.x.min()), max(support.x.max(), query.x.max())
    if low < 0 or not 1 < high <= divide:
        message = f"the values go from {low:g} to {high:g}, those of this data set from 0 to {divide:g}"
        hint = f"multiply them by {divide:g}" if low >= 0 and high <= 1 else "scale them to that range"
        raise Problem(message, str(path), hint, DATA)


def _own_classes(path: Path, support: Part, outputs: int | None) -> tuple[str, ...]:
    found = dict.fromkeys(_labels(support))
    if outputs is None and len(found) < 2:
        raise Problem("the task has one class: there is nothing to tell apart", str(path), "add another class", DATA)
    if outputs is not None and len(found) != outputs:
        some = ", ".join(name[:40] for name in list(found)[:8]) + (" ..." if len(found) > 8 else "")
        message = f"the task has {len(found):,} classes ({some}), the model tells just {outputs} apart"
        less, gap = len(found) < outputs, abs(len(found) - outputs)
        hint = f"{'add' if less else 'leave out'} {gap:,}, or train a model with task.way: {len(found)}"
        raise Problem(f"{message}: its last layer has {outputs} outputs", str(path), hint, DATA)
    return tuple(sorted(found, key=natural))


def _indices(part: Part, classes: tuple[str, ...]) -> np.ndarray:
    """(n,) int64 places of the labels among the classes."""
    index, out = {name: i for i, name in enumerate(classes)}, []
    for row, label in enumerate(_labels(part)):
        if label not in index:
            raise Problem(f"{label!r} is no class of this task", part.place(row), nearest(label, classes), DATA)
        out.append(index[label])
    return np.array(out, dtype=np.int64)


def _labels(part: Part) -> Sequence[str]:
    assert isinstance(part.y, list)
    for label in dict.fromkeys(part.y):
        if reason := unfit(label):
            raise Problem(f"the label {reason}", part.place(part.y.index(label)), "give it another one", DATA)
    return part.y
