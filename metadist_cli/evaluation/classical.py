"""What a node can do alone without a network: classical methods of scikit-learn, fitted to the support of each task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

Fit = Callable[[np.ndarray, np.ndarray, np.ndarray, int, float, bool], np.ndarray]


class Classical(NamedTuple):
    """A classical method.

    Attributes:
        fit: (x (n, D), y (n,) classes or (n, out) targets, query (m, D), outputs, option, balanced) -> (m, outputs)
            predictions: log probabilities, or values. balanced: classes weigh the same, however few rows they have.
        options: to choose from; the first one where nothing can be chosen.
        text: what it is in a report; {} is replaced by the option.
        raw: whether it makes sense where inputs are codes, such as the characters of a text.
    """

    fit: Fit
    options: Sequence[float]
    text: str
    raw: bool = False


def constant(
    x: np.ndarray, y: np.ndarray, query: np.ndarray, outputs: int, option: float, balanced: bool
) -> np.ndarray:
    """The most frequent class, with the classes' smoothed shares as probabilities."""
    return np.tile(_smoothed(np.bincount(y, minlength=outputs)), (len(query), 1))


def mean(x: np.ndarray, y: np.ndarray, query: np.ndarray, outputs: int, option: float, balanced: bool) -> np.ndarray:
    """The mean of the targets."""
    return np.tile(y.mean(0), (len(query), 1))


def nearest(x: np.ndarray, y: np.ndarray, query: np.ndarray, outputs: int, option: float, balanced: bool) -> np.ndarray:
    """Votes, or the mean, of the `option` nearest rows by Euclidean distance; the nearest decides a tie."""
    from sklearn.neighbors import NearestNeighbors

    count = min(int(option), len(x))
    near = NearestNeighbors(n_neighbors=count).fit(x).kneighbors(query, return_distance=False)
    if y.ndim > 1:
        return y[near].mean(1)
    votes = (y[near][:, :, None] == np.arange(outputs)).sum(1) + 0.5 * (y[near[:, :1]] == np.arange(outputs))
    return _smoothed(votes)


def linear(x: np.ndarray, y: np.ndarray, query: np.ndarray, outputs: int, option: float, balanced: bool) -> np.ndarray:
    """Logistic regression with an L2 penalty of 1 / option, or ridge regression, on standardized features."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression, Ridge

    centre, spread = x.mean(0), x.std(0)
    x, query = ((rows - centre) / np.where(spread > 0, spread, 1) for rows in (x, query))
    if y.ndim > 1:
        return Ridge(alpha=1 / option).fit(x, y).predict(query).reshape(len(query), outputs)
    classes = np.unique(y)
    found = np.zeros((len(query), outputs))
    if len(classes) == 1:
        found[:, classes] = 1.0
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            weight = "balanced" if balanced else None
            model = LogisticRegression(C=option, max_iter=200, class_weight=weight).fit(x, y)
        found[:, classes] = model.predict_proba(query)
    return np.log(np.maximum(found, 1e-6))  # a class without a support row is unlikely, not impossible


def _smoothed(votes: np.ndarray) -> np.ndarray:
    """Log probabilities from counts (..., C), with one row more that is spread over the classes."""
    votes = votes + 1 / votes.shape[-1]
    return np.log(votes / votes.sum(-1, keepdims=True))


_NEIGHBOURS, _PENALTIES = (1, 3, 5, 9), (1.0, 0.01, 0.1, 10.0)
CLASSICAL: dict[str, dict[str, Classical]] = {
    "classification": {
        "constant": Classical(constant, (0.0,), "the most frequent class of the support", raw=True),
        "nearest": Classical(nearest, _NEIGHBOURS, "nearest neighbours in the support, {:g} of them"),
        "linear": Classical(linear, _PENALTIES, "logistic regression on the support, C = {:g}"),
    },
    "regression": {
        "constant": Classical(mean, (0.0,), "the mean of the support", raw=True),
        "nearest": Classical(nearest, _NEIGHBOURS, "mean of the nearest neighbours in the support, {:g} of them"),
        "linear": Classical(linear, _PENALTIES, "ridge regression on the support, alpha = 1/{:g}"),
    },
}
