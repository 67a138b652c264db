"""What the readers of a user's own task are given, and what they return."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from metadist_cli.data.preprocessing import Preprocessing

ROWS = 1_000_000  # rows of the support or the query
BYTES = 1 << 30  # of all arrays of a task
PARTS = ("support", "query")


class TaskFormat(NamedTuple):
    """What the model and its data set ask of a task."""

    rows: Preprocessing
    outputs: int | None  # of the model; None where its last layer is solved and takes any number of classes
    brings_classes: bool = False  # whether a task has classes of its own, rather than the data set's
    shot: int = 1  # support pictures of each class, in a folder without support/ and query/

    @property
    def regression(self) -> bool:
        return self.rows.kind == "regression"


class Part(NamedTuple):
    """The support or the query of a task as the user wrote it, n rows.

    x: (n, *shape) uint8 or float32. y: n class names, or (n, out) float32 targets, or None where the rows are not
    labelled. names: n of them, for the list of predictions. at: where the label of row i is, for messages.
    """

    x: np.ndarray
    y: list[str] | np.ndarray | None
    names: Sequence[str]
    at: Callable[[int], str]
