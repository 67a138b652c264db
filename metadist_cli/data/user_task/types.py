"""What the readers of a user's own task are given, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

ROWS = 1_000_000  # rows of the support or the query
BYTES = 1 << 30  # of all arrays of a task
PARTS = ("support", "query")


class TaskFormat(NamedTuple):
    """What the model and its data set ask of a task."""

    kind: str  # "classification" | "regression"
    shape: tuple[int, ...]  # of a row
    divide: float  # rows are stored as 0..divide where this is above 1
    classes: tuple[str, ...] | None  # of a local task; None where a task brings its own
    outputs: int | None  # of the model; None where its last layer is solved and takes any number of classes
    shot: int = 1  # support pictures of each class, in a folder without support/ and query/
    invert: bool = False  # whether dark pixels of a picture become bright, so that ink is bright
    names: tuple[str, ...] = ()  # of the features, in their order, where the data set names each one


class Part(NamedTuple):
    """The support or the query of a task as the user wrote it, n rows.

    x: (n, *shape) uint8 or float32. y: n class names, or (n, out) float32 targets, or None where the rows are not
    labelled. names: n of them, for the list of predictions. at: where the label of row i is, for messages.
    """

    x: np.ndarray
    y: list[str] | np.ndarray | None
    names: Sequence[str]
    at: Callable[[int], str]
