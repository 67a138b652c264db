"""Standardised features: each column, or channel of a signal, less its mean, over its standard deviation (z-score).

As FLamby does it for its hospitals (J. Ogier du Terrail et al. 2022, FLamby, NeurIPS Datasets and Benchmarks,
https://arxiv.org/abs/2210.04620; code owkin/FLamby, fed_heart_disease/dataset.py): mean and torch.std, which divides by
n - 1, of each centre's own training rows. Where we differ: they add 1e-9 to the deviation, so that a held-back value in
a column that was constant in training becomes some 1e9; here a constant column is only centred. And statistics are
taken in double precision. NaN stands for a missing cell: it has no part in them, and becomes the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from metadist_cli.data.types import Rows

_NORMAL = 1.3489795003921634  # standard deviations between the quartiles of a normal distribution


class Moments(NamedTuple):
    """Of D columns, or of the C channels of signals, float64."""

    mean: np.ndarray  # (D,) or (C, 1)
    deviation: np.ndarray  # the same, of the sample (n - 1); 1 where the column is constant


def moments(parts: Sequence[np.ndarray]) -> Moments:
    """Mean and deviation of the columns of all parts together, (n, D) float32 each; of signals (n, C, L) by channel.

    A function of the parts in their order, bit by bit. Sums of equal single precision numbers are exact in double, so
    the deviation of a constant column is 0 and nothing else.
    """
    over = (0, 2)[: parts[0].ndim - 1]
    there = [~np.isnan(part) for part in parts]
    count = np.sum([cells.sum(over, keepdims=True)[0] for cells in there], axis=0)
    sums = [np.where(c, p, 0).sum(over, dtype=np.float64, keepdims=True)[0] for c, p in zip(there, parts, strict=True)]
    mean = np.sum(sums, axis=0) / np.maximum(count, 1)  # 0 of a column that is all missing
    off = [np.where(c, np.square(p - mean), 0).sum(over, keepdims=True)[0] for c, p in zip(there, parts, strict=True)]
    squares = np.sum(off, axis=0)
    deviation = np.sqrt(squares / np.maximum(count - 1, 1))
    return Moments(mean, np.where(deviation == 0, 1.0, deviation))


def quartiles(parts: Sequence[np.ndarray]) -> Moments:
    """Median and spread of the columns of all parts together, as `moments`, but moved by no single row.

    The spread is the distance between the quartiles over 1.349, which for a normal distribution is the standard
    deviation. A column whose quartiles are equal, such as a rare category, has its standard deviation.
    """
    columns = np.concatenate([np.moveaxis(part, 1, -1).reshape(-1, part.shape[1]) for part in parts])
    plain = moments(parts)
    found = [_quartiles(column[~np.isnan(column)]) for column in columns.T]
    low, middle, high = np.array(found).T.reshape(3, *plain.mean.shape)
    return Moments(middle, np.where(high > low, (high - low) / _NORMAL, plain.deviation))


def _quartiles(values: np.ndarray) -> np.ndarray:
    return np.quantile(values.astype(np.float64), (0.25, 0.5, 0.75)) if len(values) else np.zeros(3)


SHARED = {"train": moments, "robust": quartiles}  # what describes the rows of all training nodes, by `partition.scale`


def standardise(x: np.ndarray, by: Moments, clip: float | None = None) -> np.ndarray:
    """Rows x (n, D) or (n, C, L) in deviations from the mean, float32; 0 where a cell is missing.

    clip: the largest deviation either way; larger ones become this.
    """
    scaled = ((x - by.mean) / by.deviation).astype(np.float32)
    scaled[np.isnan(scaled)] = 0
    return scaled if clip is None else scaled.clip(-clip, clip)


def by_support(support: np.ndarray, x: np.ndarray, clip: float | None = None) -> np.ndarray:
    """Rows x of a task, standardised by the task's support rows alone."""
    return standardise(x, moments([support]), clip)


def fill(x: np.ndarray, by: Moments) -> np.ndarray:
    """Rows x as they are, but the mean where a cell is missing."""
    return np.where(np.isnan(x), by.mean, x).astype(np.float32)


def gaps(x: Rows) -> bool:
    """Whether a cell is missing."""
    return isinstance(x, np.ndarray) and x.dtype == np.float32 and bool(np.isnan(x.min()))
