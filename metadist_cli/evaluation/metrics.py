"""What the answers to some rows are worth, by name, and where that means nothing.

outputs: (n, C) of a model before softmax, y: (n,) class numbers; in a regression (n, out) both. The figures are those
of scikit-learn's functions (tests/evaluation/test_metrics.py), which take 0.2 to 5 ms for a task's few rows; there are
many tasks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

BINS = 15  # of calibration_error, as in Guo et al. 2017


class Metric(NamedTuple):
    """kind: of the data. value(outputs, y): in float64, of finite outputs, rows and classes enough.

    by_class: it depends on which class is which, so rows of tasks with other classes cannot be scored together.
    least: rows below which it means nothing. mixed: it does so too where all rows are of one class (or target).
    """

    kind: str
    value: Callable[[np.ndarray, np.ndarray], float]
    higher_is_better: bool = False
    by_class: bool = False
    least: int = 1
    mixed: bool = False


def score(name: str, outputs: np.ndarray, y: np.ndarray) -> float | None:
    """One score of some rows: None where it is not defined for these rows, NaN where a model's outputs diverged."""
    rule = METRICS[name]
    if len(y) < rule.least or (rule.mixed and not (y != y[0]).any()):
        return None
    return float(rule.value(outputs.astype(np.float64), y)) if np.isfinite(outputs).all() else float("nan")


def probabilities(outputs: np.ndarray) -> np.ndarray:
    """Softmax, (n, C)."""
    powers = np.exp(outputs - outputs.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def _accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    return (outputs.argmax(1) == y).mean()


def _balanced_accuracy(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean recall of the classes that are there."""
    right, true, _ = _counts(outputs, y)
    return (right[true > 0] / true[true > 0]).mean()


def _macro_f1(outputs: np.ndarray, y: np.ndarray) -> float:
    """Mean F1 of the classes that are there or predicted."""
    right, true, guessed = _counts(outputs, y)
    both = true + guessed
    return (2 * right[both > 0] / both[both > 0]).mean()


def _counts(outputs: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    """Rows of each class that are predicted rightly, that are there, and that are predicted."""
    guess = outputs.argmax(1)
    return tuple(np.bincount(rows, minlength=outputs.shape[1]) for rows in (y[guess == y], y, guess))


def _auc(outputs: np.ndarray, y: np.ndarray) -> float:
    """Area under the ROC curve: of two classes the second's; of more the mean of each that is there against the rest.

    How often a row of the class has a higher chance of it than one of the rest, ties counting half.
    """
    chance, areas = probabilities(outputs), []
    for c in (1,) if outputs.shape[1] == 2 else np.unique(y):
        mine, rest = chance[y == c, c], np.sort(chance[y != c, c])
        below = np.searchsorted(rest, mine, "left") + np.searchsorted(rest, mine, "right")
        areas.append(below.mean() / (2 * len(rest)))
    return float(np.mean(areas))


def _log_loss(outputs: np.ndarray, y: np.ndarray) -> float:
    shifted = outputs - outputs.max(1, keepdims=True)
    return (np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(y)), y]).mean()


def _brier(outputs: np.ndarray, y: np.ndarray) -> float:
    """Squared distance of the probabilities from the truth (0 to 2, Brier 1950); half of it for two classes."""
    count = outputs.shape[1]
    return ((probabilities(outputs) - np.eye(count)[y]) ** 2).sum(1).mean() / (2 if count == 2 else 1)


def _calibration_error(outputs: np.ndarray, y: np.ndarray) -> float:
    """Expected calibration error of the predicted class in 15 bins of equal width (Guo et al. 2017, arXiv:1706.04599).

    The gap between accuracy and mean confidence in each bin (a, b], weighted by its rows.
    """
    confidence = probabilities(outputs).max(1)
    at = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(np.int64)
    gap = (outputs.argmax(1) == y) - confidence
    return np.abs(np.bincount(at, weights=gap)).sum() / len(y)


def _mse(outputs: np.ndarray, y: np.ndarray) -> float:
    return ((outputs - y) ** 2).mean()


def _rmse(outputs: np.ndarray, y: np.ndarray) -> float:
    return _mse(outputs, y) ** 0.5


def _mae(outputs: np.ndarray, y: np.ndarray) -> float:
    return np.abs(outputs - y).mean()


def _r2(outputs: np.ndarray, y: np.ndarray) -> float:
    """The part of the targets' variance that is explained, over all outputs."""
    return 1 - ((outputs - y) ** 2).sum() / ((y - y.mean(0, dtype=np.float64)) ** 2).sum()


METRICS: dict[str, Metric] = {
    "accuracy": Metric("classification", _accuracy, True),
    "balanced_accuracy": Metric("classification", _balanced_accuracy, True, by_class=True, mixed=True),
    "macro_f1": Metric("classification", _macro_f1, True, by_class=True, mixed=True),
    "auc": Metric("classification", _auc, True, by_class=True, mixed=True),
    "log_loss": Metric("classification", _log_loss),
    "brier": Metric("classification", _brier),
    # fewer than 10 rows a bin: what one finds is mostly the noise of the bins
    "calibration_error": Metric("classification", _calibration_error, least=10 * BINS),
    "mse": Metric("regression", _mse),
    "rmse": Metric("regression", _rmse),
    "mae": Metric("regression", _mae),
    "r2": Metric("regression", _r2, True, mixed=True),
}
