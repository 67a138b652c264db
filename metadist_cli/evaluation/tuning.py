"""Choose what a method needs by cross-validation inside the support, which is all that a new node can choose by."""

from __future__ import annotations

import numpy as np

from metadist_cli.tasks.episodes import TaskIndices

FOLDS = 5


def folds(tasks: TaskIndices, labels: np.ndarray) -> list[TaskIndices]:
    """The support of every task, split into a part to adapt to and a part to score, in several ways.

    Args:
        tasks: T tasks of one node and one step, (1, 1, T, n) support rows.
        labels: (T, n) the class of each support row, by which the parts are stratified; for a regression all alike.

    Returns:
        FOLDS ways, fewer where the smallest class of all supports has fewer rows, each with T tasks whose query is a
        part of the support. Classes with a single row stay where they are adapted to. [] where no class has two rows.
    """
    support = tasks.support[0, 0]
    count = support.shape[1]
    order = np.argsort(labels, axis=1, kind="stable")
    most = max(int(np.unique(row, return_counts=True)[1].max()) for row in labels)
    ways = min(FOLDS, most, count)
    if ways < 2 or count < 4:
        return []
    size = count // ways
    found = []
    for way in range(ways):
        at = order[:, way : way + size * ways : ways]  # every `ways`-th row, class by class
        rest = np.array([np.setdiff1d(np.arange(count), row) for row in at])
        kept, judged = (np.take_along_axis(support, rows, axis=1)[None, None] for rows in (rest, at))
        pair = None if tasks.labels is None else (tasks.labels[0][rest[0]], tasks.labels[0][at[0]])
        found.append(tasks._replace(support=kept, query=judged, labels=pair))
    return found


def best(scores: np.ndarray, higher: bool) -> tuple[int, ...]:
    """The place of the best mean score; the first of equal ones. A mean that is not finite is the worst.

    Args:
        scores: (candidates ..., E) scores of E tasks for every candidate.
        higher: whether a higher score is better.
    """
    means = scores.mean(-1) * (1 if higher else -1)
    return tuple(int(i) for i in np.unravel_index(np.where(np.isfinite(means), means, -np.inf).argmax(), means.shape))
