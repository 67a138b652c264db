"""The metrics by name. To add one, write its function here under `@metric`; reports and checks learn the rest from it.

Values equal scikit-learn's functions (tests/evaluation/test_metrics.py), which take 0.2 to 5 ms for a task's few rows;
there are many tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

BINS = 15  # of calibration_error, as in Guo et al. 2017
Function = Callable[[np.ndarray, np.ndarray], float]


class Metric(NamedTuple):
    """A metric and what reports need to know about it.

    Attributes:
        kind: "classification" or "regression".
        value: (outputs, y) -> the value, in float64, for finite outputs on rows where the metric is defined. outputs:
            (n, C) before softmax with y (n,) class numbers; for a regression both are (n, out).
        title: its name in running text, e.g. "mean squared error".
        higher_is_better: otherwise lower is.
        percent: shown in percent.
        by_class: True where the value depends on which class is which, so that rows of tasks with different classes
            cannot be scored together.
        min_rows: undefined on fewer rows.
        varied: undefined where all rows have the same class (or target).
    """

    kind: str
    value: Function
    title: str
    higher_is_better: bool = False
    percent: bool = False
    by_class: bool = False
    min_rows: int = 1
    varied: bool = False

    @property
    def needs(self) -> str:
        """What rows it is defined on, "" for any."""
        if self.varied:
            return "two classes" if self.kind == "classification" else "two different targets"
        return f"{self.min_rows} rows" if self.min_rows > 1 else ""


METRICS: dict[str, Metric] = {}


def metric(kind: str, title: str = "", **properties: Any) -> Callable[[Function], Function]:
    """Register the decorated function as a metric under its own name. Arguments: as the fields of `Metric`.

    Example:

        @metric("classification", higher_is_better=True, percent=True)
        def top2_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
            return (np.argsort(-outputs, 1)[:, :2] == y[:, None]).any(1).mean()
    """

    def register(function: Function) -> Function:
        name = function.__name__
        METRICS[name] = Metric(kind, function, title or name.replace("_", " "), **properties)
        return function

    return register


def compute(name: str, outputs: np.ndarray, y: np.ndarray) -> float | None:
    """One metric of n rows.

    Args:
        name: in METRICS.
        outputs: (n, C) a model's outputs before softmax; for a regression (n, out).
        y: (n,) class numbers; for a regression (n, out).

    Returns:
        The value; None where the metric is undefined for these rows; NaN where the outputs are not finite.
    """
    rule = METRICS[name]
    if len(y) < rule.min_rows or (rule.varied and not (y != y[0]).any()):
        return None
    return float(rule.value(outputs.astype(np.float64), y)) if np.isfinite(outputs).all() else float("nan")


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Softmax, (n, C)."""
    powers = np.exp(outputs - outputs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _counts(outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """For each class, its correctly predicted rows, its rows, and the rows predicted as it: (C,) each."""
    guess = outputs.argmax(1)
    return tuple(np.bincount(rows, minlength=outputs.shape[1]) for rows in (y[guess == y], y, guess))


@metric("classification", higher_is_better=True, percent=True)
def accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """Share of correct predictions."""
    return (outputs.argmax(1) == y).mean()


@metric("classification", higher_is_better=True, percent=True, by_class=True, varied=True)
def balanced_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean recall over the classes present."""
    right, true, _ = _counts(outputs, y)
    return (right[true > 0] / true[true > 0]).mean()


@metric("classification", "macro F1", higher_is_better=True, by_class=True, varied=True)
def macro_f1(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean F1 over the classes present or predicted."""
    right, true, guessed = _counts(outputs, y)
    both = true + guessed
    return (2 * right[both > 0] / both[both > 0]).mean()


@metric("classification", "area under the ROC curve", higher_is_better=True, by_class=True, varied=True)
def auc(outputs: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve: of the second of two classes, or the mean of each class present against the rest.

    The probability that a row of the class ranks above one of the rest, ties counting half.
    """
    ranked, areas = probabilities(outputs), []
    for c in (1,) if outputs.shape[1] == 2 else np.unique(y):
        own, rest = ranked[y == c, c], np.sort(ranked[y != c, c])
        below = np.searchsorted(rest, own, "left") + np.searchsorted(rest, own, "right")
        areas.append(below.mean() / (2 * len(rest)))
    return float(np.mean(areas))


@metric("classification")
def log_loss(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean negative log probability of the true class, in nats."""
    shifted = outputs - outputs.max(1, keepdims=True)
    return (np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]).mean()


@metric("classification", "Brier score")
def brier(outputs: np.ndarray, y: np.ndarray) -> float:
    """Squared distance of the probabilities from the truth (0 to 2, Brier 1950); for two classes half of it."""
    count = outputs.shape[1]
    return ((probabilities(outputs) - np.eye(count)[y]) ** 2).sum(1).mean() / (2 if count == 2 else 1)


@metric("classification", min_rows=10 * BINS)  # with fewer than 10 rows per bin it measures mostly noise
def calibration_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """Expected calibration error of the predicted class in 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    The gap between accuracy and mean confidence in each bin (a, b], weighted by its rows.
    """
    confidence = probabilities(outputs).max(1)
    at = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64)
    gap = (outputs.argmax(1) == y) - confidence
    return np.abs(np.bincount(at, weights=gap)).sum() / len(y)


@metric("regression", "mean squared error")
def mse(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean squared error."""
    return ((outputs - y) ** 2).mean()


@metric("regression", "root mean squared error")
def rmse(outputs: np.ndarray, y: np.ndarray) -> float:
    """Root mean squared error, in the target's unit."""
    return mse(outputs, y) ** 0.5


@metric("regression", "mean absolute error")
def mae(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean absolute error, in the target's unit."""
    return np.abs(outputs - y).mean()


@metric("regression", "R squared", higher_is_better=True, varied=True)
def r2(outputs: np.ndarray, y: np.ndarray) -> float:
    """Share of the targets' variance that is explained, over all outputs."""
    return 1 - ((outputs - y) ** 2).sum() / ((y - y.mean(0, dtype=np.float64)) ** 2).sum()
