"""What the tasks' scores come to: means, intervals, and paired differences from the main model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from metadist_cli.evaluation import metrics
from metadist_cli.evaluation.intervals import Sources, over_sources, over_tasks


def summary(values: np.ndarray, rows: np.ndarray, sources: Sources) -> dict[str, float | int | None]:
    """Summarise the scores of E tasks.

    Args:
        values: (E,) one score per task.
        rows: (E,) query rows of each task.
        sources: where the tasks come from.

    Returns:
        "mean" over tasks and "over_rows", weighted by query rows: None where any value is not finite, since those are
        never dropped silently. "ci95": half width of the mean's 95% interval for other nodes and classes (see
        `over_sources`); "ci95_tasks": for further tasks from the same ones. "median" of the finite values,
        "non_finite": their complement's count, "n": E.
    """
    n = len(values)
    good = values[np.isfinite(values)]
    whole = len(good) == n and n > 0
    return {
        "mean": float(good.mean()) if whole else None,
        "over_rows": float(np.average(good, weights=rows)) if whole else None,
        "ci95": over_sources(good, sources) if whole else None,
        "ci95_tasks": over_tasks(good) if whole else None,
        "median": float(np.median(good)) if len(good) else None,
        "non_finite": n - len(good),
        "n": n,
    }


class MetricValues(NamedTuple):
    """One metric of one method on new tasks.

    Attributes:
        values: (E,) of each task on which it is defined.
        rows: (E,) query rows of these tasks.
        sources: where they come from.
        over_rows: on the rows of all tasks together; None where undefined, and where no task has both classes, since
            only differences between the tasks are left then.
        undefined: number of tasks on which it is undefined.
    """

    values: np.ndarray
    rows: np.ndarray
    sources: Sources
    over_rows: float | None
    undefined: int = 0


def metric_per_task(
    name: str, answers: Sequence[tuple[np.ndarray, np.ndarray]], sources: Sources, alike: bool
) -> MetricValues:
    """Compute a metric on each of E tasks.

    Args:
        name: in METRICS.
        answers: (outputs (Q, C), y (Q,)) of each task.
        sources: where the tasks come from.
        alike: whether all tasks number the same classes alike; without it metrics by class have no `over_rows`.
    """
    values = [metrics.compute(name, *answer) for answer in answers]
    kept = [i for i, value in enumerate(values) if value is not None]
    found = np.array([values[i] for i in kept], dtype=np.float64)
    rows = np.array([len(answers[i][1]) for i in kept])
    lost = len(values) - len(kept)
    pooled = metric_over_rows(name, answers, alike) if kept or not metrics.METRICS[name].varied else None
    those = sources.take(np.array(kept, dtype=np.int64)) if lost else sources
    return MetricValues(found, rows, those, pooled, lost)


def metric_over_rows(name: str, answers: Sequence[tuple[np.ndarray, np.ndarray]], alike: bool) -> float | None:
    """A metric on the rows of all tasks together; None where it is undefined or the outputs are not finite."""
    if not answers or (metrics.METRICS[name].by_class and not alike):
        return None
    outputs, y = (np.concatenate(column) for column in zip(*answers, strict=True))
    value = metrics.compute(name, outputs, y)
    return value if value is not None and math.isfinite(value) else None


def with_difference(mine: MetricValues, main: MetricValues | None) -> dict[str, Any]:
    """Summarise a metric and its paired difference to the adapted main model's on the same tasks.

    Args:
        mine: the method's values.
        main: the adapted main model's; None where mine are those.

    Returns:
        `summary` of mine, with "difference": `summary` of mine - main, or None.
    """
    difference = None
    if main is not None:
        with np.errstate(invalid="ignore"):  # inf - inf counts as non-finite
            gap = mine.values - main.values
        difference = summary(gap, mine.rows, mine.sources)
        difference["over_rows"] = None
        if mine.over_rows is not None and main.over_rows is not None:
            difference["over_rows"] = mine.over_rows - main.over_rows
    return summary(mine.values, mine.rows, mine.sources) | {"over_rows": mine.over_rows, "difference": difference}
