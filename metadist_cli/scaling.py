"""Standardised features: each column less its mean, over its standard deviation (z-score).

As FLamby does it for its hospitals (J. Ogier du Terrail et al. 2022, FLamby, NeurIPS Datasets and Benchmarks,
https://arxiv.org/abs/2210.04620; code owkin/FLamby, fed_heart_disease/dataset.py): mean and torch.std, which divides by
n - 1, of each centre's own training rows. Where we differ: they add 1e-9 to the deviation, so that a held-back value in
a column that was constant in training becomes some 1e9; here a constant column is only centred. And statistics are
taken in double precision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Moments(NamedTuple):
    """Of D columns, float64."""

    mean: np.ndarray  # (D,)
    deviation: np.ndarray  # (D,) of the sample (n - 1); 1 where the column is constant


def moments(parts: Sequence[np.ndarray]) -> Moments:
    """Mean and deviation of the columns of all parts together, (n, D) float32 each.

    A function of the parts in their order, bit by bit. Sums of equal single precision numbers are exact in double, so
    the deviation of a constant column is 0 and nothing else.
    """
    count = sum(map(len, parts))
    mean = np.sum([part.sum(0, dtype=np.float64) for part in parts], axis=0) / count
    squares = np.sum([np.square(part - mean).sum(0) for part in parts], axis=0)
    deviation = np.sqrt(squares / max(count - 1, 1))
    return Moments(mean, np.where(deviation == 0, 1.0, deviation))


def standardise(x: np.ndarray, by: Moments) -> np.ndarray:
    """Rows x (n, D) in deviations from the mean, float32."""
    return ((x - by.mean) / by.deviation).astype(np.float32)
