"""Nodes and classes that are too small for a task: named and refused, or named and left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from metadist_cli.core.errors import CONFIG, Problem
from metadist_cli.data.names import listed
from metadist_cli.data.types import Dataset

if TYPE_CHECKING:
    from metadist_cli.partition.held_out import HoldOut
    from metadist_cli.partition.shards import TaskSize

_SIZES = {True: "task.way, task.shot or task.query", False: "task.support or task.query"}
_LEAST = 2  # rows of a local task: one to adapt to, one to be scored on


class LeftOut(NamedTuple):
    """Nodes, or classes, that are too small for a task.

    Attributes:
        what: "node" or "class".
        total: how many there are, with those that are large enough.
        names: of those that are too small.
        have: what each of them has, as "3 rows".
        need: what each needs.
        rows: of all of them together.
    """

    what: str
    total: int
    names: tuple[str, ...]
    have: tuple[str, ...]
    need: str
    rows: int

    @property
    def text(self) -> str:
        """What is too small, what it has and what it needs."""
        kind = {"node": "nodes", "class": "classes"}[self.what]
        each = [f"{name} has {have}" for name, have in zip(self.names, self.have, strict=True)]
        verb = "is" if len(self.names) == 1 else "are"
        return (
            f"{len(self.names):,} of {self.total:,} {kind} {verb} too small: {listed(each)}; a task needs {self.need}"
        )


def small_classes(data: Dataset, task: TaskSize) -> tuple[np.ndarray, list[LeftOut]]:
    """(the classes that episodes are drawn from, those that have too few rows for one, if any).

    Raises:
        Problem: where fewer are large enough than a task has.
    """
    rows = np.bincount(data.label, minlength=len(data.classes))
    rich, poor = np.flatnonzero(rows >= max(1, task.rows)), np.flatnonzero((rows > 0) & (rows < task.rows))
    if not task.episodic or not len(poor):
        return np.flatnonzero(rows), []
    names, have = tuple(data.classes[c] for c in poor), tuple(_count(int(rows[c]), "row") for c in poor)
    left = LeftOut("class", len(rich) + len(poor), names, have, _count(task.rows, "row"), int(rows[poor].sum()))
    if len(rich) < task.classes:
        hint = (
            f"lower task.way to {len(rich)}, or task.shot or task.query"
            if len(rich)
            else "lower task.shot or task.query"
        )
        raise Problem(left.text, "task", hint, CONFIG)
    return rich, [left]


def small_nodes(
    data: Dataset, parts: Sequence[np.ndarray], roles: Sequence[np.ndarray] | None, task: TaskSize, held: HoldOut
) -> list[str]:
    """What each node has, where that is too little for a task; "" where it is enough.

    Args:
        data: the data set.
        parts: the rows of each node.
        roles: of the rows of each node, where rows are held out: 0 train, 1 validation, 2 test.
        task: what a node needs.
        held: what is held out.
    """
    if task.episodic:
        counts = [len(np.unique(data.label[part])) for part in parts]
        return ["" if n >= task.classes else f"{n} class{'es' * (n != 1)}" for n in counts]
    if roles is None:
        return ["" if len(part) >= task.rows else _count(len(part), "row") for part in parts]
    found = []
    for part in roles:
        train, validation, test = np.bincount(part, minlength=3).tolist()
        enough = train >= task.rows and test and (validation or not held.validation)
        also = f", {validation} for validation" if held.validation else ""
        found.append("" if enough else f"{_count(train, 'row')} for training{also} and {test} for testing")
    return found


def needed(task: TaskSize, held: HoldOut) -> str:
    """What `small_nodes` compares with, in words."""
    if task.episodic:
        return f"{task.classes} classes with {task.rows} rows each"
    if held.source != "rows":
        return _count(task.rows, "row")
    also = ", 1 for validation" if held.validation else ""
    return f"{_count(task.rows, 'row')} for training{also} and 1 for testing"


def refusal(left: LeftOut, task: TaskSize, held: HoldOut) -> Problem:
    """The Problem that names nodes which are too small, and the ways on that lead to a run."""
    test = held.test if isinstance(held.test, int) else len(held.test) if isinstance(held.test, list | tuple) else 0
    spare = int(test + held.validation) if held.source == "nodes" else 0
    ways = []
    if left.total - len(left.names) > spare:
        ways.append("leave such nodes out with partition.too_small: drop")
    if task.episodic or task.rows > _LEAST:
        ways.append(f"lower {_SIZES[task.episodic]}")
    if held.source == "rows":
        ways.append("change task.new.test or task.new.validation")
    ways = ways or [f"merge nodes: set partition.nodes to fewer than {left.total:,}"]
    return Problem(left.text, "partition", ", or ".join(ways), CONFIG)


def check_named(held: HoldOut, left: Sequence[LeftOut]) -> None:
    """Raises Problem where task.new.test names something that is too small and therefore left out."""
    for one in left:
        for name, have in zip(one.names, one.have, strict=True):
            if isinstance(held.test, list | tuple) and name in held.test:
                message = f"the {one.what} {name!r} cannot be held out: it has {have}, a task needs {one.need}"
                raise Problem(message, "task.new.test", "name another one, or use smaller tasks", CONFIG)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
