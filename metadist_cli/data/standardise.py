"""Standardised features: each column, or channel of a signal, less its mean, over its standard deviation (z-score).

As FLamby does it for its hospitals (J. Ogier du Terrail et al. 2022, FLamby, NeurIPS Datasets and Benchmarks,
https://arxiv.org/abs/2210.04620; code owkin/FLamby, fed_heart_disease/dataset.py): mean and torch.std, which divides by
n - 1, of each centre's own training rows. Where we differ: they add 1e-9 to the deviation, so that a held-back value in
a column that was constant in training becomes some 1e9; here a constant column is only centred. And statistics are
taken in double precision. NaN stands for a missing cell: it has no part in them, and becomes the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metadist_cli.data.types import Rows


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


def standardise(x: np.ndarray, by: Moments) -> np.ndarray:
    """Rows x (n, D) or (n, C, L) in deviations from the mean, float32; 0 where a cell is missing."""
    scaled = ((x - by.mean) / by.deviation).astype(np.float32)
    scaled[np.isnan(scaled)] = 0
    return scaled


def fill(x: np.ndarray, by: Moments) -> np.ndarray:
    """Rows x as they are, but the mean where a cell is missing."""
    return np.where(np.isnan(x), by.mean, x).astype(np.float32)


def gaps(x: Rows) -> bool:
    """Whether a cell is missing."""
    return isinstance(x, np.ndarray) and x.dtype == np.float32 and bool(np.isnan(x.min()))
